"""Webhooks without a key, while polls, closes and closing times come as they like."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from engine.store.invocations import Invocation
from engine.store.webhooks import ReceivedWebhook
from faults.platform import effect
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually

VOTES = 6


class Crowd:
    """Votes without a key, and what was sent to them."""

    def __init__(self, running: RunningEngine, community: str, config: dict[str, str]) -> None:
        self.running = running
        self.community = community
        self.config = config
        self.votes: dict[str, str] = {}
        self.answered: dict[str, list[str]] = {}

    async def start(self, name: str, **parameters: Any) -> None:
        """Start a vote."""
        answer = await self.running.start(self.community, "durable.keyless", id=name, **parameters)
        assert answer.status_code == 202, answer.text
        self.votes[name] = answer.headers["location"]
        self.answered[name] = []

    async def cast(self, name: str, text: str) -> None:
        """Send a webhook; what was answered before a close is asked for is in the outcome."""
        answer = await self.running.http.post(
            f"/api/hooks/{self.community}/durable",
            content=f"{name} {text}",
            headers={"X-Delivery": text},
        )
        assert answer.status_code == 200, answer.text
        for vote in self.votes:
            if name in (vote, "all"):
                self.answered[vote].append(text)

    async def close(self, name: str) -> None:
        """Close a vote, if it is open."""
        answer = await self.running.http.delete(self.votes[name])
        assert answer.status_code in (200, 400), answer.text

    async def record(self, name: str) -> dict[str, Any]:
        """A vote's record."""
        answer: dict[str, Any] = (await self.running.http.get(self.votes[name])).json()
        return answer

    async def accepted(self) -> list[tuple[str, str]]:
        """To whom and what, in the order of acceptance."""
        async with self.running.engine.database.read() as session:
            query = (
                select(ReceivedWebhook.body)
                .where(col(ReceivedWebhook.community) == self.community)
                .order_by(col(ReceivedWebhook.sequence))
            )
            bodies = (await session.exec(query)).all()
        parts = [body.decode().partition(" ") for body in bodies]
        return [(to, text) for to, _, text in parts]

    async def settled(self) -> bool:
        """Whether every webhook was handled, and none waits in a workflow."""
        async with self.running.engine.database.read() as session:
            waiting = select(ReceivedWebhook.id).where(
                col(ReceivedWebhook.community) == self.community,
                col(ReceivedWebhook.status) == "received",
            )
            return (await session.exec(waiting)).first() is None


@pytest.fixture
async def crowd(running: RunningEngine, tmp_path: Path) -> Crowd:
    config = {"platform": str(tmp_path / "platform")}
    community = await running.community({"name": "durable", "config": config})
    return Crowd(running, community, config)


@pytest.mark.parametrize("seed", range(3))
async def test_once_in_order_and_nothing_left_out(crowd: Crowd, seed: int) -> None:
    """In any order: each vote counts each ballot once, in order, up to where it ended."""
    dice = random.Random(seed)
    for number in range(VOTES):
        ends = {"closing_in": dice.uniform(1, 4)} if number % 3 == 0 else {}
        slow = dice.choice([0, 0, 0.05])
        await crowd.start(f"v{number}", slow=slow, **ends)
    before_close: dict[str, set[str]] = {}

    async def close(name: str) -> None:
        # A second close of one vote finds it closed.
        before_close.setdefault(name, set(crowd.answered[name]))
        await crowd.close(name)

    under_way: list[asyncio.Task[None]] = []
    for step in range(60):
        name = f"v{dice.randrange(VOTES)}"
        doing: Coroutine[Any, Any, None]
        match dice.choices(["one", "all", "news", "close"], [5, 2, 2, 0.3])[0]:
            case "one":
                doing = crowd.cast(name, f"b{step}")
            case "all":
                doing = crowd.cast("all", f"b{step}")
            case "close":
                doing = close(name)
            case _:
                effect(crowd.config, f"news {name} {step}")
                continue
        under_way.append(asyncio.create_task(doing))
        if dice.random() < 0.5:
            await asyncio.gather(*under_way)
    await asyncio.gather(*under_way)
    await eventually(crowd.settled, 30)
    for name in crowd.votes:
        await close(name)
    accepted = await crowd.accepted()
    for name in crowd.votes:
        record = await crowd.record(name)
        assert record["status"] == "completed", record
        heard = record["outcome"]["heard"]
        addressed = [text for to, text in accepted if to in (name, "all")]
        assert heard == addressed[: len(heard)], name
        assert record["webhooks_left_out"] == 0
        if record["closing_at"] is None:
            assert before_close[name] <= set(heard), name


async def test_a_vote_that_is_signalled_gets_the_next_one_after_that(crowd: Crowd) -> None:
    """One that could not be handled in place is not overtaken by those that could."""
    await crowd.start("v")
    await crowd.cast("v", "fail-v")
    for number in range(3):
        await crowd.cast("v", f"b{number}")
    await eventually(lambda: _heard(crowd, "v", 3), 40)
    assert (await crowd.record("v"))["outcome"]["heard"] == ["b0", "b1", "b2"]
    webhooks = await crowd.running.http.get(
        "/api/internal/webhooks", params={"community": crowd.community, "status": "failed"}
    )
    assert len(webhooks.json()["webhooks"]) == 1


async def _heard(crowd: Crowd, name: str, count: int) -> bool:
    return len((await crowd.record(name))["outcome"]["heard"]) == count


@one_database
async def test_what_concerns_nobody_costs_no_workflow_anything(crowd: Crowd) -> None:
    """No signal, no activity, no mark: the votes' workflows do not wake up."""
    for number in range(3):
        await crowd.start(f"v{number}")
    client = crowd.running.client
    ids = {name: location.rpartition("/")[2] for name, location in crowd.votes.items()}
    before = {name: await _events(client, crowd.community, ids[name]) for name in ids}
    for number in range(5):
        await crowd.cast("nobody", f"b{number}")
    await crowd.cast("v1", "yes")
    await eventually(lambda: _heard(crowd, "v1", 1))
    await eventually(crowd.settled)
    after = {name: await _events(client, crowd.community, ids[name]) for name in ids}
    assert "WORKFLOW_EXECUTION_SIGNALED" not in after["v0"][len(before["v0"]) :]
    assert after["v1"].count("WORKFLOW_EXECUTION_SIGNALED") == 1
    async with crowd.running.engine.database.read() as session:
        query = select(Invocation.id).where(col(Invocation.target) == "keyless#receive_webhook")
        marks = (
            await session.exec(query.where(col(Invocation.community) == crowd.community))
        ).all()
    assert [mark.partition(":")[0] for mark in marks] == [ids["v1"]]


async def _events(client: Client, community: str, process_id: str) -> list[str]:
    handle = client.get_workflow_handle(f"process/{community}/durable.keyless/{process_id}")
    history = await handle.fetch_history()
    return [
        EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events
    ]
