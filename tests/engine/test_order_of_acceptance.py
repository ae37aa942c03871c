"""What was accepted earlier is handled earlier: webhooks of a process, and the close after them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from engine.activities.deliveries import DeliveryActivities
from engine.activities.reconciliation import ReconciliationActivities
from engine.resources import open_engine
from engine.store import communities, pacing
from engine.store.database import utc_now
from engine.store.webhooks import ReceivedWebhook, insert_in_order
from tests.conftest import new_database
from tests.engine.conftest import RunningEngine, one_database, run_engine
from tests.servers import eventually
from tests.unit.invocations.conftest import tried
from worker import make_workers


class Ballots:
    """A vote of the plugin ``durable``, whose webhooks are its ballots."""

    def __init__(self, running: RunningEngine, community: str, platform: Path, keyed: bool) -> None:
        self.running = running
        self.community = community
        self.platform = platform
        self.keyed = keyed
        self.name = uuid4().hex
        self.location = ""

    async def start(self, **parameters: Any) -> None:
        started = await self.running.start(
            self.community, "durable.vote", id=self.name, **parameters
        )
        assert started.status_code == 202, started.text
        self.location = started.headers["location"]

    async def cast(self, text: str) -> datetime:
        """Send a ballot; gives when it was accepted at the latest."""
        headers = {"X-Delivery": uuid4().hex}
        headers |= {"X-Concerns": self.name} if self.keyed else {}
        url = f"/api/hooks/{self.community}/durable"
        while True:
            answer = await self.running.http.post(url, content=text, headers=headers)
            if answer.status_code == 200:
                return datetime.now(UTC)
            assert answer.status_code == 503, answer.text

    async def record(self) -> dict[str, Any]:
        record: dict[str, Any] = (await self.running.http.get(self.location)).json()
        return record


@pytest.fixture
async def ballots(running: RunningEngine, tmp_path: Path) -> Ballots:
    platform = tmp_path / "platform"
    platform.touch()
    community = await running.community({"name": "durable", "config": {"platform": str(platform)}})
    return Ballots(running, community, platform, keyed=True)


@pytest.mark.parametrize("keyed", [True, False])
async def test_ballots_before_a_close_are_all_in_the_outcome(ballots: Ballots, keyed: bool) -> None:
    ballots.keyed = keyed
    await ballots.start()
    cast = [f"ballot-{n}" for n in range(30)]
    await asyncio.gather(*(ballots.cast(text) for text in cast))
    closed = await ballots.running.http.delete(ballots.location)
    assert closed.status_code == 200, closed.text
    assert sorted(closed.json()["outcome"]["heard"]) == sorted(cast)
    assert closed.json()["webhooks_left_out"] == 0


async def test_ballots_are_counted_in_the_order_in_which_they_were_accepted(
    ballots: Ballots,
) -> None:
    await ballots.start()
    cast = [f"ballot-{n}" for n in range(20)]
    for text in cast:
        await ballots.cast(text)
    closed = await ballots.running.http.delete(ballots.location)
    assert closed.json()["outcome"]["heard"] == cast


async def test_ballots_before_the_closing_time_are_all_in_the_outcome(ballots: Ballots) -> None:
    await ballots.start(closing_in=2)
    accepted: dict[str, datetime] = {}
    casting = asyncio.create_task(_cast_until_completed(ballots, accepted))
    closing_at = datetime.fromisoformat((await ballots.record())["closing_at"])
    record = await ballots.running.completed(ballots.location)
    casting.cancel()
    await asyncio.gather(casting, return_exceptions=True)
    before = [text for text, moment in accepted.items() if moment < closing_at]
    assert before
    assert set(before) <= set(record["outcome"]["heard"])


async def test_a_ballot_that_takes_the_closing_time_away_is_heeded(ballots: Ballots) -> None:
    """It was accepted before the closing time, and its receiver is slow: it goes first."""
    await ballots.start(closing_in=1.5)
    await ballots.cast("stuck-open-ended")
    await eventually(lambda: _counted(ballots, "stuck-open-ended"))
    record = await ballots.record()
    assert (record["closing_at"], record["status"]) == (None, "pending")
    await ballots.cast("ballot")
    await eventually(lambda: _counted(ballots, "ballot"))
    assert (await ballots.record())["status"] == "pending"


@one_database
async def test_a_ballot_that_waits_for_a_paused_plugin_reaches_its_own_vote_only(
    ballots: Ballots,
) -> None:
    """A close of another vote hands on what was accepted before it, and cannot ask for its key."""
    running = ballots.running
    await ballots.start()
    other = await running.start(ballots.community, "durable.vote", id=f"other-{ballots.name}")
    async with running.engine.database.write() as session:
        (instance,) = await communities.instances_of(session, ballots.community)
        await pacing.stop(session, instance.id, utc_now() + timedelta(seconds=3))
    await ballots.cast("ballot")
    closed = await running.http.delete(other.headers["location"])
    assert closed.status_code == 200, closed.text
    assert closed.json()["outcome"]["heard"] == []
    await eventually(lambda: _counted(ballots, "ballot"))


async def _cast_until_completed(ballots: Ballots, accepted: dict[str, datetime]) -> None:
    """So many a second as are handled, so that the closing does not wait for its bound."""
    for number in range(10_000):
        text = f"ballot-{number}"
        accepted[text] = await ballots.cast(text)
        await eventually(lambda text=text: _counted(ballots, text))


async def _counted(ballots: Ballots, text: str) -> bool:
    return text in (await ballots.record())["outcome"]["heard"]


async def test_a_close_asked_for_by_a_temporal_client_waits_as_well(ballots: Ballots) -> None:
    await ballots.start()
    cast = [f"ballot-{n}" for n in range(15)]
    await asyncio.gather(*(ballots.cast(text) for text in cast))
    process_id = ballots.location.rpartition("/")[2]
    handle = ballots.running.client.get_workflow_handle(
        f"process/{ballots.community}/durable.vote/{process_id}"
    )
    await handle.execute_update("close")
    assert sorted((await ballots.record())["outcome"]["heard"]) == sorted(cast)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_two_workers_keep_the_order(
    temporal: Client,
    plugins: None,
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    """Receivers that take long for some, short for others, on two workers."""
    url = new_database(kind, tmp_path, request)
    async with run_engine(temporal, url, tmp_path) as running:
        platform = tmp_path / "platform"
        platform.touch()
        community = await running.community(
            {"name": "durable", "config": {"platform": str(platform)}}
        )
        ballots = Ballots(running, community, platform, keyed=True)
        await ballots.start()
        async with open_engine(running.engine.settings, lazy=False) as other:
            deliveries = DeliveryActivities(other)
            _, receivers, _ = make_workers(other, deliveries)
            async with receivers:
                cast = [f"{'slow' if n % 4 == 0 else 'quick'}-{n}" for n in range(24)]
                for text in cast:
                    await ballots.cast(text)
                closed = await running.http.delete(ballots.location)
            await deliveries.close()
    assert closed.json()["outcome"]["heard"] == cast


async def test_one_that_was_never_handed_over_is_seen_to(ballots: Ballots) -> None:
    """Who accepted it died; a close finds it, and has it handled first."""
    await ballots.start()
    await _accept_only(ballots, "orphan")
    closed = await ballots.running.http.delete(ballots.location)
    assert closed.json()["outcome"]["heard"] == ["orphan"]


async def test_a_later_one_has_an_orphan_handled_first(ballots: Ballots) -> None:
    await ballots.start()
    await _accept_only(ballots, "orphan")
    await ballots.cast("later")

    async def heard() -> bool:
        return bool((await ballots.record())["outcome"]["heard"] == ["orphan", "later"])

    await eventually(heard)


@pytest.mark.parametrize("found_by", ["reconciliation", "webhook"])
async def test_signals_that_were_lost_with_a_workflow_are_given_again(
    ballots: Ballots, found_by: str
) -> None:
    """Temporal lost its file after the webhook was handled, and before the process was."""
    running = ballots.running
    await ballots.start()
    await _lose_workflow(ballots)
    await _accept_only(ballots, "signalled", status="handled", routed=True)
    if found_by == "reconciliation":
        await tried(lambda: ReconciliationActivities(running.engine)._reconcile())
    else:
        await ballots.cast("later")
        await eventually(lambda: _counted(ballots, "later"))
    closed = await running.http.delete(ballots.location)
    assert "signalled" in closed.json()["outcome"]["heard"], closed.text


async def test_a_close_whose_workflow_was_lost_is_done_after_all(ballots: Ballots) -> None:
    running, key = ballots.running, {"Idempotency-Key": "close"}
    await ballots.start()
    await _lose_workflow(ballots)
    first = await running.http.delete(ballots.location, headers=key)
    assert first.status_code == 504, first.text

    async def closed() -> bool:
        again = await running.http.delete(ballots.location, headers=key)
        assert again.status_code in (200, 504), again.text
        return again.status_code == 200

    await eventually(closed)
    record = await ballots.record()
    assert (record["status"], record["errors"]) == ("completed", {})


async def _lose_workflow(ballots: Ballots) -> None:
    running = ballots.running
    process_id = ballots.location.rpartition("/")[2]
    workflow_id = f"process/{ballots.community}/durable.vote/{process_id}"
    await running.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=running.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        )
    )
    await eventually(lambda: _is_gone(running, workflow_id))


async def _is_gone(running: RunningEngine, workflow_id: str) -> bool:
    try:
        await running.client.get_workflow_handle(workflow_id).describe()
    except RPCError:
        return True
    return False


async def _accept_only(ballots: Ballots, text: str, **values: Any) -> None:
    """Store a webhook as the API does, and hand nothing over."""
    from sqlalchemy import true

    from engine.store import communities

    database = ballots.running.engine.database
    async with database.read() as session:
        (instance,) = await communities.instances_of(session, ballots.community)
    row = ReceivedWebhook(
        instance_id=instance.id,
        community=ballots.community,
        plugin="durable",
        instance="durable",
        path="/",
        headers={"x-concerns": ballots.name},
        body=text.encode(),
        **values,
    )
    assert await database.execute(insert_in_order(database, row, true()))


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_the_bound_lets_a_close_go_on_and_says_how_many_were_left_out(
    temporal: Client, plugins: None, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url = new_database(kind, tmp_path, request)
    async with run_engine(temporal, url, tmp_path, close_wait_seconds=1) as running:
        platform = tmp_path / "platform"
        platform.touch()
        community = await running.community(
            {"name": "durable", "config": {"platform": str(platform)}}
        )
        ballots = Ballots(running, community, platform, keyed=True)
        await ballots.start()
        for number in range(4):
            await ballots.cast(f"hang-{number}")
        closed = await running.http.delete(ballots.location)
        assert closed.status_code == 200, closed.text
        record = closed.json()
        assert len(record["outcome"]["heard"]) + record["webhooks_left_out"] == 4
        assert record["webhooks_left_out"] > 0
