"""The webhook journal: handled once however often it comes, visible when it fails, replayed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlmodel import col, select
from temporalio.common import RetryPolicy

from engine.activities.reconciliation import ReconciliationActivities
from engine.invocations.policy import RECEIVER
from engine.store import communities, webhooks
from engine.store.database import utc_now
from engine.store.webhooks import ReceivedWebhook
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually

WEBHOOKS = "/api/internal/webhooks"


class Place:
    """A community with the plugin ``durable``, and the platform behind it."""

    def __init__(self, running: RunningEngine, community: str, platform: Path) -> None:
        self.running = running
        self.community = community
        self.platform = platform

    def effects(self) -> list[str]:
        return self.platform.read_text().split() if self.platform.exists() else []

    def lines(self) -> list[str]:
        return self.platform.read_text().split("\n")[:-1] if self.platform.exists() else []

    def mend(self, text: str) -> None:
        with self.platform.open("a") as file:
            file.write(f"mended {text}\n")

    async def hook(self, text: str, **headers: str) -> int:
        answer = await self.running.http.post(
            f"/api/hooks/{self.community}/durable", content=text, headers=headers
        )
        return answer.status_code

    async def listed(self, **params: Any) -> list[dict[str, Any]]:
        answer = await self.running.http.get(
            WEBHOOKS, params={"community": self.community, **params}
        )
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["webhooks"]
        return found

    async def only(self, status: str, seconds: float = 15) -> dict[str, Any]:
        found = await eventually(lambda: self.listed(status=status), seconds)
        assert len(found) == 1
        webhook: dict[str, Any] = found[0]
        return webhook

    async def heard(self) -> list[str]:
        page = await self.running.http.get(
            "/api/internal/events", params={"community": self.community, "limit": 500}
        )
        events = [i["data"] for i in page.json()["events"] if i["type"] == "event"]
        return [event["data"]["text"] for event in events]


@pytest.fixture
async def place(running: RunningEngine, tmp_path: Path) -> Place:
    platform = tmp_path / "platform"
    community = await running.community({"name": "durable", "config": {"platform": str(platform)}})
    return Place(running, community, platform)


async def test_the_same_webhook_fifty_times_at_once_is_handled_once(place: Place) -> None:
    delivery = {"X-Delivery": str(uuid4())}
    answers = await asyncio.gather(*(place.hook("hello", **delivery) for _ in range(50)))
    assert set(answers) == {200}
    webhook = await place.only("handled")
    assert webhook["delivery_id"] == delivery["X-Delivery"]
    assert webhook["handled_at"] > webhook["received_at"]
    assert (webhook["tries"], webhook["error"]) == (1, None)
    assert await place.hook("hello", **delivery) == 200
    assert await place.heard() == ["hello"]
    assert place.lines() == ["received hello"]
    # Another one, with the same content but another id, is another one.
    await place.hook("hello", **{"X-Delivery": str(uuid4())})
    await eventually(lambda: len(place.lines()) == 2)


async def test_webhooks_without_an_id_are_each_handled(place: Place) -> None:
    await asyncio.gather(*(place.hook("hello") for _ in range(3)))
    await eventually(lambda: len(place.lines()) == 3)


async def test_the_journal_keeps_headers_less_secrets_and_the_body(place: Place) -> None:
    secrets = {"Authorization": "Bearer sesame", "Proxy-Authorization": "Bearer sesame"}
    secrets |= {"X-API-Key": "sesame", "Cookie": "sesame=1"}
    await place.hook("hello", **secrets, **{"X-Kind": "k"})
    webhook = await place.only("handled")
    answer = await place.running.http.get(f"{WEBHOOKS}/{webhook['id']}")
    whole = answer.json()
    assert (whole["body"], whole["headers"]["x-kind"], whole["size"]) == ("hello", "k", 5)
    assert "sesame" not in answer.text
    assert "cookie" not in whole["headers"]
    binary = await place.running.http.post(
        f"/api/hooks/{place.community}/durable", content=b"\xff\xfe"
    )
    assert binary.status_code == 200
    newest = (await place.listed())[0]
    whole = (await place.running.http.get(f"{WEBHOOKS}/{newest['id']}")).json()
    assert whole["body_base64"] == "//4="


async def test_a_receiver_that_fails_is_tried_again_and_seen(place: Place) -> None:
    text = f"fail-{uuid4()}"
    await place.hook(text)
    webhook = await eventually(lambda: _tried(place))
    assert webhook["status"] == "received"
    assert webhook["error"]["kind"] == "plugin_code"
    place.mend(text)
    webhook = await place.only("handled")
    assert webhook["tries"] >= 2
    assert await place.heard() == [text]


async def _tried(place: Place) -> dict[str, Any] | None:
    found = await place.listed()
    return found[0] if found and found[0]["tries"] else None


@one_database
async def test_replay_is_now_even_if_the_next_try_is_not_due(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rarely = RetryPolicy(initial_interval=timedelta(minutes=10))
    monkeypatch.setattr("engine.temporal.background.WEBHOOK_RETRY", rarely)
    text = f"fail-{uuid4()}"
    await place.hook(text)
    webhook = await eventually(lambda: _tried(place))
    place.mend(text)
    answers = await asyncio.gather(
        *(place.running.http.post(f"{WEBHOOKS}/{webhook['id']}/replay") for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {202}
    handled = await place.only("handled")
    # It was under way: the try before counts on.
    assert (handled["tries"], handled["error"]) == (2, None)
    assert await place.heard() == [text]


async def test_a_handled_webhook_can_be_replayed(place: Place) -> None:
    started = await place.running.start(place.community, "durable.vote", id="v")
    await place.hook("one", **{"X-Concerns": "v"})
    webhook = await place.only("handled")
    await eventually(lambda: place.lines().count("heard one") == 1)
    answer = await place.running.http.post(f"{WEBHOOKS}/{webhook['id']}/replay")
    assert answer.status_code == 202

    async def outcome() -> bool:
        record = (await place.running.http.get(started.headers["location"])).json()
        return bool(record["outcome"] == {"heard": ["one", "one"]})

    await eventually(outcome)
    assert await place.heard() == ["one", "one"]


@one_database
async def test_a_process_that_fails_to_handle_a_webhook_is_seen_and_replayed(place: Place) -> None:
    """Only what failed is repeated: the receiver, which succeeded, is not called again."""
    started = await place.running.start(place.community, "durable.vote", id="v")
    await place.hook("reject", **{"X-Concerns": "v"})
    webhook = await place.only("failed", 60)
    assert webhook["error"]["process"] == started.json()["id"]
    assert place.lines().count("heard reject") == 5
    place.mend("reject")
    body = {"since": webhook["received_at"], "community": place.community}
    answer = await place.running.http.post(f"{WEBHOOKS}/replay", json=body)
    assert (answer.status_code, answer.json()) == (202, {"replayed": 1})
    handled = await place.only("handled")
    assert (handled["tries"], handled["error"]) == (1, None)

    async def heard() -> bool:
        record = (await place.running.http.get(started.headers["location"])).json()
        return bool(record["outcome"] == {"heard": ["reject"]})

    await eventually(heard)
    assert await place.heard() == ["reject"]
    assert place.lines().count("received reject") == 1


async def test_a_process_that_failed_meanwhile_is_not_overwritten(place: Place) -> None:
    await place.hook("hello")
    webhook = await place.only("handled")
    error = {"kind": "plugin_code", "process": "p"}
    async with place.running.engine.database.write() as session:
        row = await session.get_one(ReceivedWebhook, webhook["id"])
        row.status, row.error = "failed", error
    async with place.running.engine.database.write() as session:
        await webhooks.note_try(session, webhook["id"], "handled", None)
    failed = await place.only("failed")
    assert (failed["error"], failed["tries"]) == (error, 1)


async def test_webhooks_of_a_plugin_that_is_no_longer_there(place: Place) -> None:
    """Or that was enabled anew: another instance did not receive them."""
    await place.hook("hello")
    webhook = await place.only("handled")
    durable = {"name": "durable", "config": {"platform": str(place.platform)}}
    for plugins in ([], [durable]):
        await place.running.community(*plugins, name=place.community)
        answer = await place.running.http.post(f"{WEBHOOKS}/{webhook['id']}/replay")
        assert answer.status_code == 409, plugins


@one_database
async def test_a_receiver_is_tried_so_often_and_then_fails(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = replace(RECEIVER, most_tries=2)
    monkeypatch.setattr("engine.activities.webhooks.RECEIVER", twice)
    text = f"fail-{uuid4()}"
    await place.hook(text)
    webhook = await place.only("failed")
    assert (webhook["tries"], webhook["error"]["kind"]) == (2, "plugin_code")
    assert place.lines() == [f"received {text}"] * 2


async def test_processes_receive_what_concerns_them(place: Place) -> None:
    """A receiver that fails keeps nothing from them; what concerns another one stays away."""
    started = {
        name: await place.running.start(place.community, "durable.vote", id=name)
        for name in ("v", "w")
    }
    # Without a key, everything may concern it.
    started["any"] = await place.running.start(place.community, "durable.vote")
    text = f"fail-{uuid4()}"
    await place.hook(text, **{"X-Concerns": "v"})

    async def outcome(name: str) -> Any:
        record = await place.running.http.get(started[name].headers["location"])
        return record.json()["outcome"]

    async def heard() -> bool:
        return bool(await outcome("v") == {"heard": [text]})

    await eventually(heard)
    place.mend(text)
    await place.only("handled")
    assert [await outcome(name) for name in ("v", "any", "w")] == [
        {"heard": [text]},
        {"heard": [text]},
        {"heard": []},
    ]


async def test_lists_are_filtered_and_only_what_was_asked_for_is_replayed(place: Place) -> None:
    """From ``since`` on, to just before ``until``; of one status; of one community or of all."""
    await place.hook("model")
    webhook = await place.only("handled")
    made = [
        ("1 failed", "failed", 1),
        ("2 failed", "failed", 2),
        ("3 failed", "failed", 3),
        ("2 handled", "handled", 2),
    ]
    other = await place.running.community(
        {"name": "durable", "config": {"platform": str(place.platform)}}
    )
    async with place.running.engine.database.write() as session:
        model = await session.get_one(ReceivedWebhook, webhook["id"])
        elsewhere = await communities.instances_of(session, other)
        for text, status, day in made:
            session.add(
                ReceivedWebhook(
                    instance_id=model.instance_id,
                    community=place.community,
                    plugin="durable",
                    instance="durable",
                    path="/",
                    body=text.encode(),
                    status=status,
                    received_at=datetime(2001, 1, day, tzinfo=UTC),
                    handled_at=utc_now(),
                )
            )
        session.add(
            ReceivedWebhook(
                instance_id=elsewhere[0].id,
                community=other,
                plugin="durable",
                instance="durable",
                path="/",
                body=b"2 elsewhere",
                status="failed",
                received_at=datetime(2001, 1, 2, tzinfo=UTC),
                handled_at=utc_now(),
            )
        )
    assert len(await place.listed()) == 5
    assert len(await place.listed(status="failed", plugin="durable")) == 3
    assert await place.listed(plugin="tutorial") == []
    of_day = {"since": "2001-01-02T00:00:00Z", "until": "2001-01-03T00:00:00Z"}

    async def replayed(**asked: str) -> list[str]:
        before = len(place.lines())
        answer = await place.running.http.post(f"{WEBHOOKS}/replay", json=of_day | asked)
        count = answer.json()["replayed"]
        await eventually(lambda: len(place.lines()) >= before + count)

        async def settled() -> bool:
            waiting = await place.running.http.get(
                WEBHOOKS, params={"status": "received", "plugin": "durable"}
            )
            mine = [
                w for w in waiting.json()["webhooks"] if w["community"] in (place.community, other)
            ]
            return not mine

        await eventually(settled)
        return sorted(line.removeprefix("received ") for line in place.lines()[before:])

    assert await replayed(community=place.community, status="handled") == ["2 handled"]
    assert await replayed(community=place.community) == ["2 failed"]
    assert await replayed() == ["2 elsewhere"]


async def test_retention(place: Place) -> None:
    """Old webhooks go, whatever became of them; new ones, and those under way, stay."""
    await place.hook("hello")
    webhook = await place.only("handled")
    async with place.running.engine.database.write() as session:
        row = await session.get_one(ReceivedWebhook, webhook["id"])
        row.handled_at = utc_now() - timedelta(days=31)
    await place.hook("again")
    await eventually(lambda: len(place.lines()) == 2)
    text = f"fail-{uuid4()}"
    await place.hook(text)
    await eventually(lambda: len(place.lines()) >= 3)
    waiting = await place.only("received")
    async with place.running.engine.database.write() as session:
        row = await session.get_one(ReceivedWebhook, waiting["id"])
        row.received_at = utc_now() - timedelta(days=31)
    await ReconciliationActivities(place.running.engine)._forget()
    place.mend(text)
    kept = [item["id"] for item in await place.listed()]
    assert (len(kept), webhook["id"] in kept, waiting["id"] in kept) == (2, False, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"{WEBHOOKS}?cursor=nonsense", None, 400),
        ("GET", f"{WEBHOOKS}?status=lost", None, 400),
        ("GET", f"{WEBHOOKS}/x", None, 404),
        ("POST", f"{WEBHOOKS}/x/replay", None, 404),
        ("POST", f"{WEBHOOKS}/replay", {}, 400),
        (
            "POST",
            f"{WEBHOOKS}/replay",
            {"since": "2027-01-02T00:00:00Z", "until": "2027-01-01T00:00:00Z"},
            400,
        ),
    ],
)
async def test_bad_input(
    running: RunningEngine, method: str, path: str, body: Any, status: int
) -> None:
    answer = await running.http.request(method, path, json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_webhook_that_came_while_its_plugin_was_configured_anew_is_handled(
    running: RunningEngine,
) -> None:
    """It was accepted for an instance whose replacement was not committed yet."""
    community = await running.community({"name": "tutorial", "config": {"api_key": "old"}})
    hook, body = f"/api/hooks/{community}/tutorial", {"account": "a", "data": {"n": 1}}
    assert (await running.http.post(hook, json=body)).status_code == 200

    def numbers() -> list[int]:
        delivered = [
            event for event in running.driver.to("events") if event["community"] == community
        ]
        return sorted(event["data"]["n"] for event in delivered)

    await eventually(lambda: numbers() == [1])
    async with running.engine.database.read() as session:
        first = (
            await session.exec(
                select(ReceivedWebhook).where(col(ReceivedWebhook.community) == community)
            )
        ).one()
    await running.community({"name": "tutorial", "config": {"api_key": "new"}}, name=community)
    late = ReceivedWebhook(
        instance_id=first.instance_id,
        community=community,
        plugin="tutorial",
        instance="tutorial",
        path=first.path,
        headers=first.headers,
        body=first.body.replace(b"1", b"2"),
        sequence=first.sequence + 1,
    )
    async with running.engine.database.write() as session:
        session.add(late)
    await running.engine.temporal.background.receive_webhook(
        community, "tutorial", "tutorial", late.id
    )
    await eventually(lambda: numbers() == [1, 2])
