"""A process that receives thousands of webhooks continues as new, and loses and reorders none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlmodel import select
from temporalio.client import Client

from engine.activities.routing import route_accepted
from engine.messages import process_workflow_id
from engine.resources import Engine
from engine.store.webhooks import ReceivedWebhook
from tests.engine.conftest import RunningEngine, run_engine
from tests.server_processes import temporal_server
from tests.servers import eventually

# The server suggests it after 4,096 events by default: this is the same, only sooner.
SUGGESTED_AFTER = ["--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=120"]
WEBHOOKS = 250


@pytest.fixture
async def short_histories(tmp_path: Path) -> AsyncIterator[Client]:
    """A server that suggests to continue as new early."""
    async with temporal_server(tmp_path, *SUGGESTED_AFTER) as client:
        yield client


async def test_no_webhook_is_lost_or_reordered(
    short_histories: Client, plugins: None, tmp_path: Path
) -> None:
    """They come faster than they are handled, so some wait whenever the workflow goes on anew."""
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    async with run_engine(short_histories, url, tmp_path) as running:
        platform = str(tmp_path / "platform")
        community = await running.community({"name": "durable", "config": {"platform": platform}})
        started = await running.start(community, "durable.vote", id="v")
        process_id = started.json()["id"]
        workflow_id = process_workflow_id(community, "durable.vote", process_id)
        handle = running.client.get_workflow_handle(workflow_id)
        first_run = (await handle.describe()).run_id
        # In order of their arrival: each signal leaves when the one before is on its way.
        for number in range(WEBHOOKS):
            await running.http.post(
                f"/api/hooks/{community}/durable", content=str(number), headers={"X-Concerns": "v"}
            )

        async def all_handled() -> list[str] | None:
            record = (await running.http.get(started.headers["location"])).json()
            heard: list[str] = record["outcome"]["heard"]
            return heard if len(heard) >= WEBHOOKS else None

        heard = await eventually(all_handled, 90)
        assert sorted(heard, key=int) == [str(number) for number in range(WEBHOOKS)]
        await _noted_in_the_order_of_signals(running, workflow_id, heard)
        assert (await handle.describe()).run_id != first_run
        closed = await running.http.delete(started.headers["location"])
        assert closed.status_code == 200


async def test_no_child_is_lost(short_histories: Client, plugins: None, tmp_path: Path) -> None:
    """All end at once, so some wait when the workflow of their parent goes on anew."""
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    part = {"name": "composing.part", "parameters": {"id": "a", "at_once": True}}
    async with run_engine(short_histories, url, tmp_path) as running:
        config = {"platform": str(tmp_path / "platform")}
        community = await running.community({"name": "composing", "config": config})
        body = {"children": [part] * 20, "wanted": 20, "handling": 0.05}
        started = await running.start(community, "composing.parent", **body)
        ended = await running.completed(started.headers["location"], 60)
        assert len(ended["outcome"]["ended"]) == 20
        workflow_id = process_workflow_id(community, "composing.parent", ended["id"])
        query = f"WorkflowId = '{workflow_id}'"
        await running.client.get_workflow_handle(workflow_id).result()
        assert await eventually(lambda: _several_runs(running.client, query))
        lines = (tmp_path / "platform").read_text().splitlines()
        completed = [line for line in lines if line.startswith("completed")]
        assert len(completed) == len(set(completed)) == 20


async def _several_runs(client: Client, query: str) -> bool:
    return len([run async for run in client.list_workflows(query)]) > 1


async def test_a_close_asked_for_while_it_goes_on_anew_is_done(
    short_histories: Client, plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close has webhooks routed before it takes its place, and that takes a while."""
    began = asyncio.Event()

    async def slowly(engine: Engine, process_id: str) -> None:
        began.set()
        await asyncio.sleep(4)
        await route_accepted(engine, process_id)

    monkeypatch.setattr("engine.activities.processes.route_accepted", slowly)
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    async with run_engine(short_histories, url, tmp_path) as running:
        platform = str(tmp_path / "platform")
        community = await running.community({"name": "durable", "config": {"platform": platform}})
        started = await running.start(community, "durable.vote", id="v")
        closing = asyncio.create_task(running.http.delete(started.headers["location"]))
        await asyncio.wait_for(began.wait(), 20)
        hook, headers = f"/api/hooks/{community}/durable", {"X-Concerns": "v"}
        for number in range(40):
            await running.http.post(hook, content=str(number), headers=headers)
        closed = await closing
        assert closed.status_code == 200, closed.text


async def _noted_in_the_order_of_signals(
    running: RunningEngine, workflow_id: str, heard: list[str]
) -> None:
    """The outcome has them in the order in which the workflow's runs were signalled."""
    async with running.engine.database.read() as session:
        rows = (await session.exec(select(ReceivedWebhook))).all()
    bodies = {row.id: row.body.decode() for row in rows}
    signalled: list[str] = []
    runs = [
        execution
        async for execution in running.client.list_workflows(f"WorkflowId = '{workflow_id}'")
    ]
    for execution in sorted(runs, key=lambda item: item.start_time):
        handle = running.client.get_workflow_handle(workflow_id, run_id=execution.run_id)
        async for event in handle.fetch_history_events():
            attributes = event.workflow_execution_signaled_event_attributes
            if attributes.signal_name == "receive_webhook":
                reference = attributes.input.payloads[0].data.decode().strip('"')
                signalled.append(bodies[reference])
    assert len(runs) > 1
    assert heard == signalled
