"""What a crash left between two steps is found and put right."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from engine.activities.communities import withdraw_abandoned_changes
from engine.activities.reconciliation import ReconciliationActivities
from engine.messages import process_workflow_id
from engine.schedules import TaskSchedule
from engine.store import outbox
from engine.store.communities import CommunityChange, PluginInstance
from engine.store.database import new_id, utc_now
from engine.store.invocations import IdempotencyKey, Invocation
from engine.store.processes import GovernanceProcess
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
    await alone.client.get_workflow_handle(workflow_id).terminate()

    async def running_again() -> bool:
        await reconcile(alone)
        return await status_of(alone, workflow_id) == WorkflowExecutionStatus.RUNNING

    await eventually(running_again)
    closed = await alone.http.delete(location)
    assert closed.status_code == 200, closed.text
    assert closed.json()["outcome"] == {"closed": True}


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


async def test_a_workflow_whose_process_has_ended_is_told(alone: RunningEngine) -> None:
    """The worker died between disabling a plugin and telling the workflows of its processes."""
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
    orphan = TaskSchedule("gone", f"p{new_id()[:8]}", "task", new_id(), 3600)
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
        path="/",
        body=b'{"account": "alice", "data": {"n": 1}}',
    )
    async with alone.engine.database.write() as session:
        session.add(row)
    await reconcile(alone)
    told = await eventually(lambda: alone.driver.to("events"))
    assert [event["data"] for event in told] == [{"n": 1}]


async def test_a_delivery_without_a_sender_is_sent(alone: RunningEngine) -> None:
    """The worker died between the commit and handing out."""
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


async def test_a_change_that_was_never_handed_over_is_withdrawn(alone: RunningEngine) -> None:
    """Its config, which holds secrets, goes; its key may be used again."""
    old = utc_now() - timedelta(hours=3)
    change = CommunityChange(community="c", desired_encrypted="x", created_at=old)
    key = IdempotencyKey(scope="s", key="k", body_hash="", resource_id=change.id)
    change_id = change.id
    async with alone.engine.database.write() as session:
        session.add_all([change, key])
    assert await withdraw_abandoned_changes(alone.engine) == 1
    async with alone.engine.database.read() as session:
        row = await session.get_one(CommunityChange, change_id)
        assert (row.status, row.desired_encrypted) == ("refused", None)
        assert await session.get(IdempotencyKey, ("s", "k")) is None


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
        session.add(PluginInstance(community=community, plugin="removed", config_encrypted="x"))
        session.add(
            GovernanceProcess(community=community, plugin="removed", slug="vote", instance_id="x")
        )
    await reconcile(alone)
    listed = await alone.http.get("/api/internal/process", params={"community": community})
    assert isinstance(listed, httpx.Response)
    assert listed.json()["processes"][0]["status"] == "created"
