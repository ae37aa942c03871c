"""Deliveries to drivers: signed, retried, listed, sent again; a dead endpoint is nobody else's."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client

from engine.resources import driver_webhook_secrets
from tests.conftest import new_database
from tests.engine.conftest import RunningEngine, one_database, run_engine
from tests.servers import eventually, serve

VOTE = "troublesome.fragile"
DELIVERIES = "/api/internal/deliveries"
ENDPOINTS = "/api/internal/endpoints"


class Receiver:
    """A driver's endpoint that answers as it is told to."""

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
    """Start a vote and close it; gives the community, whose driver is told of it."""
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
        # What comes later is not sent, but kept.
        await ended_vote(running, address, community)
        await eventually(lambda: _count(running, community, "failed", 2))
        assert len(driver.requests) == 1
        driver.status = 200
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
        answer = await running.http.post(f"{DELIVERIES}/{delivery['id']}/redeliver")
        assert answer.status_code == 202
        await eventually(lambda: len(driver.requests) == 2)
        assert len({h["webhook-id"] for _, h, _ in driver.requests}) == 1
        await only_delivery(running, community, "delivered")


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
        driver.status = 500
        community = await ended_vote(running, driver.url)

        async def tried() -> bool:
            listed = await running.http.get(DELIVERIES, params={"community": community})
            return bool(listed.json()["deliveries"][0]["attempts"])

        await eventually(tried)
        driver.status = 200
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
        run_engine(temporal, url, tmp_path, delivery_timeout_seconds=10, **limits) as running,
        receiver() as dead,
        receiver() as alive,
    ):
        dead.seconds = 9.5
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
