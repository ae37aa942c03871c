"""Processes start others: with their call or not at all, and once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select
from temporalio.exceptions import ApplicationError

from engine.errors import PluginCodeError
from engine.invocations.children import signal_parent
from engine.invocations.effects import FollowUp
from engine.invocations.process import end_process
from engine.invocations.process_calls import CALLS, ChildCompletedCall, PollCall
from engine.invocations.run import run
from engine.messages import InvocationOutcome, InvokeProcess, PollProcess
from engine.resources import Engine
from engine.sdk.children import ChildLimits, Children
from engine.store import communities, processes
from engine.store.communities import PluginInstance
from engine.store.database import utc_now
from engine.store.invocations import Invocation
from engine.store.outbox import OutboxItem
from engine.store.processes import GovernanceProcess
from tests.unit.invocations.conftest import COMMUNITY, created, tried

PART = {"name": "composing.part", "parameters": {"id": "p"}}


@pytest.fixture
async def composing(engine: Engine, durable: PluginInstance, tmp_path: Path) -> PluginInstance:
    """An instance of the plugin whose processes start others, beside one of another plugin."""
    config = engine.secrets.encrypt({"platform": str(tmp_path / "platform")})
    instance = PluginInstance(
        community=COMMUNITY,
        plugin="composing",
        instance="composing",
        position=1,
        config_encrypted=config,
    )
    async with engine.database.write() as session:
        session.add(instance)
    return instance


async def call(
    engine: Engine, process_id: str, method: str, attempt: int = 1, **facts: Any
) -> InvocationOutcome:
    number = facts.pop("number", method)
    cut_off = facts.pop("cut_off", False)
    invocation = InvokeProcess(process_id, f"{process_id}:{number}", method, **facts)
    outcome: InvocationOutcome = await tried(
        lambda: run(engine, CALLS[method](engine, invocation)), attempt, cut_off=cut_off
    )
    return outcome


async def completed(
    engine: Engine, parent_id: str, child_id: str, attempt: int = 1
) -> InvocationOutcome:
    """The parent is called because a child has ended."""
    return await call(
        engine,
        parent_id,
        "child_completed",
        attempt,
        number=f"child:{child_id}",
        child_id=child_id,
    )


async def row_of(engine: Engine, process_id: str) -> GovernanceProcess:
    async with engine.database.read() as session:
        row = await processes.get_process(session, process_id)
    assert row is not None
    return row


async def children_of(engine: Engine, process_id: str) -> list[GovernanceProcess]:
    query = (
        select(GovernanceProcess)
        .where(col(GovernanceProcess.parent_id) == process_id)
        .order_by(col(GovernanceProcess.created_at))
    )
    async with engine.database.read() as session:
        return list((await session.exec(query)).all())


async def mark(engine: Engine, call_id: str) -> Invocation:
    async with engine.database.read() as session:
        return await session.get_one(Invocation, call_id)


async def error_of(engine: Engine, call_id: str) -> str:
    error = (await mark(engine, call_id)).error
    assert error is not None
    return str(error["detail"])


async def end(engine: Engine, process_id: str, outcome: Any) -> None:
    async with engine.database.write() as session:
        row = await session.get_one(GovernanceProcess, process_id)
        row.outcome = outcome
        row.complete()


async def started(engine: Engine, composing: PluginInstance, **parameters: Any) -> tuple[str, str]:
    """A parent that has started one child: their ids."""
    parent_id = await created(engine, composing, "parent", children=[PART], **parameters)
    await call(engine, parent_id, "start")
    (child,) = await children_of(engine, parent_id)
    return parent_id, child.id


async def test_a_child_is_stored_with_the_call_that_starts_it(
    engine: Engine, composing: PluginInstance, platform: Path
) -> None:
    parent_id = await created(engine, composing, "parent", children=[PART])
    await call(engine, parent_id, "start")
    (child,) = await children_of(engine, parent_id)
    assert (child.name, child.status, child.level) == ("composing.part", "created", 1)
    assert child.parameters == {"id": "p", "kind": "plain"}
    assert (child.instance_id, child.callback_url) == (composing.id, None)
    parent = await row_of(engine, parent_id)
    assert parent.state == {"started": f'["{child.id}"]'}
    assert FollowUp.of(await mark(engine, f"{parent_id}:start")).started == [child.id]
    await call(engine, parent_id, "start", 2, cut_off=True)
    assert len(await children_of(engine, parent_id)) == 1
    assert platform.read_text() == "start None\n"


async def test_a_call_that_fails_starts_nothing(engine: Engine, composing: PluginInstance) -> None:
    parent_id = await created(engine, composing, "parent", children=[PART], broken=True)
    outcome = await call(engine, parent_id, "start")
    assert outcome.record.errors["code"] == "start_failed"
    assert await children_of(engine, parent_id) == []


@pytest.mark.parametrize(
    ("child", "why"),
    [
        ({"name": "composing.prat"}, "there is no such process; there are: composing.careless"),
        ({"name": "unknown.part"}, "there is no such process"),
        ({"name": 7}, "there is no such process"),
        ({"name": "composing.part"}, "its parameters do not fit its input_schema: /id: is req"),
        (PART | {"parameters": {"id": 7}}, "/id: 7 is not of type 'string'"),
        (PART | {"parameters": ["p"]}, "its parameters must be a dict, not list"),
        (PART | {"parameters": {"id": "p" * 1_100_000}}, "bytes of JSON; allowed are 1048576"),
        (PART | {"instance": "other"}, "there is no instance 'other' of the plugin 'composing'"),
        ({"name": "limited.watched"}, "the plugin 'limited' is not enabled for community 'people'"),
    ],
)
async def test_a_child_that_cannot_be_fails_the_whole_call(
    engine: Engine, composing: PluginInstance, child: dict[str, Any], why: str
) -> None:
    parent_id = await created(engine, composing, "parent", children=[PART, child])
    outcome = await call(engine, parent_id, "start")
    assert outcome.record.errors["code"] == "start_failed"
    assert why in outcome.record.errors["message"]
    assert outcome.record.errors["message"].startswith("start_process(")
    assert await children_of(engine, parent_id) == []
    parent = await row_of(engine, parent_id)
    assert (parent.state, parent.children) == ({}, 0)


async def test_a_child_of_another_plugin_runs_in_its_only_instance(
    engine: Engine, composing: PluginInstance, durable: PluginInstance
) -> None:
    child = {"name": "durable.vote", "parameters": {"id": "v"}}
    parent_id = await created(engine, composing, "parent", children=[child])
    await call(engine, parent_id, "start")
    (stored,) = await children_of(engine, parent_id)
    assert (stored.instance_id, stored.instance) == (durable.id, "durable")


async def test_of_several_instances_one_is_named(
    engine: Engine, composing: PluginInstance, durable: PluginInstance
) -> None:
    other = PluginInstance(
        community=COMMUNITY,
        plugin="durable",
        instance="other",
        position=2,
        config_encrypted=durable.config_encrypted,
    )
    async with engine.database.write() as session:
        session.add(other)
    child = {"name": "durable.vote", "parameters": {"id": "v"}}
    failing = await created(engine, composing, "parent", children=[child])
    outcome = await call(engine, failing, "start")
    assert "(durable, other): name one as `instance`" in outcome.record.errors["message"]
    parent_id = await created(engine, composing, "parent", children=[child | {"instance": "other"}])
    await call(engine, parent_id, "start")
    (stored,) = await children_of(engine, parent_id)
    assert stored.instance_id == other.id


async def test_a_poll_starts_children_without_news_and_goes_on(
    engine: Engine, composing: PluginInstance
) -> None:
    parent_id = await created(
        engine, composing, "parent", children=[PART], where="update", forgetful=True
    )
    await call(engine, parent_id, "start")
    poll = PollProcess(parent_id, f"{parent_id}:2")
    with pytest.raises(ApplicationError, match="no_news"):
        await tried(lambda: run(engine, PollCall(engine, poll)), 2)
    (child,) = await children_of(engine, parent_id)
    assert FollowUp.of(await mark(engine, f"{parent_id}:2#2")).started == [child.id]


async def test_a_parent_is_called_once_with_what_its_child_came_to(
    engine: Engine, composing: PluginInstance, platform: Path
) -> None:
    parent_id, child_id = await started(engine, composing, wanted=2)
    await end(engine, child_id, {"n": 1})
    outcome = await completed(engine, parent_id, child_id)
    ended = {"name": "composing.part", "outcome": {"n": 1}, "code": None}
    assert outcome.record.outcome == {"ended": [ended]}
    assert (await completed(engine, parent_id, child_id, 2)).record == outcome.record
    async with engine.database.write() as session:
        # After its retention the mark is gone.
        await session.delete(await mark(engine, f"{parent_id}:child:{child_id}"))
    assert (await completed(engine, parent_id, child_id)).record == outcome.record
    assert platform.read_text().count("completed") == 1


async def test_only_children_that_have_ended_are_handled(
    engine: Engine, composing: PluginInstance, platform: Path
) -> None:
    parent_id, child_id = await started(engine, composing)
    stranger = await created(engine, composing, "part", id="s")
    await end(engine, stranger, {})
    for other in (child_id, stranger, "nobody"):
        assert (await completed(engine, parent_id, other)).failure is None
    assert "completed" not in platform.read_text()


async def test_a_child_is_reported_until_its_parent_has_handled_it(
    engine: Engine, composing: PluginInstance
) -> None:
    parent_id, child_id = await started(engine, composing, wanted=2)

    async def unreported() -> list[tuple[str, str]]:
        async with engine.database.read() as session:
            found = await processes.unreported_after(session, None, 9)
            return [(child, parent) for child, parent in found]

    assert await unreported() == []
    await end(engine, child_id, {})
    assert await unreported() == [(child_id, parent_id)]
    assert await signal_parent(engine, await row_of(engine, child_id))
    await completed(engine, parent_id, child_id)
    assert await unreported() == []


async def test_whoever_does_not_want_to_know_is_not_called(
    engine: Engine, composing: PluginInstance
) -> None:
    parent_id = await created(engine, composing, "careless", children=[PART])
    await call(engine, parent_id, "start")
    (child,) = await children_of(engine, parent_id)
    await end(engine, child.id, {})
    assert not await signal_parent(engine, await row_of(engine, child.id))
    outcome = await completed(engine, parent_id, child.id)
    assert (outcome.failure, outcome.record.status) == (None, "pending")


async def test_a_parent_that_cannot_handle_it_ends(
    engine: Engine, composing: PluginInstance
) -> None:
    """Nothing would call it again because of that child."""
    parent_id, child_id = await started(engine, composing, confused=True)
    await end(engine, child_id, {})
    for attempt in range(1, 8):
        with pytest.raises(ApplicationError, match="plugin_code"):
            await completed(engine, parent_id, child_id, attempt)
    outcome = await completed(engine, parent_id, child_id, 8)
    assert outcome.record.status == "completed"
    assert outcome.record.errors["code"] == "child_completed_failed"


@pytest.mark.parametrize("ends_with_parent", [True, False])
async def test_children_end_with_their_parent_if_they_were_started_so(
    engine: Engine, composing: PluginInstance, *, ends_with_parent: bool
) -> None:
    below = PART | {"ends_with_parent": True}
    child = {
        "name": "composing.careless",
        "parameters": {"children": [below]},
        "ends_with_parent": ends_with_parent,
    }
    parent_id = await created(engine, composing, "careless", children=[child])
    await call(engine, parent_id, "start")
    (child_row,) = await children_of(engine, parent_id)
    await call(engine, child_row.id, "start")
    (grandchild,) = await children_of(engine, child_row.id)
    await call(engine, parent_id, "close")
    ended = [await row_of(engine, one.id) for one in (child_row, grandchild)]
    follow_up = FollowUp.of(await mark(engine, f"{parent_id}:close"))
    if not ends_with_parent:
        assert [row.status for row in ended] == ["pending", "created"]
        assert follow_up.ended == []
        return
    assert [row.errors["code"] for row in ended] == ["parent_ended"] * 2
    assert follow_up.ended == [child_row.id, grandchild.id]
    async with engine.database.read() as session:
        items = (await session.exec(select(OutboxItem))).all()
    delivered = {item.body["id"]: item.body["errors"].get("code") for item in items}
    assert delivered == {
        parent_id: None,
        child_row.id: "parent_ended",
        grandchild.id: "parent_ended",
    }


async def test_children_end_with_a_parent_that_the_engine_ends(
    engine: Engine, composing: PluginInstance
) -> None:
    child = PART | {"ends_with_parent": True}
    parent_id = await created(engine, composing, "parent", children=[child])
    await call(engine, parent_id, "start")
    await end_process(engine, parent_id, "cancelled", "by an operator")
    (row,) = await children_of(engine, parent_id)
    assert row.errors["code"] == "parent_ended"


async def test_a_child_of_a_parent_that_ends_at_once_may_go_on(
    engine: Engine, composing: PluginInstance
) -> None:
    parent_id = await created(
        engine, composing, "parent", children=[PART, PART | {"ends_with_parent": True}], over=True
    )
    await call(engine, parent_id, "start")
    rows = await children_of(engine, parent_id)
    assert [row.status for row in rows] == ["created", "completed"]


async def test_a_child_that_fails_to_start_is_in_the_feed(
    engine: Engine, composing: PluginInstance
) -> None:
    """Nobody waits for an answer that would say so."""
    child = {"name": "composing.parent", "parameters": {"broken": True}}
    parent_id = await created(engine, composing, "parent", children=[child])
    await call(engine, parent_id, "start")
    (row,) = await children_of(engine, parent_id)
    await call(engine, row.id, "start")
    async with engine.database.read() as session:
        (item,) = (await session.exec(select(OutboxItem))).all()
    assert (item.body["id"], item.body["errors"]["code"]) == (row.id, "start_failed")


async def test_the_outcome_of_a_childs_start_is_in_the_feed(
    engine: Engine, composing: PluginInstance
) -> None:
    _, child_id = await started(engine, composing)
    await call(engine, child_id, "start")
    async with engine.database.read() as session:
        (item,) = (await session.exec(select(OutboxItem))).all()
    assert (item.body["id"], item.body["outcome"]) == (child_id, {"kind": "plain"})


async def test_one_process_has_only_so_many_children_at_once(
    engine: Engine, composing: PluginInstance
) -> None:
    many = [PART] * (engine.settings.most_children + 1)
    failing = await created(engine, composing, "parent", children=many)
    outcome = await call(engine, failing, "start")
    assert "20 children that have not ended" in outcome.record.errors["message"]
    parent_id = await created(engine, composing, "parent", children=many[1:], wanted=50)
    await call(engine, parent_id, "start")
    children = await children_of(engine, parent_id)
    assert len({child.id for child in children}) == 20
    async with engine.database.write() as session:
        row = await session.get_one(GovernanceProcess, parent_id)
        row.state = {}
        row.parameters = row.parameters | {"children": [PART], "where": "child_completed"}
        extra = GovernanceProcess(
            community=COMMUNITY,
            plugin="composing",
            slug="part",
            instance_id=composing.id,
            instance="composing",
            parameters={"id": "x"},
            parent_id=parent_id,
        )
        extra.complete()
        session.add(extra)
    extra_id = extra.id
    with pytest.raises(ApplicationError, match="plugin_code"):
        await completed(engine, parent_id, extra_id)
    await end(engine, children[0].id, {})
    await completed(engine, parent_id, extra_id)
    assert len(await children_of(engine, parent_id)) == 22


def test_levels_are_limited() -> None:
    children = Children("p", 5, 0, ChildLimits())
    with pytest.raises(PluginCodeError, match="5 levels below the one that a driver started"):
        children.start("composing.chain", None, None, ends_with_parent=False)


def test_a_child_has_one_id_on_every_try(plugins: None) -> None:
    def ids(before: int, call: str = "p:2 p") -> list[str]:
        children = Children(call, 0, before, ChildLimits())
        return [
            children.start("composing.part", {"id": "a"}, None, ends_with_parent=False)
            for _ in range(2)
        ]

    assert ids(0) == ids(0)
    # Of a poll that has stored two; and of one in a database that was restored from a backup.
    assert len({*ids(0), *ids(2), *ids(0, "p:3 p")}) == 6


async def test_a_disabled_plugin_starts_nothing(
    engine: Engine, composing: PluginInstance, durable: PluginInstance
) -> None:
    """It was disabled while the call was under way: what is checked last is what holds."""
    child = {"name": "durable.vote", "parameters": {"id": "v"}}
    parent_id = await created(engine, composing, "parent", children=[child])
    invocation = InvokeProcess(parent_id, f"{parent_id}:start", "start")
    start = CALLS["start"](engine, invocation)

    async def overtaken() -> None:
        assert await start.load() is None
        await start.begin()
        made = await start.make()
        async with engine.database.write() as session:
            await communities.delete_instances(session, [durable.id])
        await engine.database.persist(lambda session: start.store(session, made))

    with pytest.raises(PluginCodeError, match="'durable' is not enabled"):
        await tried(overtaken)
    assert await children_of(engine, parent_id) == []


async def test_an_ended_parent_handles_nothing(engine: Engine, composing: PluginInstance) -> None:
    parent_id, child_id = await started(engine, composing)
    await end(engine, child_id, {})
    ended_at = utc_now()
    await end(engine, parent_id, {"over": True})
    outcome = await completed(engine, parent_id, child_id)
    assert outcome.record.outcome == {"over": True}
    assert (await row_of(engine, child_id)).reported_at is None
    assert (await row_of(engine, parent_id)).updated_at >= ended_at
    assert ChildCompletedCall.method in CALLS
