"""Calls in a process of their own do what they do in the worker's, and take down nothing else."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from engine.errors import PluginCodeError, RateLimitError, WorkerLostError
from engine.invocations.heartbeat import CUT_OFF, ENDED, with_heartbeat
from engine.invocations.loading import LoadedPlugin, load_plugin
from engine.invocations.lost_calls import is_suspect
from engine.invocations.pacing import call_at_once
from engine.invocations.process import LoadedProcess
from engine.invocations.process_calls import CloseCall
from engine.messages import InvokeProcess
from engine.sdk.parameters import Parameters
from engine.sdk.webhook import WebhookRequest
from engine.store import communities, pacing
from engine.store.database import new_id, utc_now
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually


async def load(running: RunningEngine, community: str, plugin: str) -> LoadedPlugin:
    async with running.engine.database.read() as session:
        found = await communities.find_instance(session, community, plugin)
        assert found is not None
        enabled = await communities.find_enabled(session, found.id)
        assert enabled is not None
        loaded = await load_plugin(running.engine, session, enabled, f"call-{new_id()}")
    loaded.isolated = True
    return loaded


async def call(running: RunningEngine, loaded: LoadedPlugin, method: Any, *args: Any) -> Any:
    """Make the call as an activity does."""

    async def activity() -> Any:
        return await with_heartbeat(call_at_once(running.engine, loaded, "the call", method, *args))

    environment = ActivityEnvironment()
    environment.info = replace(
        environment.info, started_time=utc_now(), start_to_close_timeout=timedelta(minutes=1)
    )
    return await environment.run(activity)


@pytest.fixture
async def community(running: RunningEngine, tmp_path: Path) -> str:
    config = {"platform": str(tmp_path / "platform")}
    return await running.community(
        {"name": "durable", "config": config},
        {"name": "limited", "config": config},
        {"name": "poisonous", "config": {}},
    )


@one_database
async def test_results_events_and_state_come_back(running: RunningEngine, community: str) -> None:
    loaded = await load(running, community, "durable")
    plugin: Any = loaded.plugin
    made = await call(running, loaded, plugin.once, Parameters({"id": "a"}, None))
    assert made == {"made": 1}
    assert [event.data for event in loaded.context.events] == [{"id": "a"}]
    loaded = await load(running, community, "durable")
    plugin = loaded.plugin
    counted = await call(running, loaded, plugin.increment, Parameters({"key": "n", "by": 2}, None))
    assert counted == {"value": 2}
    assert loaded.context.state.changes().increments == {"n": 2}


async def loaded_process(running: RunningEngine, process_id: str) -> LoadedProcess:
    """A process, ready for one call."""
    call = CloseCall(running.engine, InvokeProcess(process_id, "call-1", "close"))
    call.counts_losses = False
    assert await call.load() is None and call.loaded is not None
    return call.loaded


@one_database
async def test_what_became_of_a_process_comes_back(running: RunningEngine, community: str) -> None:
    started = await running.start(community, "durable.vote", id="v", title="A vote")
    loaded = await loaded_process(running, started.json()["id"])
    loaded.plugin.isolated = True
    request = WebhookRequest(body=b"one", headers={}, query={}, path="/")
    process: Any = loaded.process
    await call(running, loaded.plugin, process.receive_webhook, request)
    assert loaded.process.outcome == {"heard": ["one"]}
    assert loaded.process.snapshot().status == "pending"
    assert loaded.process.parameters["id"] == "v"


@one_database
async def test_two_calls_for_one_object_see_what_the_first_did(
    running: RunningEngine, community: str
) -> None:
    """As when ``find_started`` finds nothing, and ``start`` follows."""
    loaded = await load(running, community, "durable")
    plugin: Any = loaded.plugin
    for expected in (1, 2):
        counted = await call(running, loaded, plugin.increment, Parameters({"key": "n"}, None))
        assert counted == {"value": expected}
    await call(running, loaded, plugin.once, Parameters({"id": "a"}, None))
    await call(running, loaded, plugin.once, Parameters({"id": "b"}, None))
    assert [event.data["id"] for event in loaded.context.events] == ["a", "b"]
    assert loaded.context.state.changes().increments == {"n": 2}


@one_database
async def test_what_a_call_leaves_behind_ends_with_it(
    running: RunningEngine, community: str
) -> None:
    loaded = await load(running, community, "poisonous")
    plugin: Any = loaded.plugin
    began = time.monotonic()
    left = await call(running, loaded, plugin.fork, Parameters({}, None))
    # It holds the pipe, but the answer has come.
    assert time.monotonic() - began < 8
    await eventually(lambda: _has_ended(left["child"]))


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@one_database
async def test_attributes_that_cannot_be_sent_stay_behind(
    running: RunningEngine, community: str
) -> None:
    started = await running.start(community, "poisonous.vote")
    process_id = started.json()["id"]
    loaded = await loaded_process(running, process_id)
    loaded.plugin.isolated = True
    process: Any = loaded.process
    await call(running, loaded.plugin, process.start, process.parameters)
    assert loaded.process.snapshot().status == "pending"


@one_database
async def test_a_process_that_never_came_to_the_call_has_done_nothing(
    running: RunningEngine, community: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is 503, and the same key may be sent again."""
    async with running.engine.database.write() as session:
        for instance in await communities.instances_of(session, community):
            await pacing.isolate(session, instance.id, utc_now() + timedelta(hours=1))
    headers = {"X-Metagov-Community": community, "Idempotency-Key": "k"}

    async def ask(path: str, body: dict[str, Any]) -> int:
        answer = await running.http.post(f"/api/internal/{path}", json=body, headers=headers)
        return answer.status_code

    action, start = "action/durable.once", "process/durable.blind"
    asked: dict[str, dict[str, Any]] = {action: {"parameters": {"id": "a"}}, start: {"id": "v"}}
    with monkeypatch.context() as patched:
        patched.setattr("engine.invocations.isolation.START_SECONDS", 0.01)
        assert [await ask(*item) for item in asked.items()] == [503, 503]
    assert [await ask(*item) for item in asked.items()] == [200, 202]
    lines = (tmp_path / "platform").read_text().splitlines()
    assert (len(lines), lines.count("action a")) == (2, 1)


async def test_an_activity_whose_time_is_up_says_so_before_the_server_does() -> None:
    environment = ActivityEnvironment()
    environment.info = replace(
        environment.info, started_time=utc_now(), start_to_close_timeout=timedelta(seconds=1)
    )
    noted: list[Any] = []
    environment.on_heartbeat = lambda *details: noted.append(details)

    async def activity() -> None:
        await with_heartbeat(asyncio.sleep(30))

    with pytest.raises(ApplicationError, match="out_of_time"):
        await environment.run(activity)
    assert noted[-1] == (ENDED, 1, {CUT_OFF: True})


@one_database
async def test_errors_come_back_as_they_are(running: RunningEngine, community: str) -> None:
    loaded = await load(running, community, "limited")
    plugin: Any = loaded.plugin
    with pytest.raises(RateLimitError) as limited:
        await call(running, loaded, plugin.call, Parameters({"enough": 7}, None))
    assert limited.value.retry_after_seconds == 7
    loaded = await load(running, community, "durable")
    plugin = loaded.plugin
    with pytest.raises(PluginCodeError, match="failed in the call"):
        await call(
            running, loaded, plugin.put, Parameters({"key": "k", "value": 1, "fail": 1}, None)
        )


@one_database
async def test_one_that_takes_its_process_down_is_made_three_times(
    running: RunningEngine, community: str
) -> None:
    loaded = await load(running, community, "poisonous")
    plugin: Any = loaded.plugin
    for code in (3, 0):
        with pytest.raises(ApplicationError, match="call_lost"):
            await call(running, loaded, plugin.leave, Parameters({"code": code}, None))
    with pytest.raises(WorkerLostError, match="3 times"):
        await call(running, loaded, plugin.leave, Parameters({}, None))
    refused = await running.act(community, "poisonous.add", n=1)
    assert refused.status_code == 503, refused.text
    assert refused.json()["type"] == "urn:metagov:problem:plugin_paused"
    assert refused.headers["retry-after"]
    page = await running.http.get("/api/internal/events", params={"community": community})
    (event,) = [i["data"] for i in page.json()["events"] if i["type"] == "event"]
    assert (event["event_type"], event["data"]["reason"]) == ("plugin_paused", "worker_lost")


async def lost(running: RunningEngine, community: str, call_id: str, attempt: int) -> bool:
    """Whether a call is a suspect, asked by the try after one whose worker died."""
    async with running.engine.database.read() as session:
        found = await communities.find_instance(session, community, "poisonous")
        assert found is not None
        instance = await communities.find_enabled(session, found.id)
    assert instance is not None

    async def activity() -> bool:
        return await with_heartbeat(is_suspect(running.engine, call_id, instance))

    environment = ActivityEnvironment()
    environment.info = replace(
        environment.info,
        attempt=attempt,
        started_time=utc_now(),
        start_to_close_timeout=timedelta(minutes=1),
    )
    return await environment.run(activity)


@one_database
async def test_workers_that_die_beside_a_call_of_its_own_process_are_hardly_its_fault(
    running: RunningEngine, community: str
) -> None:
    call_id = new_id()
    for attempt in range(2, 12):
        assert await lost(running, community, call_id, attempt)
    with pytest.raises(WorkerLostError, match="10 times"):
        await lost(running, community, call_id, 12)


@one_database
async def test_a_call_that_is_not_made_apart_is_counted_each_time(
    running: RunningEngine, community: str
) -> None:
    call_id = new_id()
    for _ in range(2):
        assert await lost(running, community, call_id, 2)
    with pytest.raises(WorkerLostError, match="3 times"):
        await lost(running, community, call_id, 2)
