"""Records the histories that ``test_replay`` replays: ``make test ARGS="-m record"``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowHandle

from engine.messages import process_workflow_id
from tests.engine.conftest import RunningEngine, run_engine
from tests.server_processes import temporal_server
from tests.servers import eventually

pytestmark = pytest.mark.record

# One folder for each day, so that what an earlier version recorded stays.
FOLDER = Path(__file__).parent.parent / "histories" / f"{datetime.now(UTC):%Y-%m-%d}"
CONTINUES_EARLY = ["--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=20"]


async def record(name: str, handle: WorkflowHandle[Any, Any]) -> None:
    """Write the history of a workflow as it stands."""
    history = await handle.fetch_history()
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(history.to_json_dict(), separators=(",", ":"))
    (FOLDER / f"{name}.json").write_text(f"{text}\n")


class Process:
    """A process, its record and its workflow."""

    def __init__(self, running: RunningEngine, community: str, name: str, process_id: str) -> None:
        self._running = running
        self._plugin = name.partition(".")[0]
        self._community = community
        self.id = process_id
        self.location = f"/api/internal/process/{name}/{process_id}"
        self.workflow_id = process_workflow_id(community, name, process_id)
        self.handle = running.client.get_workflow_handle(self.workflow_id)

    async def read(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self._running.http.get(self.location)).json()
        return found

    async def until_outcome(self, **expected: Any) -> None:
        async def has_it() -> bool:
            outcome = (await self.read())["outcome"]
            return all(outcome.get(key) == value for key, value in expected.items())

        await eventually(has_it, 60)

    async def completed(self) -> dict[str, Any]:
        return await self._running.completed(self.location)

    async def close(self) -> None:
        closed = await self._running.http.delete(self.location)
        assert closed.status_code == 200, closed.text

    async def send(self, body: dict[str, Any] | str) -> None:
        """Send a webhook that concerns it."""
        content = body if isinstance(body, str) else json.dumps(body)
        answer = await self._running.http.post(
            f"/api/hooks/{self._community}/{self._plugin}",
            content=content,
            headers={"X-Delivery": uuid4().hex, "X-Concerns": "v"},
        )
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
async def running(
    temporal: Client, plugins: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningEngine]:
    folder = tmp_path_factory.mktemp("recording")
    url = f"sqlite:///{folder / 'engine.sqlite'}"
    async with run_engine(temporal, url, folder) as running:
        yield running


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    path = tmp_path / "platform"
    path.touch()
    return path


@pytest.fixture
async def community(running: RunningEngine, platform: Path) -> str:
    return await running.community(*with_plugins(platform))


def with_plugins(platform: Path) -> list[dict[str, Any]]:
    return [
        {"name": "tutorial", "config": {"api_key": "k"}},
        {"name": "durable", "config": {"platform": str(platform)}},
        {"name": "voting", "config": {"platform": str(platform)}},
        {"name": "reader", "config": {"api_key": "k"}},
        {"name": "composing", "config": {"platform": str(platform)}},
        {"name": "troublesome", "config": {}},
    ]


async def start(running: RunningEngine, community: str, name: str, **body: Any) -> Process:
    started = await running.start(community, name, **body)
    assert started.status_code == 202, started.text
    return Process(running, community, name, started.json()["id"])


async def start_badly(running: RunningEngine, community: str, name: str, **body: Any) -> Process:
    """Start what has no answer, or a bad one."""
    started = await running.start(community, name, **body)
    assert started.status_code >= 500, started.text
    listed = await running.http.get("/api/internal/process", params={"community": community})
    (found,) = listed.json()["processes"]
    return Process(running, community, name, found["id"])


async def test_webhooks(running: RunningEngine, community: str) -> None:
    for name, hands, closed in (
        ("waiting_for_a_webhook", [], False),
        ("handled_a_webhook", ["ada"], False),
        ("completed_by_webhooks", ["ada", "bob", "eve"], False),
        ("closed_by_the_driver", [], True),
        ("closed_by_the_driver_after_a_webhook", ["ada"], True),
    ):
        process = await start(running, community, "tutorial.show-of-hands", title=name)
        for number, hand in enumerate(hands):
            await process.send({"raised_by": hand, "account": hand, "data": {}})
            await process.until_outcome(hands=hands[: number + 1])
        if closed:
            await process.close()
        await record(name, process.handle)
        if not closed and len(hands) < 3:
            await process.close()


async def test_failed_starts(running: RunningEngine, community: str) -> None:
    process = await start_badly(running, community, "troublesome.fragile", fail="start")
    assert (await process.completed())["errors"]["code"] == "start_failed"
    await process.handle.result()
    await record("failed_start", process.handle)


async def test_a_start_of_unknown_outcome(running: RunningEngine, community: str) -> None:
    """The platform made it, and answers too late; nobody can look."""
    process = await start_badly(running, community, "durable.blind", id="v", after=4)
    assert (await process.completed())["errors"]["code"] == "start_outcome_unknown"
    await process.handle.result()
    await record("start_of_unknown_outcome", process.handle)


async def test_closing_times(running: RunningEngine, community: str) -> None:
    in_time = await start(running, community, "troublesome.fragile", closing_in=1)
    await in_time.completed()
    await in_time.handle.result()
    await record("closed_at_its_closing_time", in_time.handle)
    stays = await start(running, community, "troublesome.fragile", closing_in=1, fail="stay")
    await eventually(lambda: scheduled(stays, "invoke_process", 2))
    await asyncio.wait_for(stays.handle.query("record"), 10)
    await record("left_open_at_its_closing_time", stays.handle)
    waiting = await start(running, community, "troublesome.fragile", closing_in=3600)
    await record("waiting_for_its_closing_time", waiting.handle)
    await waiting.close()


async def test_webhooks_before_a_close(running: RunningEngine, community: str) -> None:
    """They were accepted before it, and are slow."""
    asked = await start(running, community, "voting.ballot", id="a", keyed=False)
    for number in range(3):
        await asked.send({"ballot": "a", "number": number, "seconds": 0.5})
    await asked.close()
    assert (await asked.read())["outcome"] == {"votes": [0, 1, 2]}
    await asked.handle.result()
    await record("closed_by_the_driver_behind_webhooks", asked.handle)
    in_time = await start(running, community, "voting.ballot", id="b", closes_in=1.5)
    for number in range(2):
        await in_time.send({"ballot": "b", "number": number, "receiving": 1})
    assert (await in_time.completed())["outcome"] == {"votes": [0, 1]}
    await in_time.handle.result()
    await record("closed_at_its_closing_time_behind_webhooks", in_time.handle)


async def test_a_webhook_that_takes_the_closing_time_away(
    running: RunningEngine, community: str
) -> None:
    process = await start(running, community, "durable.vote", id="v", closing_in=1.5)
    await process.send("stuck-open-ended")
    await process.until_outcome(heard=["stuck-open-ended"])
    await record("closing_time_taken_away", process.handle)
    await process.close()


async def test_a_close_that_fails(running: RunningEngine, community: str) -> None:
    process = await start(running, community, "troublesome.fragile", fail="close")
    failed = await running.http.delete(process.location)
    assert failed.status_code == 502, failed.text
    await record("close_failed", process.handle)


async def test_a_webhook_that_fails(running: RunningEngine, community: str) -> None:
    process = await start(running, community, "troublesome.fragile")
    await process.send("fail")
    await process.send("fine")
    await process.until_outcome(heard=["fine"])
    await record("failed_webhook", process.handle)
    await process.close()


async def test_polls(running: RunningEngine, community: str, platform: Path) -> None:
    waiting = await start(running, community, "reader.polled", after=1_000_000)
    await eventually(lambda: scheduled(waiting, "poll_process", 1))
    await record("waiting_between_polls", waiting.handle)
    done = await start(running, community, "reader.polled", after=2)
    await done.completed()
    await done.handle.result()
    await record("completed_by_a_poll", done.handle)
    vote = await start(running, community, "durable.vote", id="v")
    await vote.send("one")
    await vote.until_outcome(heard=["one"])
    await record("webhook_between_polls", vote.handle)
    with platform.open("a") as file:
        file.write("news v first\n")
    await vote.until_outcome(news=["first"])
    await record("news_by_a_poll", vote.handle)
    await vote.close()
    await vote.handle.result()
    await record("closed_between_polls", vote.handle)


async def test_a_reload(running: RunningEngine, community: str, platform: Path) -> None:
    process = await start(running, community, "durable.crowd")
    with platform.open("a") as file:
        file.write(f"end {process.id}\n")
    assert (await process.completed())["outcome"] == {"ended": True}
    await process.handle.result()
    await record("reloaded_after_a_poll_of_many", process.handle)


async def test_children(running: RunningEngine, community: str, platform: Path) -> None:
    """One that ends by itself, one whose start fails, and one that ends with its parent."""
    parts = [
        {"name": "composing.part", "parameters": {"id": "a"}},
        {"name": "composing.part", "parameters": {"id": "b", "broken": True}},
        {"name": "composing.part", "parameters": {"id": "c"}, "ends_with_parent": True},
    ]
    parent = await start(running, community, "composing.parent", children=parts, wanted=2)
    children = [
        Process(running, community, "composing.part", child_id)
        for child_id in await children_of(running, community)
    ]

    async def one_has_ended() -> bool:
        return len((await parent.read())["outcome"]["ended"]) == 1

    await eventually(one_has_ended)
    await record("waiting_for_a_child", parent.handle)
    with platform.open("a") as file:
        file.write("end a\n")
    await parent.completed()
    await parent.handle.result()
    await record("completed_by_its_children", parent.handle)
    for child in children:
        found = await child.completed()
        await child.handle.result()
        name = found["errors"].get("code", "completed")
        await record(f"child_{name}", child.handle)


async def test_a_child_whose_parent_has_ended(
    running: RunningEngine, community: str, platform: Path
) -> None:
    part = {"name": "composing.part", "parameters": {"id": "d"}}
    parent = await start(running, community, "composing.parent", children=[part])
    (child_id,) = await children_of(running, community)
    await parent.close()
    await parent.handle.result()
    child = Process(running, community, "composing.part", child_id)
    with platform.open("a") as file:
        file.write("end d\n")
    await child.completed()
    await child.handle.result()
    await record("child_whose_parent_has_ended", child.handle)


async def children_of(running: RunningEngine, community: str) -> list[str]:
    """The ids of the children, once their workflows have begun."""

    async def found() -> list[str]:
        listed = await running.http.get("/api/internal/process", params={"community": community})
        parts = [one for one in listed.json()["processes"] if one["name"] == "composing.part"]
        return [one["id"] for one in parts if all(one["status"] != "created" for one in parts)]

    ids: list[str] = await eventually(found)
    return ids


async def test_a_disabled_plugin(running: RunningEngine, community: str) -> None:
    waiting = await start(running, community, "tutorial.show-of-hands", title="waits")
    polling = await start(running, community, "reader.polled", after=1_000_000)
    await running.community(name=community)
    for name, process in (("waiting", waiting), ("polling", polling)):
        assert (await process.completed())["errors"]
        await process.handle.result()
        await record(f"plugin_disabled_while_{name}", process.handle)
    changes = running.client.get_workflow_handle(f"community/{community}")
    await record("community_changed", changes)


async def test_several_changes_at_once(running: RunningEngine, community: str) -> None:
    configs = [{"name": "adaptable", "config": {"n": n, "seconds": 0.5}} for n in range(3)]
    await asyncio.gather(*(running.community(config, name=community) for config in configs))
    changes = running.client.get_workflow_handle(f"community/{community}")
    await record("community_changed_three_times", changes)


async def test_a_cancelled_workflow(running: RunningEngine, community: str) -> None:
    waiting = await start(running, community, "tutorial.show-of-hands", title="waits")
    polling = await start(running, community, "durable.vote", id="v")
    for name, process in (("waiting", waiting), ("polling", polling)):
        await process.handle.cancel()
        assert (await process.completed())["errors"]["code"] == "cancelled"
        await eventually(lambda process=process: closed(process))
        await record(f"cancelled_while_{name}", process.handle)


async def test_scheduled_runs(running: RunningEngine, community: str) -> None:
    await running.engine.schedules.start_reconciliation()
    task = f"task/{community}/reader.my-task-function"
    await running.client.get_schedule_handle(task).trigger()
    for name, which in (
        ("event_producer", f"WorkflowId STARTS_WITH '{task}'"),
        ("reconciliation", "WorkflowType = 'Reconciliation'"),
    ):
        query = f"{which} AND ExecutionStatus = 'Completed'"

        async def found(query: str = query) -> Any:
            runs = [item async for item in running.client.list_workflows(query, limit=1)]
            return runs[0] if runs else None

        run = await eventually(found)
        await record(name, running.client.get_workflow_handle(run.id, run_id=run.run_id))


@pytest.fixture
async def continuing_early(plugins: None, tmp_path: Path) -> AsyncIterator[Client]:
    """A server that suggests to continue as new after a few webhooks."""
    async with temporal_server(tmp_path, *CONTINUES_EARLY) as client:
        yield client


@pytest.mark.parametrize("slug", ["vote", "unclosable"])
async def test_continue_as_new(
    continuing_early: Client, tmp_path: Path, platform: Path, slug: str
) -> None:
    """One that polls and one that does not; webhooks wait while they go on anew."""
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    async with run_engine(continuing_early, url, tmp_path) as running:
        community = await running.community(*with_plugins(platform))
        process = await start(running, community, f"durable.{slug}", id="v")
        sent = [f"{number}" for number in range(20)]
        for text in sent:
            await process.send(text)

        async def all_handled() -> bool:
            return bool(len((await process.read())["outcome"]["heard"]) == len(sent))

        await eventually(all_handled, 60)
        query = f"WorkflowId = '{process.workflow_id}'"
        runs = [item async for item in running.client.list_workflows(query)]
        first, second, *_ = sorted(runs, key=lambda item: item.start_time)
        for name, run in (("continued_as_new", first), ("began_with_progress", second)):
            handle = running.client.get_workflow_handle(run.id, run_id=run.run_id)
            await record(f"{name}_{slug}", handle)


async def scheduled(process: Process, activity: str, times: int) -> bool:
    """Whether an activity was scheduled so often."""
    history = await process.handle.fetch_history()
    kinds = [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in history.events
    ]
    return kinds.count(activity) >= times


async def closed(process: Process) -> bool:
    return (await process.handle.describe()).close_time is not None
