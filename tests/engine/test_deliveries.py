"""Deliveries to drivers: signed, retried, listed, sent again; a dead endpoint is nobody else's."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete
from sqlmodel import col
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client

from engine.activities.deliveries import DeliveryActivities
from engine.resources import driver_webhook_secrets
from engine.store import outbox
from engine.store.outbox import OutboxItem
from sandbox.ports import free_ports
from tests.conftest import new_database
from tests.engine.conftest import RunningEngine, one_database, run_engine
from tests.servers import eventually, serve

VOTE = "troublesome.fragile"
DELIVERIES = "/api/internal/deliveries"
ENDPOINTS = "/api/internal/endpoints"


class Receiver:
    """A driver's endpoint that answers as the test says."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.seconds = 0.0
        self.requests: list[tuple[float, dict[str, str], bytes]] = []
        self.under_way = 0
        self.most_under_way = 0

    async def take(self, request: Request) -> Response:
        body = await request.body()
        # Decided now: a test may turn to the next answer as soon as it sees the request.
        answer = Response(status_code=self.status, headers=self.headers)
        self.requests.append((time.monotonic(), dict(request.headers), body))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(self.seconds)
        self.under_way -= 1
        return answer


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    taken = Receiver()
    async with serve(Starlette(routes=[Route("/{name:path}", taken.take, methods=["POST"])])) as u:
        taken.url = u
        yield taken


async def ended_vote(running: RunningEngine, callback_url: str, community: str = "") -> str:
    """Start a vote and close it; gives the community, whose driver receives it."""
    community = community or await running.community({"name": "troublesome", "config": {}})
    started = await running.start(community, VOTE, callback_url=callback_url)
    assert (await running.http.delete(started.headers["location"])).status_code == 200
    return community


async def only_delivery(running: RunningEngine, community: str, status: str) -> dict[str, Any]:
    async def find() -> Any:
        page = await running.http.get(DELIVERIES, params={"community": community, "status": status})
        return page.json()["deliveries"]

    found = await eventually(find)
    assert len(found) == 1
    delivery: dict[str, Any] = found[0]
    return delivery


async def test_a_delivery_is_listed_with_its_tries(running: RunningEngine) -> None:
    async with receiver() as driver:
        driver.status = 500
        community = await ended_vote(running, f"{driver.url}/out/1")
        await eventually(lambda: len(driver.requests) >= 2)
        driver.status = 204
        delivery = await only_delivery(running, community, "delivered")
        assert delivery["attempts"] == len(driver.requests)
        assert (delivery["last_status"], delivery["last_error"]) == (204, None)
        assert (delivery["position"], delivery["type"]) == (1, "process")
        assert {h["webhook-id"] for _, h, _ in driver.requests} == {delivery["id"]}
        assert driver.requests[0][1]["metagov-position"] == "1"
        assert driver.requests[0][1]["metagov-community"] == community
        whole = (await running.http.get(f"{DELIVERIES}/{delivery['id']}")).json()
        assert whole["body"]["status"] == "completed"


@one_database
async def test_retry_after_is_honoured(running: RunningEngine) -> None:
    async with receiver() as driver:
        driver.status, driver.headers = 503, {"Retry-After": "2"}
        await ended_vote(running, driver.url)
        await eventually(lambda: len(driver.requests) == 1)
        driver.status = 200
        await eventually(lambda: len(driver.requests) == 2)
        assert driver.requests[1][0] - driver.requests[0][0] >= 1.9


async def test_redirects_are_not_followed(running: RunningEngine) -> None:
    async with receiver() as driver, receiver() as elsewhere:
        driver.status, driver.headers = 307, {"Location": f"{elsewhere.url}/x"}
        await ended_vote(running, driver.url)
        await eventually(lambda: len(driver.requests) >= 2)
        driver.status = 200
        await eventually(lambda: driver.requests[-1][0] and driver.under_way == 0)
        assert not elsewhere.requests


async def test_410_disables_the_address_until_it_is_enabled(running: RunningEngine) -> None:
    async with receiver() as driver:
        driver.status = 410
        address = f"{driver.url}/gone"
        community = await ended_vote(running, address)
        delivery = await only_delivery(running, community, "failed")
        assert (delivery["attempts"], delivery["last_status"]) == (1, 410)
        listed = (await running.http.get(ENDPOINTS)).json()["endpoints"]
        endpoint = next(item for item in listed if item["url"] == address)
        assert endpoint["status"] == "disabled"
        again = f"{DELIVERIES}/{delivery['id']}/redeliver"
        refused = await running.http.post(again)
        assert refused.status_code == 409
        assert endpoint["id"] in refused.json()["detail"]
        registered = await running.http.post(ENDPOINTS, json={"url": address})
        assert (registered.status_code, registered.json()["status"]) == (201, "disabled")
        # What comes later is not sent, but kept.
        await ended_vote(running, address, community)
        await eventually(lambda: _count(running, community, "failed", 2))
        assert len(driver.requests) == 1
        driver.status = 200
        # An address below it is another one.
        await only_delivery(running, await ended_vote(running, f"{address}/below"), "delivered")
        driver.requests.clear()
        enabled = await running.http.post(f"{ENDPOINTS}/{endpoint['id']}/enable")
        assert enabled.json()["status"] == "enabled"
        body = {"since": delivery["created_at"], "community": community}
        answer = await running.http.post(f"{DELIVERIES}/redeliver", json=body)
        assert (answer.status_code, answer.json()) == (202, {"redelivered": 2})
        await eventually(lambda: _count(running, community, "delivered", 2))
        assert len({h["webhook-id"] for _, h, _ in driver.requests}) == 2


async def _count(running: RunningEngine, community: str, status: str, wanted: int) -> bool:
    page = await running.http.get(DELIVERIES, params={"community": community, "status": status})
    return len(page.json()["deliveries"]) == wanted


async def test_a_delivered_item_can_be_sent_again(running: RunningEngine) -> None:
    async with receiver() as driver:
        community = await ended_vote(running, driver.url)
        delivery = await only_delivery(running, community, "delivered")
        driver.seconds = 1
        answer = await running.http.post(f"{DELIVERIES}/{delivery['id']}/redeliver")
        assert answer.status_code == 202
        queued = answer.json()
        assert (queued["status"], queued["finished_at"]) == ("pending", None)
        assert queued["queued_at"] > delivery["finished_at"]
        await only_delivery(running, community, "delivered")
        assert len(driver.requests) == 2
        assert len({h["webhook-id"] for _, h, _ in driver.requests}) == 1


@one_database
async def test_what_was_delivered_is_not_sent_because_it_is_started_again(
    running: RunningEngine,
) -> None:
    async with receiver() as driver:
        community = await ended_vote(running, driver.url)
        delivery = await only_delivery(running, community, "delivered")
        activity_id = f"delivery/{community}/{delivery['id']}"

        async def started() -> bool:
            # The first one may not have ended yet on the server.
            return await running.engine.temporal.background.deliver(community, delivery["id"])

        await eventually(started)
        await running.client.get_activity_handle(activity_id).result()
        assert len(driver.requests) == 1


@one_database
async def test_a_try_that_ends_after_its_item_did_changes_nothing(running: RunningEngine) -> None:
    async with receiver() as driver:
        driver.seconds = 1
        community = await ended_vote(running, driver.url)
        await eventually(lambda: driver.under_way == 1)
        delivery = await only_delivery(running, community, "pending")
        async with running.engine.database.write() as session:
            (await session.get_one(OutboxItem, delivery["id"])).finish("failed")
        activity_id = f"delivery/{community}/{delivery['id']}"
        await running.client.get_activity_handle(activity_id).result()
        assert (await only_delivery(running, community, "failed"))["attempts"] == 0


@one_database
async def test_redelivering_never_makes_two_tries_at_once(running: RunningEngine) -> None:
    async with receiver() as driver:
        driver.seconds, driver.status = 1.5, 500
        community = await ended_vote(running, driver.url)
        await eventually(lambda: driver.under_way == 1)
        delivery = await only_delivery(running, community, "pending")
        address = f"{DELIVERIES}/{delivery['id']}/redeliver"
        answers = await asyncio.gather(*(running.http.post(address) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {202}
        await eventually(lambda: len(driver.requests) >= 2)
        await asyncio.gather(*(running.http.post(address) for _ in range(10)))
        driver.status = 200
        await only_delivery(running, community, "delivered")
        assert driver.most_under_way == 1


async def test_redelivering_does_not_wait_for_the_next_try(
    temporal: Client, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = new_database("sqlite", tmp_path, request)
    async with (
        run_engine(temporal, url, tmp_path, delivery_first_retry_seconds=3600) as running,
        receiver() as driver,
    ):
        # It may ask for a longer pause, not for a shorter one.
        driver.status, driver.headers = 500, {"Retry-After": "0.1"}
        community = await ended_vote(running, driver.url)

        async def tried() -> bool:
            listed = await running.http.get(DELIVERIES, params={"community": community})
            return bool(listed.json()["deliveries"][0]["attempts"])

        await eventually(tried)
        driver.status = 200
        await asyncio.sleep(0.5)
        assert len(driver.requests) == 1
        delivery = await only_delivery(running, community, "pending")
        answer = await running.http.post(f"{DELIVERIES}/{delivery['id']}/redeliver")
        assert answer.status_code == 202
        await only_delivery(running, community, "delivered")
        assert len(driver.requests) == 2


async def test_a_dead_endpoint_slows_nobody_elses_deliveries(
    temporal: Client, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = new_database("sqlite", tmp_path, request)
    limits = {"max_concurrent_deliveries": 12, "max_tries_per_host": 2}
    async with (
        run_engine(temporal, url, tmp_path, delivery_timeout_seconds=60, **limits) as running,
        receiver() as dead,
        receiver() as alive,
    ):
        # Longer than the test: its turns are taken throughout.
        dead.seconds = 55
        community = await running.community({"name": "troublesome", "config": {}})
        for _ in range(20):
            await ended_vote(running, dead.url, community)
        assert dead.most_under_way == 2
        before = time.monotonic()
        await ended_vote(running, alive.url, community)
        await eventually(lambda: len(alive.requests) == 1, 8)
        assert time.monotonic() - before < 8
        assert dead.most_under_way == 2


async def test_an_endpoint_has_a_secret_of_its_own_which_can_be_rotated(
    running: RunningEngine,
) -> None:
    async with receiver() as driver:
        url = f"{driver.url}/api"
        made = await running.http.post(ENDPOINTS, json={"url": url})
        assert made.status_code == 201
        endpoint, old = made.json(), made.json()["secret"]
        twice = await running.http.post(ENDPOINTS, json={"url": url})
        assert twice.status_code == 409
        read = (await running.http.get(f"{ENDPOINTS}/{endpoint['id']}")).json()
        assert "secret" not in read
        assert read["has_secret"]
        await ended_vote(running, f"{url}/outcome/1")
        await ended_vote(running, f"{driver.url}/apiary")
        await eventually(lambda: len(driver.requests) == 2)
        default = driver_webhook_secrets(running.engine.settings)[0]
        by_length = sorted(driver.requests, key=lambda item: item[2])
        verified = {_verified_by(item, {"own": old, "default": default}) for item in by_length}
        assert verified == {"own", "default"}
        rotated = await running.http.post(f"{ENDPOINTS}/{endpoint['id']}/rotate-secret", json={})
        new = rotated.json()["secret"]
        await ended_vote(running, f"{url}/outcome/2")
        await eventually(lambda: len(driver.requests) == 3)
        _, headers, body = driver.requests[-1]
        for secret in (old, new):
            Webhook(secret).verify(body, headers)
        at_once = {"overlap_hours": 0}
        last = await running.http.post(f"{ENDPOINTS}/{endpoint['id']}/rotate-secret", json=at_once)
        await ended_vote(running, f"{url}/outcome/3")
        await eventually(lambda: len(driver.requests) == 4)
        newest = last.json()["secret"]
        assert _verified_by(driver.requests[-1], {"old": old, "new": new, "x": newest}) == "x"
        gone = await running.http.delete(f"{ENDPOINTS}/{endpoint['id']}")
        assert gone.status_code == 204
        assert (await running.http.get(f"{ENDPOINTS}/{endpoint['id']}")).status_code == 404


@one_database
async def test_two_secrets_at_a_time_of_the_nearest_endpoint(running: RunningEngine) -> None:
    async with receiver() as driver:
        above = (await running.http.post(ENDPOINTS, json={"url": driver.url})).json()
        near = (await running.http.post(ENDPOINTS, json={"url": f"{driver.url}/near"})).json()
        secrets = {"above": above["secret"], "first": near["secret"]}
        for name in ("second", "third"):
            rotate = f"{ENDPOINTS}/{near['id']}/rotate-secret"
            secrets[name] = (await running.http.post(rotate, json={})).json()["secret"]
        await ended_vote(running, f"{driver.url}/near/1")
        await eventually(lambda: len(driver.requests) == 1)
        assert _verified_by(driver.requests[0], secrets) == "second,third"


def _verified_by(request: tuple[float, dict[str, str], bytes], secrets: dict[str, str]) -> str:
    names = []
    for name, secret in secrets.items():
        try:
            Webhook(secret).verify(request[2], request[1])
        except Exception:
            continue
        names.append(name)
    return ",".join(names)


SHORT = "whsec_" + base64.b64encode(b"short").decode()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", f"{DELIVERIES}?cursor=nonsense", None, 400, "no cursor"),
        ("GET", f"{DELIVERIES}?status=lost", None, 400, "status"),
        ("GET", f"{DELIVERIES}?limit=0", None, 400, "limit"),
        ("GET", f"{DELIVERIES}/msg_x", None, 404, "No delivery"),
        ("POST", f"{DELIVERIES}/msg_x/redeliver", None, 404, "No delivery"),
        ("POST", f"{DELIVERIES}/redeliver", {}, 400, "since"),
        ("POST", f"{DELIVERIES}/redeliver", {"since": "yesterday"}, 400, "since"),
        (
            "POST",
            f"{DELIVERIES}/redeliver",
            {"since": "2027-01-02T00:00:00Z", "until": "2027-01-01T00:00:00Z"},
            400,
            "later than since",
        ),
        (
            "POST",
            f"{DELIVERIES}/redeliver",
            {"since": "2027-01-02T00:00:00Z", "status": "pending"},
            400,
            "status",
        ),
        ("POST", ENDPOINTS, {}, 400, "url"),
        ("POST", ENDPOINTS, {"url": "ftp://x"}, 400, "http"),
        ("POST", ENDPOINTS, {"url": "http://10.0.0.1/"}, 400, "no address"),
        ("POST", ENDPOINTS, {"url": "https://x.test", "secret": SHORT}, 400, "24 to 64"),
        ("POST", ENDPOINTS, {"url": "https://x.test", "secret": "whsec_???"}, 400, "24 to 64"),
        ("GET", f"{ENDPOINTS}/ep_x", None, 404, "No endpoint"),
        ("POST", f"{ENDPOINTS}/ep_x/rotate-secret", {}, 404, "No endpoint"),
        ("POST", f"{ENDPOINTS}/ep_x/enable", None, 404, "No endpoint"),
        ("DELETE", f"{ENDPOINTS}/ep_x", None, 404, "No endpoint"),
    ],
)
async def test_bad_input(
    running: RunningEngine, method: str, path: str, body: Any, status: int, words: str
) -> None:
    answer = await running.http.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]
    assert SHORT not in answer.text


async def test_list_pages(running: RunningEngine) -> None:
    async with receiver() as driver:
        community = await running.community({"name": "troublesome", "config": {}})
        for _ in range(3):
            await ended_vote(running, driver.url, community)
        seen: list[int] = []
        cursor = None
        while True:
            params: dict[str, Any] = {"community": community, "limit": 2} | (
                {"cursor": cursor} if cursor else {}
            )
            page = (await running.http.get(DELIVERIES, params=params)).json()
            seen += [item["position"] for item in page["deliveries"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == [3, 2, 1]


async def test_an_item_without_address_cannot_be_sent(running: RunningEngine) -> None:
    community = await running.community({"name": "troublesome", "config": {}})
    started = await running.start(community, VOTE)
    await running.http.delete(started.headers["location"])
    delivery = await only_delivery(running, community, "recorded")
    answer = await running.http.post(f"{DELIVERIES}/{delivery['id']}/redeliver")
    assert answer.status_code == 409


async def test_exhausted_deliveries_stay_listed(
    temporal: Client, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = new_database("sqlite", tmp_path, request)
    days = 1 / 86400
    async with (
        run_engine(temporal, url, tmp_path, delivery_retry_days=days) as running,
        receiver() as driver,
    ):
        driver.status = 500
        community = await ended_vote(running, f"{driver.url}/{uuid4()}")
        delivery = await only_delivery(running, community, "failed")
        assert delivery["attempts"] >= 2
        assert (delivery["last_status"], delivery["last_error"]) == (500, "HTTP 500")
        # Sent again, it has all of its time once more.
        once_more = f"{DELIVERIES}/{delivery['id']}/redeliver"
        since = {"since": delivery["created_at"], "community": community}
        for path, body in ((once_more, None), (f"{DELIVERIES}/redeliver", since)):
            tried = len(driver.requests)
            assert (await running.http.post(path, json=body)).status_code == 202
            await eventually(lambda tried=tried: len(driver.requests) >= tried + 2)
            await only_delivery(running, community, "failed")


async def test_no_answer_is_a_failed_try(
    temporal: Client, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Neither one that comes too late, nor an address at which nobody listens."""
    url = new_database("sqlite", tmp_path, request)
    async with (
        run_engine(temporal, url, tmp_path, delivery_timeout_seconds=1) as running,
        receiver() as driver,
    ):
        driver.seconds = 1.5
        slow = await ended_vote(running, driver.url)
        await eventually(lambda: len(driver.requests) >= 2)
        delivery = await only_delivery(running, slow, "pending")
        assert (delivery["last_status"], delivery["last_error"]) == (None, "no answer in time")
        driver.seconds = 0
        await only_delivery(running, slow, "delivered")
        nobody = await ended_vote(running, f"http://127.0.0.1:{free_ports(1)[0]}/")

        async def tried_again() -> bool:
            return bool((await only_delivery(running, nobody, "pending"))["attempts"] >= 2)

        await eventually(tried_again)
        delivery = await only_delivery(running, nobody, "pending")
        assert delivery["last_error"].startswith("ConnectError")


@one_database
@pytest.mark.parametrize(
    ("waited", "least", "most"),
    [(0, 0.2, 0.2), (10, 10, 10), (3000, 3000, 3000), (1e6, 3600, 3600)],
)
async def test_pauses_double_up_to_the_longest(
    running: RunningEngine, waited: float, least: float, most: float
) -> None:
    activities = DeliveryActivities(running.engine)
    pauses = [activities._after(timedelta(seconds=waited)).total_seconds() for _ in range(200)]
    await activities.close()
    assert least * 0.8 <= min(pauses) < max(pauses) <= most * 1.2, "jittered by a fifth"


@asynccontextmanager
async def kept_items(running: RunningEngine, url: str) -> AsyncIterator[tuple[str, str]]:
    """Ended items of another age; gives their community and another one."""
    community, other = f"c-{uuid4().hex}", f"c-{uuid4().hex}"
    made = [
        (community, "event", "failed", 1),
        (community, "event", "failed", 2),
        (community, "process", "failed", 2),
        (community, "event", "failed", 3),
        (community, "event", "delivered", 2),
        (other, "event", "failed", 2),
    ]
    async with running.engine.database.write() as session:
        for name, kind, status, day in made:
            item = await outbox.append(
                session, community=name, kind=kind, body={"day": day, "was": status}, url=url
            )
            item.finish(status)
            item.created_at = datetime(2001, 1, day, tzinfo=UTC)
    yield community, other
    async with running.engine.database.write() as session:
        mine = col(OutboxItem.community).in_([community, other])
        await session.exec(delete(OutboxItem).where(mine))


async def test_lists_are_filtered_and_rows_of_one_moment_paged(running: RunningEngine) -> None:
    async with receiver() as driver, kept_items(running, driver.url) as (community, _):

        async def positions(**params: Any) -> list[int]:
            seen, cursor = [], None
            while True:
                query = {"community": community, "limit": 1, **params}
                query |= {"cursor": cursor} if cursor else {}
                page = (await running.http.get(DELIVERIES, params=query)).json()
                seen += [item["position"] for item in page["deliveries"]]
                cursor = page["next_cursor"]
                if cursor is None:
                    return seen

        everything = await positions()
        assert (everything[0], everything[-1]) == (4, 1)
        assert sorted(everything[1:-1]) == [2, 3, 5]
        assert await positions(status="delivered") == [5]
        assert await positions(kind="process") == [3]
        assert sorted(await positions(status="failed", kind="event")) == [1, 2, 4]
        assert await positions(status="recorded") == []


async def test_only_what_was_asked_for_is_sent_again(running: RunningEngine) -> None:
    """From ``since`` on, to just before ``until``; of one status; of one community or of all."""
    async with receiver() as driver, kept_items(running, driver.url) as (community, other):
        of_day = {"since": "2001-01-02T00:00:00Z", "until": "2001-01-03T00:00:00Z"}

        async def sent_again(**asked: str) -> list[tuple[str, int, str]]:
            driver.requests.clear()
            answer = await running.http.post(f"{DELIVERIES}/redeliver", json=of_day | asked)
            count = answer.json()["redelivered"]
            for name in (community, other):
                await eventually(lambda name=name: _count(running, name, "pending", 0))
            assert len(driver.requests) == count
            bodies = [(h["metagov-community"], json.loads(b)) for _, h, b in driver.requests]
            return sorted((name, body["day"], body["was"]) for name, body in bodies)

        failed, delivered = (community, 2, "failed"), (community, 2, "delivered")
        assert await sent_again(community=community, status="delivered") == [delivered]
        assert await sent_again(community=community) == [failed, failed]
        assert await sent_again() == [(other, 2, "failed")]
