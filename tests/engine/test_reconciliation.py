"""What a crash left between two steps is found and put right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import event
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from engine.activities import reconciliation
from engine.activities.communities import withdraw_abandoned_changes
from engine.activities.reconciliation import ReconciliationActivities
from engine.invocations.effects import record_item_id
from engine.messages import Capabilities, process_workflow_id
from engine.resources import Engine, open_engine
from engine.schedules import TaskSchedule
from engine.settings import Settings
from engine.store import epochs, outbox, restoring
from engine.store.accepted import IdempotencyKey
from engine.store.communities import CommunityChange, PluginInstance
from engine.store.database import Database, new_id, open_database, utc_now
from engine.store.invocations import Invocation
from engine.store.outbox import OutboxItem
from engine.store.processes import GovernanceProcess
from engine.store.schema import migrate
from engine.store.webhooks import ReceivedWebhook
from tests.conftest import new_database
from tests.engine.conftest import RunningEngine, run_engine
from tests.servers import eventually


@pytest.fixture(params=["sqlite", "postgresql"])
async def alone(
    request: pytest.FixtureRequest, temporal: Client, plugins: None, tmp_path: Path
) -> AsyncIterator[RunningEngine]:
    """An engine of its own: what is reconciled is all that it has."""
    url = new_database(request.param, tmp_path, request)
    async with run_engine(temporal, url, tmp_path) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
async def idle(
    request: pytest.FixtureRequest, temporal: Client, plugins: None, tmp_path: Path
) -> AsyncIterator[Engine]:
    """An engine without workers: what is started stays as it is."""
    settings = Settings(
        data_dir=tmp_path,
        database_url=new_database(request.param, tmp_path, request),
        temporal_address=temporal.service_client.config.target_host,
        task_queue=f"test-{uuid4().hex}",
    )
    database = open_database(settings)
    await migrate(database)
    await database.close()
    async with open_engine(settings, lazy=False, client=temporal) as engine:
        yield engine


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The SQL statements that are run meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    engines = [database.engine.sync_engine, database._reader.sync_engine]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


async def instance_of(running: RunningEngine, community: str) -> str:
    from engine.store import communities

    async with running.engine.database.read() as session:
        found = await communities.instances_of(session, community)
    return found[0].id


async def reconcile(running: RunningEngine) -> None:
    await ReconciliationActivities(running.engine)._reconcile()


async def status_of(running: RunningEngine, workflow_id: str) -> WorkflowExecutionStatus | None:
    try:
        return (await running.client.get_workflow_handle(workflow_id).describe()).status
    except RPCError:
        return None


def process_row(community: str, instance_id: str, **values: Any) -> GovernanceProcess:
    return GovernanceProcess(
        community=community,
        plugin="troublesome",
        instance="troublesome",
        slug="fragile",
        instance_id=instance_id,
        parameters={"title": "Found again"},
        **values,
    )


async def test_a_row_without_workflow_is_started(alone: RunningEngine) -> None:
    """The API died between storing the process and starting its workflow."""
    community = await alone.community({"name": "troublesome", "config": {}})
    row = process_row(community, await instance_of(alone, community))
    process_id, workflow_id = row.id, process_workflow_id(community, row.name, row.id)
    async with alone.engine.database.write() as session:
        session.add(row)
    await reconcile(alone)
    location = f"/api/internal/process/troublesome.fragile/{process_id}"

    async def pending() -> bool:
        return bool((await alone.http.get(location)).json()["status"] == "pending")

    await eventually(pending)
    assert await status_of(alone, workflow_id) == WorkflowExecutionStatus.RUNNING
    await reconcile(alone)
    assert (await alone.http.delete(location)).status_code == 200


async def test_a_pending_row_whose_workflow_is_gone_goes_on(alone: RunningEngine) -> None:
    """``start`` is not called again: the new workflow takes the record as it stands."""
    community = await alone.community({"name": "troublesome", "config": {}})
    started = await alone.start(community, "troublesome.fragile", title="T")
    location = started.headers["location"]
    workflow_id = f"process/{community}/troublesome.fragile/{started.json()['id']}"
    await alone.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=alone.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        )
    )

    async def running_again() -> bool:
        await reconcile(alone)
        return await status_of(alone, workflow_id) == WorkflowExecutionStatus.RUNNING

    async def is_gone() -> bool:
        return await status_of(alone, workflow_id) is None

    await eventually(is_gone)
    await eventually(running_again)
    closed = await alone.http.delete(location)
    assert closed.status_code == 200, closed.text
    assert closed.json()["outcome"] == {"closed": True}


async def test_a_row_that_is_behind_its_workflow_ends_as_it_did(alone: RunningEngine) -> None:
    """Only an older database can be; nothing else had shown that it is one."""
    community = await alone.community({"name": "troublesome", "config": {}})
    started = await alone.start(community, "troublesome.fragile")
    ended = (await alone.http.delete(started.headers["location"])).json()
    async with alone.engine.database.write() as session:
        row = await session.get_one(GovernanceProcess, ended["id"])
        item_id = record_item_id(row.id, row.updated_at)
        await session.delete(await session.get_one(OutboxItem, item_id))
        row.status, row.outcome, row.completed_at = "pending", {}, None
        row.updated_at = row.created_at

    async def put_right() -> bool:
        await reconcile(alone)
        return bool((await alone.http.get(started.headers["location"])).json() == ended)

    await eventually(put_right)
    async with alone.engine.database.read() as session:
        assert (await session.get_one(OutboxItem, item_id)).position > restoring.GAP
        assert (await epochs.present_epoch(session)).found_by == restoring.TEMPORAL


async def test_a_workflow_without_row_is_ended(alone: RunningEngine) -> None:
    community = await alone.community({"name": "troublesome", "config": {}})
    started = await alone.start(community, "troublesome.fragile")
    process_id = started.json()["id"]
    workflow_id = f"process/{community}/troublesome.fragile/{process_id}"
    async with alone.engine.database.write() as session:
        await session.delete(await session.get_one(GovernanceProcess, process_id))

    async def ended() -> bool:
        await reconcile(alone)
        return await status_of(alone, workflow_id) == WorkflowExecutionStatus.TERMINATED

    await eventually(ended)


async def test_a_workflow_whose_process_has_ended_is_signalled(alone: RunningEngine) -> None:
    """The worker died between disabling a plugin and signalling the workflows of its processes."""
    community = await alone.community({"name": "troublesome", "config": {}})
    started = await alone.start(community, "troublesome.fragile")
    process_id = started.json()["id"]
    async with alone.engine.database.write() as session:
        (await session.get_one(GovernanceProcess, process_id)).complete({"code": "x"})
    workflow_id = f"process/{community}/troublesome.fragile/{process_id}"

    async def ended() -> bool:
        await reconcile(alone)
        return await status_of(alone, workflow_id) == WorkflowExecutionStatus.COMPLETED

    await eventually(ended)


async def test_schedules_are_as_the_plugins_want_them(alone: RunningEngine) -> None:
    """One is missing, and one has no plugin any more."""
    community = await alone.community({"name": "tutorial", "config": {"api_key": "k"}})
    wanted = f"task/{community}/tutorial.count-calls"
    await alone.engine.schedules.unschedule_task(wanted)
    name = f"p{new_id()[:8]}"
    orphan = TaskSchedule("gone", name, name, "task", new_id(), 3600)
    await alone.engine.schedules.schedule_task(orphan)

    async def put_right() -> bool:
        await reconcile(alone)
        found = {schedule_id async for schedule_id in alone.engine.schedules.task_schedules()}
        return wanted in found and orphan.id not in found

    await eventually(put_right)


async def test_a_stored_webhook_that_was_not_handed_over_is_handled(alone: RunningEngine) -> None:
    """The API died between storing a webhook and handing it over."""
    community = await alone.community({"name": "tutorial", "config": {"api_key": "k"}})
    row = ReceivedWebhook(
        instance_id=await instance_of(alone, community),
        community=community,
        plugin="tutorial",
        instance="tutorial",
        path="/",
        body=b'{"account": "alice", "data": {"n": 1}}',
    )
    async with alone.engine.database.write() as session:
        session.add(row)
    await reconcile(alone)
    delivered = await eventually(lambda: alone.driver.to("events"))
    assert [event["data"] for event in delivered] == [{"n": 1}]


async def test_a_delivery_without_a_sender_is_sent(alone: RunningEngine) -> None:
    """The worker died between the commit and the start of the delivery."""
    async with alone.engine.database.write() as session:
        await outbox.append(
            session,
            community="c",
            kind=outbox.EVENT,
            body={"n": 1},
            url=f"{alone.driver.url}/events",
        )
    await reconcile(alone)
    assert await eventually(lambda: alone.driver.to("events")) == [{"n": 1}]
    await reconcile(alone)
    assert len(alone.driver.received) == 1


@pytest.mark.parametrize("crashed", [False, True])
async def test_a_change_that_was_never_handed_over_is_withdrawn(
    alone: RunningEngine, crashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config, which holds secrets, goes; its key may be used again, unless a mark was lost."""
    old = utc_now() - timedelta(hours=3)
    started = old + timedelta(hours=1 if crashed else -1)
    monkeypatch.setattr(alone.engine.database, "marks_kept_since", started)
    change = CommunityChange(community="c", desired_encrypted="x", created_at=old)
    key = IdempotencyKey(scope="s", key="k", body_hash="", resource_id=change.id)
    change_id = change.id
    async with alone.engine.database.write() as session:
        session.add_all([change, key])
    assert await withdraw_abandoned_changes(alone.engine) == 1
    async with alone.engine.database.read() as session:
        row = await session.get_one(CommunityChange, change_id)
        assert (row.status, row.desired_encrypted) == ("refused", None)
        assert (await session.get(IdempotencyKey, ("s", "k")) is None) == (not crashed)


async def test_what_is_past_its_retention_goes(alone: RunningEngine) -> None:
    old = utc_now() - timedelta(days=40)
    async with alone.engine.database.write() as session:
        item = await outbox.append(session, community="c", kind=outbox.EVENT, body={}, url=None)
        item.finished_at = old
        pending = await outbox.append(
            session, community="c", kind=outbox.EVENT, body={}, url=f"{alone.driver.url}/events"
        )
        pending.created_at = old
        done = Invocation(
            community="c", instance_id="i", plugin="p", target="t", status="done", finished_at=old
        )
        unanswered = Invocation(
            community="c", instance_id="i", plugin="p", target="t", created_at=old
        )
        session.add_all([done, unanswered])
        ids = (item.id, pending.id, done.id, unanswered.id)
    await reconcile(alone)
    async with alone.engine.database.read() as session:
        assert await outbox.get_item(session, ids[0]) is None
        assert await outbox.get_item(session, ids[1]) is not None
        assert await session.get(Invocation, ids[2]) is None
        assert await session.get(Invocation, ids[3]) is None


async def test_instances_of_plugins_that_are_gone_hurt_nobody(alone: RunningEngine) -> None:
    community = await alone.community()
    async with alone.engine.database.write() as session:
        session.add(
            PluginInstance(
                community=community, plugin="removed", instance="removed", config_encrypted="x"
            )
        )
        session.add(
            GovernanceProcess(
                community=community,
                plugin="removed",
                instance="removed",
                slug="vote",
                instance_id="x",
            )
        )
    await reconcile(alone)
    listed = await alone.http.get("/api/internal/process", params={"community": community})
    assert isinstance(listed, httpx.Response)
    assert listed.json()["processes"][0]["status"] == "created"


async def running_workflows(engine: Engine) -> set[str]:
    return {process_id async for _, process_id in engine.temporal.processes.running()}


async def handed_over(engine: Engine, activity_type: str) -> set[str]:
    return {id_ async for id_ in engine.temporal.background.running(activity_type)}


@pytest.mark.parametrize("idle", ["sqlite"], indirect=True)
async def test_what_is_as_it_should_be_is_not_read(idle: Engine) -> None:
    """1,000 processes with their workflows cost a statement or two, whatever they hold."""
    rows = [
        process_row("c", "i", status="pending", state={"votes": "x" * 1000}) for _ in range(1000)
    ]
    records = [row.record() for row in rows]
    async with idle.database.write() as session:
        session.add_all(rows)
    nothing = Capabilities(can_close=False, can_update=False, receives_webhooks=False)
    for some in (records[n : n + 50] for n in range(0, 1000, 50)):
        await asyncio.gather(*(idle.temporal.processes.ensure(r, nothing, None) for r in some))

    async def all_run() -> bool:
        return len(await running_workflows(idle)) == 1000

    await eventually(all_run, seconds=60)
    activities = ReconciliationActivities(idle)
    with statements(idle.database) as seen:
        assert await activities._processes_without_workflow() == 0
        assert await activities._workflows_without_process() == 0
    assert len(seen) <= 3, seen
    assert not [statement for statement in seen if "governance_process.state" in statement]


async def test_processes_without_workflow_are_found_on_every_page(
    idle: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "PAGE", 3)
    monkeypatch.setattr(reconciliation, "AT_ONCE", 2)
    rows = [process_row("c", "i", status=status) for status in ("created", "pending") * 5]
    ended = [process_row("c", "i", status="completed") for _ in range(5)]
    ids = {row.id for row in rows}
    async with idle.database.write() as session:
        session.add_all(rows + ended)
    activities = ReconciliationActivities(idle)
    assert await activities._processes_without_workflow() == 10

    async def all_run() -> bool:
        return await running_workflows(idle) == ids

    await eventually(all_run)
    assert await activities._processes_without_workflow() == 0


async def test_workflows_without_process_are_found_on_every_page(
    idle: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "PAGE", 3)
    rows = [process_row("c", "i", status="pending") for _ in range(10)]
    kept = {row.id for row in rows[:4]}
    async with idle.database.write() as session:
        session.add_all(rows)
    activities = ReconciliationActivities(idle)
    assert await activities._processes_without_workflow() == 10
    async with idle.database.write() as session:
        for row in rows[4:]:
            await session.delete(await session.get_one(GovernanceProcess, row.id))

    async def the_others_are_ended() -> bool:
        await activities._workflows_without_process()
        return await running_workflows(idle) == kept

    await eventually(the_others_are_ended)


@pytest.mark.parametrize("same_moment", [False, True])
async def test_what_waits_is_handed_over_from_every_page(
    idle: Engine, monkeypatch: pytest.MonkeyPatch, same_moment: bool
) -> None:
    monkeypatch.setattr(reconciliation, "PAGE", 3)
    monkeypatch.setattr(reconciliation, "AT_ONCE", 2)
    first = utc_now()
    moments = [first if same_moment else first + timedelta(seconds=n) for n in range(10)]
    async with idle.database.write() as session:
        received = [
            ReceivedWebhook(
                instance_id="i",
                community="c",
                plugin="tutorial",
                instance="tutorial",
                path="/",
                received_at=moment,
            )
            for moment in moments
        ]
        handled = ReceivedWebhook(
            instance_id="i",
            community="c",
            plugin="tutorial",
            instance="tutorial",
            path="/",
            status="handled",
        )
        session.add_all([*received, handled])
        items = [
            await outbox.append(session, community="c", kind=outbox.EVENT, body={}, url="http://x")
            for _ in moments
        ]
        for item, moment in zip(items, moments, strict=True):
            item.created_at = moment
        await outbox.append(session, community="c", kind=outbox.EVENT, body={}, url=None)
    webhook_ids, item_ids = {row.id for row in received}, {item.id for item in items}
    activities = ReconciliationActivities(idle)
    assert (await activities._webhooks(), await activities._deliveries()) == (10, 10)

    async def all_wait() -> bool:
        return (
            await handed_over(idle, "receive_webhook") >= webhook_ids
            and await handed_over(idle, "deliver") >= item_ids
        )

    await eventually(all_wait)
    assert (await activities._webhooks(), await activities._deliveries()) == (0, 0)
