"""Workflows that are ended, asked and signalled by Temporal clients that know nothing of us."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError

from engine.activities.reconciliation import WATCHED, ReconciliationActivities
from tests.engine.conftest import RunningEngine
from tests.servers import eventually

DURABLE = "durable.vote"


class Started:
    """A pending process, and the handle of its workflow."""

    def __init__(self, running: RunningEngine, community: str, location: str) -> None:
        self.running = running
        self.location = location
        name, process_id = location.split("/")[-2:]
        self.handle: WorkflowHandle[Any, Any] = running.client.get_workflow_handle(
            f"process/{community}/{name}/{process_id}"
        )

    async def record(self) -> dict[str, Any]:
        record: dict[str, Any] = (await self.running.http.get(self.location)).json()
        return record

    async def ended(self) -> dict[str, Any] | None:
        record = await self.record()
        return record if record["status"] == "completed" else None


@pytest.fixture
async def community(running: RunningEngine, tmp_path: Any) -> str:
    platform = tmp_path / "platform"
    platform.touch()
    return await running.community(
        {"name": "durable", "config": {"platform": str(platform)}},
        {"name": "troublesome", "config": {}},
    )


async def start(running: RunningEngine, community: str, name: str, **body: Any) -> Started:
    answer = await running.start(community, name, **body)
    assert answer.status_code == 202, answer.text
    return Started(running, community, answer.headers["location"])


async def test_a_cancelled_workflow_ends_its_record_and_its_driver_is_notified(
    running: RunningEngine, community: str
) -> None:
    callback = f"{running.driver.url}/{community}"
    process = await start(running, community, DURABLE, id="v", callback_url=callback)
    await process.handle.cancel()
    record = await eventually(process.ended)
    assert record["errors"]["code"] == "cancelled"
    assert await eventually(lambda: running.driver.to(community)) == [record]
    again = await running.http.delete(process.location)
    assert again.status_code == 400
    assert again.json()["detail"] == "Can't close process, it has already completed"


async def test_a_terminated_workflow_ends_its_record_within_a_minute(
    running: RunningEngine, community: str
) -> None:
    callback = f"{running.driver.url}/{community}"
    process = await start(running, community, DURABLE, id="v", callback_url=callback)
    await process.handle.terminate()
    record = await eventually(process.ended, 60)
    assert record["errors"]["code"] == "cancelled"
    assert await eventually(lambda: running.driver.to(community)) == [record]


async def test_a_delete_finds_out_at_once(running: RunningEngine, community: str) -> None:
    process = await start(running, community, DURABLE, id="v")
    await process.handle.terminate()
    closed = await running.http.delete(process.location)
    assert closed.status_code == 400, closed.text
    assert (await process.record())["errors"]["code"] == "cancelled"


async def test_waiting_for_one_that_is_terminated_is_no_fault(
    running: RunningEngine, community: str
) -> None:
    process = await start(running, community, DURABLE, id="v")
    await process.handle.terminate()
    waited = await running.http.get(process.location, params={"wait": 5})
    assert waited.status_code == 200


async def test_a_close_that_the_class_has_not_is_refused_and_wedges_nothing(
    running: RunningEngine, community: str
) -> None:
    process = await start(running, community, "durable.unclosable", id="v")
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await process.handle.execute_update("close")
    assert "does not support manually closing" in str(refused.value.cause)
    await running.http.post(
        f"/api/hooks/{community}/durable", content="one", headers={"X-Concerns": "v"}
    )

    async def heard() -> bool:
        return bool((await process.record())["outcome"]["heard"] == ["one"])

    await eventually(heard)


async def test_a_webhook_that_does_not_exist_occupies_nothing(
    running: RunningEngine, community: str
) -> None:
    process = await start(running, community, "durable.crowd")
    for number in range(5):
        await process.handle.signal("receive_webhook", f"none-{number}")
    closed = await running.http.delete(process.location)
    assert closed.status_code == 200, closed.text
    history = await process.handle.fetch_history()
    failures = [e for e in history.events if e.HasField("activity_task_failed_event_attributes")]
    assert not failures


async def test_a_repeated_delete_with_its_key_gets_the_first_answer(
    running: RunningEngine, community: str
) -> None:
    process = await start(running, community, DURABLE, id="v")
    key = {"Idempotency-Key": "close once"}
    first = await running.http.delete(process.location, headers=key)
    again = await running.http.delete(process.location, headers=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    other = await running.http.delete(process.location, headers={"Idempotency-Key": "another"})
    assert other.status_code == 400


async def test_so_does_one_that_failed(running: RunningEngine, community: str) -> None:
    process = await start(running, community, "troublesome.fragile", fail="stay")
    key = {"Idempotency-Key": "close once"}
    first = await running.http.delete(process.location, headers=key)
    again = await running.http.delete(process.location, headers=key)
    assert (first.status_code, again.status_code) == (502, 502)
    assert first.json() == again.json()


async def test_an_outcome_changed_in_place_is_stored(
    running: RunningEngine, community: str
) -> None:
    """By `update`, and by `update_many`."""
    for name in ("durable.counting", "durable.counting-together"):
        process = await start(running, community, name)

        async def counted(process: Started = process) -> bool:
            return bool((await process.record())["outcome"].get("n", 0) >= 2)

        await eventually(counted)


async def test_a_workflow_that_was_reset_goes_on_in_another_run(
    running: RunningEngine, community: str
) -> None:
    """Its first run counts as terminated, but the process has not ended."""
    process = await start(running, community, DURABLE, id="v")
    history = process.handle.fetch_history_events()
    completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    (first, *_) = [event.event_id async for event in history if event.event_type == completed]
    await running.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=running.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=process.handle.id),
            reason="a test",
            workflow_task_finish_event_id=first,
            request_id=uuid4().hex,
        )
    )
    process_id = process.location.rpartition("/")[2]

    async def is_seen() -> bool:
        ended = running.engine.temporal.processes.ended_from_outside(WATCHED)
        return process_id in [seen async for seen in ended]

    await eventually(is_seen)
    await ReconciliationActivities(running.engine)._end_if_pending(process_id)
    assert (await process.record())["status"] == "pending"
    assert (await running.http.delete(process.location)).status_code == 200


async def test_one_that_is_terminated_inside_its_start_is_reported_as_unknown(
    running: RunningEngine, community: str, tmp_path: Path
) -> None:
    platform, key = (
        tmp_path / "platform",
        {"Idempotency-Key": "k", "X-Metagov-Community": community},
    )

    async def ask() -> httpx.Response:
        body = {"id": "v", "after": 2}
        return await running.http.post(
            "/api/internal/process/durable.blind", json=body, headers=key
        )

    starting = asyncio.create_task(ask())
    await eventually(lambda: "poll " in platform.read_text())
    listed = (
        await running.http.get("/api/internal/process", params={"community": community})
    ).json()
    process_id = listed["processes"][0]["id"]
    handle = running.client.get_workflow_handle(f"process/{community}/durable.blind/{process_id}")
    await handle.terminate()
    assert (await starting).status_code == 504
    assert platform.read_text().count("poll ") == 1


async def test_votes_that_a_cancelled_workflow_did_not_handle_are_counted(
    running: RunningEngine, community: str
) -> None:
    process = await start(running, community, DURABLE, id="v")
    hook = f"/api/hooks/{community}/durable"
    for number in range(5):
        headers = {"X-Concerns": "v", "X-Delivery": f"{community}-{number}"}
        taken = await running.http.post(hook, content=f"hang-{number}", headers=headers)
        assert taken.status_code == 200
    history = process.handle.fetch_history_events

    async def signalled() -> bool:
        kinds = [event.event_type async for event in history()]
        return kinds.count(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED) == 5

    await eventually(signalled)
    await process.handle.cancel()
    record = await eventually(process.ended)
    assert len(record["outcome"]["heard"]) + record["webhooks_left_out"] >= 5


async def test_who_waits_for_one_that_is_terminated_waits_until_it_is_reported(
    running: RunningEngine, community: str
) -> None:
    process = await start(running, community, DURABLE, id="v")
    await process.handle.terminate()
    began = time.monotonic()
    read = await running.http.get(process.location, params={"wait": 4})
    assert read.json()["status"] == "completed" or time.monotonic() - began >= 4
