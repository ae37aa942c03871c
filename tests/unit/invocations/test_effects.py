"""What a call did is stored whole, and the driver is sent what has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlmodel import col, select

from engine.invocations.effects import FollowUp, effects_of, record_item_id
from engine.invocations.loading import LoadedPlugin, load_plugin
from engine.invocations.process import ChangeProcess, LoadedProcess, load_process, lock, snapshot_of
from engine.resources import Engine
from engine.sdk.plugin import Event
from engine.store import communities, processes
from engine.store.communities import PluginInstance
from engine.store.invocations import mark_of
from engine.store.outbox import OutboxItem
from engine.store.processes import GovernanceProcess
from tests.unit.invocations.conftest import created


async def loaded_plugin(engine: Engine, instance: PluginInstance) -> LoadedPlugin:
    async with engine.database.read() as session:
        enabled = await communities.find_enabled(session, instance.id)
        assert enabled is not None
        return await load_plugin(engine, session, enabled, "call")


async def loaded_process(engine: Engine, instance: PluginInstance) -> LoadedProcess:
    process_id = await created(engine, instance, id="v")
    async with engine.database.write() as session:
        row = await lock(session, process_id)
        row.status, row.outcome = "pending", {"heard": []}
        row.callback_url = "https://driver.test/votes"
    plugin = await loaded_plugin(engine, instance)
    return load_process(plugin, row, plugin.declaration.processes["vote"])


async def stored(engine: Engine, loaded: LoadedProcess, *, starts: bool = False) -> list[str]:
    change = ChangeProcess(loaded, snapshot_of(engine, loaded), starts)
    async with engine.database.write() as session:
        return (await change.store(session, await lock(session, loaded.row.id))).items


async def row_of(engine: Engine, loaded: LoadedProcess) -> GovernanceProcess:
    async with engine.database.read() as session:
        row = await processes.get_process(session, loaded.row.id)
    assert row is not None
    return row


async def test_state_and_events_are_stored_in_order(
    engine: Engine, durable: PluginInstance
) -> None:
    plugin = await loaded_plugin(engine, durable)
    assert not effects_of(engine, plugin)
    plugin.context.state.set("n", 1)
    plugin.context.events.extend(Event(kind, {}, {}, "0") for kind in ("first", "second"))
    effects = effects_of(engine, plugin)
    async with engine.database.write() as session:
        await effects.store(session)
    async with engine.database.read() as session:
        assert await communities.load_state(session, durable.id) == {"n": "1"}
        rows = (await session.exec(select(OutboxItem).order_by(col(OutboxItem.position)))).all()
    assert [row.body["event_type"] for row in rows] == ["first", "second"]


async def test_only_events_with_an_address_are_delivered(
    engine: Engine, durable: PluginInstance
) -> None:
    plugin = await loaded_plugin(engine, durable)
    plugin.context.events.append(Event("news", {}, {}, "0"))
    assert effects_of(engine, plugin).items == []
    settings = engine.settings.model_copy(
        update={"driver_event_receiver_url": "https://driver.test/"}
    )
    assert len(effects_of(replace(engine, settings=settings), plugin).items) == 1


async def test_a_mark_gives_back_what_was_to_follow() -> None:
    follow_up = FollowUp(items=["msg_1", "msg_2"])
    mark = mark_of("c", ("people", "durable", "i"), "once", {"value": 1} | follow_up.as_result())
    assert FollowUp.of(mark) == follow_up
    mark.result = None
    assert FollowUp.of(mark) == FollowUp()


async def test_a_change_in_place_is_seen(engine: Engine, durable: PluginInstance) -> None:
    loaded = await loaded_process(engine, durable)
    process: Any = loaded.process
    process.outcome["heard"].append("yes")
    (item,) = await stored(engine, loaded)
    row = await row_of(engine, loaded)
    assert row.outcome == {"heard": ["yes"]}
    assert item == record_item_id(row.id, row.updated_at)


async def test_a_driver_is_sent_outcomes_only(engine: Engine, durable: PluginInstance) -> None:
    loaded = await loaded_process(engine, durable)
    process: Any = loaded.process
    process.title, process.correlation_key, process.poll_every = "A vote", "k", 7
    process.state.set("seen", ["a"])
    change = ChangeProcess(loaded, snapshot_of(engine, loaded))
    assert change.changes_anything
    assert await stored(engine, loaded) == []
    row = await row_of(engine, loaded)
    assert (row.title, row.correlation_key, row.poll_every_seconds) == ("A vote", "k", 7)
    assert row.state == {"seen": '["a"]'}


async def test_a_start_is_reported_by_its_answer(engine: Engine, durable: PluginInstance) -> None:
    loaded = await loaded_process(engine, durable)
    process: Any = loaded.process
    process.outcome = {"heard": ["yes"]}
    assert await stored(engine, loaded, starts=True) == []


async def test_a_completion_is_always_sent(engine: Engine, durable: PluginInstance) -> None:
    loaded = await loaded_process(engine, durable)
    process: Any = loaded.process
    process.status = "completed"
    assert len(await stored(engine, loaded, starts=True)) == 1
    row = await row_of(engine, loaded)
    assert row.status == "completed"
    assert row.completed_at == row.updated_at


async def test_what_changes_nothing_is_known(engine: Engine, durable: PluginInstance) -> None:
    loaded = await loaded_process(engine, durable)
    process: Any = loaded.process
    process.outcome = {"heard": []}
    assert not ChangeProcess(loaded, snapshot_of(engine, loaded)).changes_anything


async def test_removed_state_is_gone(engine: Engine, durable: PluginInstance) -> None:
    loaded = await loaded_process(engine, durable)
    loaded.row.state = {"a": "1", "b": "2"}
    async with engine.database.write() as session:
        (await lock(session, loaded.row.id)).state = {"a": "1", "b": "2"}
    again = load_process(loaded.plugin, await row_of(engine, loaded), loaded.declaration)
    again.process.state.remove("a")
    await stored(engine, again)
    assert (await row_of(engine, loaded)).state == {"b": "2"}
