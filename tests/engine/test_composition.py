"""Processes start others, and are called, once each, when those end, however they do."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import WorkflowExecutionStatus

from engine.activities.reconciliation import ReconciliationActivities
from engine.messages import process_workflow_id
from engine.store import communities, pacing
from engine.store.database import utc_now
from engine.store.processes import GovernanceProcess
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually

Record = dict[str, Any]


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    path = tmp_path / "platform"
    path.touch()
    return path


def plugins(platform: Path, *names: str) -> list[dict[str, Any]]:
    return [{"name": name, "config": {"platform": str(platform)}} for name in names]


@pytest.fixture
async def community(running: RunningEngine, platform: Path) -> str:
    return await running.community(*plugins(platform, "composing", "durable"))


def part(name: str, **more: Any) -> dict[str, Any]:
    """A child that ends when its platform says so."""
    return {"name": "composing.part", "parameters": {"id": name}, **more}


AT_ONCE = {"name": "composing.part", "parameters": {"id": "a", "at_once": True}}


class Processes:
    """What a driver sees of a community's processes."""

    def __init__(self, running: RunningEngine, community: str) -> None:
        self.running = running
        self.community = community

    async def start(self, name: str, **body: Any) -> Record:
        answer = await self.running.start(self.community, f"composing.{name}", **body)
        assert answer.status_code == 202, answer.text
        record: Record = answer.json()
        return record

    async def others(self, record: Record, name: str = "") -> list[Record]:
        """All but one, the oldest first."""
        params = {"community": self.community}
        found = (await self.running.http.get("/api/internal/process", params=params)).json()
        rest = [one for one in found["processes"][::-1] if one["id"] != record["id"]]
        return [one for one in rest if name in one["name"]]

    async def child(self, record: Record, name: str = "") -> Record:
        async def found() -> Record | None:
            some = await self.others(record, name)
            return some[0] if some and some[0]["status"] != "created" else None

        child: Record = await eventually(found)
        return child

    async def ended(self, record: Record) -> Record:
        return await self.running.completed(location(record), 40)

    def handle(self, record: Record) -> Any:
        names = (self.community, record["name"], record["id"])
        return self.running.client.get_workflow_handle(process_workflow_id(*names))

    async def fed(self) -> set[tuple[str, str]]:
        """Id and status of the records in the feed."""
        params = {"community": self.community}
        feed = (await self.running.http.get("/api/internal/events", params=params)).json()
        records = [item["data"] for item in feed["events"] if item["type"] == "process"]
        return {(record["id"], record["status"]) for record in records}


@pytest.fixture
def processes(running: RunningEngine, community: str) -> Processes:
    return Processes(running, community)


def location(record: Record) -> str:
    return f"/api/internal/process/{record['name']}/{record['id']}"


def note(platform: Path, text: str) -> None:
    with platform.open("a") as file:
        file.write(f"{text}\n")


async def reconcile(running: RunningEngine) -> None:
    await ReconciliationActivities(running.engine)._children()


def handled(platform: Path, child: Record) -> int:
    """How often a parent was called because of a child."""
    return sum(line.endswith(f" {child['id']}") for line in platform.read_text().splitlines())


async def test_a_parent_is_called_when_its_child_ends(processes: Processes, platform: Path) -> None:
    parent = await processes.start("parent", children=[part("a")])
    child = await processes.child(parent)
    assert (child["name"], child["status"]) == ("composing.part", "pending")
    note(platform, "end a")
    outcome = {"kind": "plain", "ended": True}
    ended = {"name": "composing.part", "outcome": outcome, "code": None}
    assert (await processes.ended(parent))["outcome"] == {"ended": [ended]}
    assert handled(platform, child) == 1
    assert platform.read_text().count("part a\n") == 1

    async def both_are_fed() -> bool:
        fed = await processes.fed()
        return {(parent["id"], "completed"), (child["id"], "completed")} <= fed

    await eventually(both_are_fed)
    assert await processes.handle(child).result() is not None


async def test_children_that_end_before_their_parent_has_started_are_kept(
    processes: Processes, platform: Path
) -> None:
    parent = await processes.start("parent", children=[AT_ONCE] * 5, wanted=5)
    ended = await processes.ended(parent)
    assert len(ended["outcome"]["ended"]) == 5
    children = await processes.others(parent)
    assert [handled(platform, child) for child in children] == [1] * 5


@one_database
@pytest.mark.parametrize("where", ["update", "webhook", "close", "child_completed"])
async def test_children_are_started_from_any_method(
    processes: Processes, running: RunningEngine, platform: Path, where: str
) -> None:
    starts = {"children": [AT_ONCE], "where": where, "forgetful": where == "webhook"}
    if where == "child_completed":
        # One that is started by one that is started.
        parent = await processes.start(
            "parent",
            children=[{"name": "composing.parent", "parameters": {"children": [AT_ONCE]}}],
        )
    else:
        parent = await processes.start("parent", **starts)
    if where == "webhook":
        await running.http.post(f"/api/hooks/{processes.community}/composing", content="now")
    if where == "close":
        await running.http.delete(location(parent))
    ended = await processes.ended(parent)
    assert [one["code"] for one in ended["outcome"]["ended"]] == [None]


@one_database
async def test_a_webhook_whose_child_cannot_be_holds_up_nobody_else(
    processes: Processes, running: RunningEngine
) -> None:
    """Both are concerned by it, and handle it in place."""
    refused = {"name": "limited.watched"}
    failing = await processes.start("parent", children=[refused], where="webhook")
    parent = await processes.start("parent", children=[AT_ONCE], where="webhook")
    await running.http.post(f"/api/hooks/{processes.community}/composing", content="now")
    assert len((await processes.ended(parent))["outcome"]["ended"]) == 1

    async def is_in_the_journal() -> str:
        params = {"community": processes.community}
        journal = (await running.http.get("/api/internal/webhooks", params=params)).json()
        return str(journal["webhooks"][0]["error"] or "")

    assert "'limited' is not enabled" in await eventually(is_in_the_journal, 40)
    assert (await running.http.get(location(failing))).json()["status"] == "pending"


@one_database
async def test_children_are_started_when_many_are_polled_together(
    processes: Processes, platform: Path
) -> None:
    starts = {"children": [AT_ONCE], "where": "update_many"}
    parents = [await processes.start("together", **starts) for _ in range(3)]
    for parent in parents:
        assert len((await processes.ended(parent))["outcome"]["ended"]) == 1


@one_database
async def test_calls_in_a_process_of_their_own_start_children(
    processes: Processes, running: RunningEngine
) -> None:
    async with running.engine.database.write() as session:
        for instance in await communities.instances_of(session, processes.community):
            await pacing.isolate(session, instance.id, utc_now() + timedelta(hours=1))
    parent = await processes.start("parent", children=[AT_ONCE])
    assert len((await processes.ended(parent))["outcome"]["ended"]) == 1


@pytest.mark.parametrize(
    ("child", "why"),
    [
        ({"name": "composing.prat"}, "there is no such process"),
        ({"name": "composing.part"}, "/id: is required"),
        ({"name": "limited.watched"}, "the plugin 'limited' is not enabled for community"),
    ],
)
async def test_a_child_that_cannot_be_fails_the_start(
    processes: Processes, running: RunningEngine, child: dict[str, Any], why: str
) -> None:
    children = [AT_ONCE, child]
    answer = await running.start(processes.community, "composing.parent", children=children)
    assert answer.status_code == 500
    assert why in answer.json()["detail"]
    params = {"community": processes.community}
    listed = (await running.http.get("/api/internal/process", params=params)).json()
    assert [one["errors"]["code"] for one in listed["processes"]] == ["start_failed"]


async def test_a_parent_that_ends_cancels_or_leaves_its_children(
    processes: Processes, running: RunningEngine, platform: Path
) -> None:
    # It is not polled, so it reads of its end only because it is signalled.
    cancelled_child = {"name": "composing.careless", "ends_with_parent": True}
    children = [part("left"), cancelled_child]
    parent = await processes.start("careless", children=children)

    async def both() -> list[Record] | None:
        found = await processes.others(parent)
        return found if [one["status"] for one in found] == ["pending"] * 2 else None

    await eventually(both)
    closed = await running.http.delete(location(parent))
    assert closed.json()["status"] == "completed", closed.text

    async def codes() -> bool:
        found = await processes.others(parent)
        return sorted(one["errors"].get("code", "") for one in found) == ["", "parent_ended"]

    await eventually(codes)
    found = await processes.others(parent)
    (cancelled,) = [one for one in found if one["errors"]]
    (left,) = [one for one in found if not one["errors"]]
    assert (await asyncio.wait_for(processes.handle(cancelled).result(), 20)) is not None
    assert (cancelled["id"], "completed") in await processes.fed()
    note(platform, "end left")
    assert (await processes.ended(left))["outcome"]["ended"] is True


async def test_a_parent_learns_that_its_child_did_not_start(
    processes: Processes, platform: Path
) -> None:
    child = {"name": "composing.part", "parameters": {"id": "a", "broken": True}}
    parent = await processes.start("parent", children=[child])
    ended = await processes.ended(parent)
    assert [one["code"] for one in ended["outcome"]["ended"]] == ["start_failed"]


@one_database
async def test_a_parent_learns_that_its_childs_plugin_was_disabled(
    processes: Processes, running: RunningEngine, platform: Path
) -> None:
    child = {"name": "durable.unclosable", "parameters": {"id": "v"}}
    parent = await processes.start("parent", children=[child])
    await processes.child(parent)
    await running.community(*plugins(platform, "composing"), name=processes.community)
    ended = await processes.ended(parent)
    assert [one["code"] for one in ended["outcome"]["ended"]] == ["plugin_disabled"]


@one_database
@pytest.mark.parametrize("how", ["cancel", "terminate"])
async def test_a_parent_learns_that_its_childs_workflow_was_ended(
    processes: Processes, running: RunningEngine, platform: Path, how: str
) -> None:
    parent = await processes.start("parent", children=[part("a")])
    child = await processes.child(parent)
    handle = processes.handle(child)
    await (handle.cancel() if how == "cancel" else handle.terminate())

    async def is_seen() -> bool:
        await ReconciliationActivities(running.engine)._end_if_pending(child["id"])
        return bool((await running.http.get(location(child))).json()["status"] == "completed")

    await eventually(is_seen)
    ended = await processes.ended(parent)
    assert [one["code"] for one in ended["outcome"]["ended"]] == ["cancelled"]
    assert handled(platform, child) == 1


@one_database
async def test_a_disabled_plugin_ends_parents_with_their_children(
    processes: Processes, running: RunningEngine, platform: Path
) -> None:
    child = {"name": "durable.unclosable", "parameters": {"id": "v"}, "ends_with_parent": True}
    parent = await processes.start("careless", children=[child])
    started = await processes.child(parent)
    await running.community(*plugins(platform, "durable"), name=processes.community)
    assert (await processes.ended(parent))["errors"]["code"] == "plugin_disabled"
    assert (await processes.ended(started))["errors"]["code"] == "parent_ended"
    assert await processes.handle(started).result() is not None


@one_database
async def test_one_that_starts_itself_for_ever_ends_in_an_error(processes: Processes) -> None:
    first = await processes.start("chain")
    outcome, levels = (await processes.ended(first))["outcome"], 0
    while outcome.get("below"):
        outcome, levels = outcome["below"], levels + 1
    assert levels == 4
    assert outcome["errors"]["code"] == "start_failed"
    assert "allowed are 5 levels of children" in outcome["errors"]["message"]


@one_database
async def test_a_close_takes_its_turn_behind_children_that_have_ended(
    processes: Processes, running: RunningEngine, platform: Path
) -> None:
    parent = await processes.start("parent", children=[part("a"), part("b")], wanted=9, handling=1)

    async def both() -> bool:
        return len([one for one in await processes.others(parent) if one["url"] is None]) == 2

    await eventually(both)
    note(platform, "end a\nend b")

    async def first_is_handled() -> bool:
        return "completed" in platform.read_text()

    await eventually(first_is_handled)

    async def all_have_ended() -> bool:
        found = await processes.others(parent)
        return all(one["status"] == "completed" for one in found)

    await eventually(all_have_ended)
    for child in await processes.others(parent):
        await processes.handle(child).result()
    closed = (await running.http.delete(location(parent))).json()
    assert len(closed["outcome"]["ended"]) == 2
    assert closed["webhooks_left_out"] == 0


@one_database
async def test_a_child_whose_parent_has_ended_ends_by_itself(
    processes: Processes, running: RunningEngine, platform: Path
) -> None:
    parent = await processes.start("parent", children=[part("a")])
    child = await processes.child(parent)
    assert (await running.http.delete(location(parent))).status_code == 200
    await processes.handle(parent).result()
    note(platform, "end a")
    assert (await processes.ended(child))["errors"] == {}
    assert await processes.handle(child).result() is not None
    assert handled(platform, child) == 0


@one_database
async def test_signals_that_name_no_child_are_passed_over(
    processes: Processes, running: RunningEngine, platform: Path
) -> None:
    parent = await processes.start("parent", children=[part("a")])
    child = await processes.child(parent)
    handle = processes.handle(parent)
    for nonsense in ("", "x" * 500, "ä", "nobody", child["id"]):
        await handle.signal("child_completed", nonsense)
    await asyncio.wait_for(handle.query("record"), 10)
    note(platform, "end a")
    ended = await processes.ended(parent)
    assert len(ended["outcome"]["ended"]) == 1
    assert handled(platform, child) == 1


async def test_children_that_were_only_stored_are_started(
    processes: Processes, running: RunningEngine, platform: Path
) -> None:
    """Everything died between the parent's commit and the start of the workflow."""
    parent = await processes.start("parent", children=[], wanted=1)
    child = await stored_child(running, parent)
    await ReconciliationActivities(running.engine)._start_again(child.id)
    ended = await processes.ended(parent)
    assert [one["outcome"]["kind"] for one in ended["outcome"]["ended"]] == ["plain"]


async def test_a_parent_that_was_never_signalled_is(
    processes: Processes, running: RunningEngine, platform: Path
) -> None:
    """Everything died between the child's end and the signal."""
    parent = await processes.start("parent", children=[], wanted=1)
    child = await stored_child(running, parent, over=True)
    await reconcile(running)
    ended = await processes.ended(parent)
    assert [one["outcome"] for one in ended["outcome"]["ended"]] == [{"n": 1}]
    await reconcile(running)
    assert platform.read_text().count(child.id) == 1
    described = await processes.handle(parent).describe()
    assert described.status == WorkflowExecutionStatus.COMPLETED


async def stored_child(
    running: RunningEngine, parent: Record, *, over: bool = False
) -> GovernanceProcess:
    """A child as its parent's call leaves it, or as its own last call does."""
    async with running.engine.database.write() as session:
        row = await session.get_one(GovernanceProcess, parent["id"])
        row.children += 1
        child = GovernanceProcess(
            id=str(uuid4()),
            community=row.community,
            plugin="composing",
            slug="part",
            instance_id=row.instance_id,
            instance=row.instance,
            parameters={"id": "a", "kind": "plain", "at_once": True},
            parent_id=row.id,
            level=1,
        )
        if over:
            child.outcome = {"n": 1}
            child.complete()
        session.add(child)
    return child
