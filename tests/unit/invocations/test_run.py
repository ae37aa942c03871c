"""The ladder: a call is made once, leaves all or nothing, and a repeat finds what it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select
from temporalio.exceptions import ApplicationError

from engine.invocations.action import ActionCall
from engine.invocations.process_calls import (
    CALLS,
    ChildCompletedCall,
    CloseCall,
    StartCall,
    WebhookCall,
)
from engine.invocations.run import run
from engine.messages import InvocationOutcome, InvokeProcess
from engine.resources import Engine
from engine.store import communities, invocations, processes
from engine.store.communities import PluginInstance
from engine.store.invocations import Invocation
from engine.store.outbox import OutboxItem
from engine.store.processes import GovernanceProcess
from engine.store.webhooks import ReceivedWebhook
from tests.unit.invocations.conftest import accepted, created, tried


async def act(engine: Engine, action_id: str, attempt: int = 1, *, cut_off: bool = False) -> None:
    await tried(lambda: run(engine, ActionCall(engine, action_id)), attempt, cut_off=cut_off)


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


async def mark(engine: Engine, call_id: str) -> Invocation:
    async with engine.database.read() as session:
        row = await invocations.get_invocation(session, call_id)
    assert row is not None
    return row


async def process_row(engine: Engine, process_id: str) -> GovernanceProcess:
    async with engine.database.read() as session:
        row = await processes.get_process(session, process_id)
    assert row is not None
    return row


async def outbox_items(engine: Engine) -> list[OutboxItem]:
    async with engine.database.read() as session:
        query = select(OutboxItem).order_by(col(OutboxItem.position))
        return list((await session.exec(query)).all())


async def webhook(engine: Engine, instance: PluginInstance, text: str) -> str:
    row = ReceivedWebhook(
        instance_id=instance.id,
        community=instance.community,
        plugin=instance.plugin,
        instance=instance.instance,
        path="/",
        body=text.encode(),
    )
    async with engine.database.write() as session:
        session.add(row)
    return row.id


async def test_a_repeat_of_a_call_finds_its_mark(
    engine: Engine, durable: PluginInstance, platform: Path
) -> None:
    action_id = await accepted(engine, durable, "once", id="a")
    await act(engine, action_id)
    await act(engine, action_id, 2, cut_off=True)
    assert platform.read_text() == "action a\n"
    row = await mark(engine, action_id)
    assert row.result == {"value": {"made": 1}, "items": []}
    assert [item.body["data"] for item in await outbox_items(engine)] == [{"id": "a"}]


async def test_a_method_that_raises_leaves_nothing(engine: Engine, durable: PluginInstance) -> None:
    action_id = await accepted(engine, durable, "put", key="k", value=1, fail=True)
    with pytest.raises(ApplicationError, match="plugin_code"):
        await act(engine, action_id)
    async with engine.database.read() as session:
        assert await communities.load_state(session, durable.id) == {}
    assert (await mark(engine, action_id)).error is not None


async def test_what_is_made_once_is_not_made_again_after_a_try_that_was_cut_off(
    engine: Engine, durable: PluginInstance, platform: Path
) -> None:
    action_id = await accepted(engine, durable, "once", id="a")
    assert await invocations.CALLS.begin(engine.database, await mark(engine, action_id))
    with pytest.raises(ApplicationError, match="outcome_unknown"):
        await act(engine, action_id, 2, cut_off=True)
    assert not platform.exists()
    assert ((await mark(engine, action_id)).error or {})["kind"] == "outcome_unknown"


async def test_what_may_be_repeated_is(
    engine: Engine, durable: PluginInstance, platform: Path
) -> None:
    action_id = await accepted(engine, durable, "again", id="a")
    assert await invocations.CALLS.begin(engine.database, await mark(engine, action_id))
    await act(engine, action_id, 2, cut_off=True)
    assert platform.read_text() == "action a\n"
    assert ((await mark(engine, action_id)).result or {})["value"] == {"made": 1}


async def test_a_failure_that_may_be_repeated_asks_for_another_try_and_the_last_is_reported(
    engine: Engine, durable: PluginInstance, platform: Path
) -> None:
    action_id = await accepted(engine, durable, "again", id="a", down=9)
    for attempt in (1, 2):
        with pytest.raises(ApplicationError) as again:
            await act(engine, action_id, attempt)
        assert not again.value.non_retryable
    with pytest.raises(ApplicationError) as over:
        await act(engine, action_id, 3)
    assert over.value.non_retryable
    assert platform.read_text() == "action a\n" * 3
    assert ((await mark(engine, action_id)).error or {})["kind"] == "platform_down"


async def test_a_disabled_plugin_is_not_called(engine: Engine, durable: PluginInstance) -> None:
    action_id = await accepted(engine, durable, "once", id="a")
    async with engine.database.write() as session:
        await communities.delete_instances(session, [durable.id])
    with pytest.raises(ApplicationError, match="plugin_code"):
        await act(engine, action_id)
    assert "disabled" in ((await mark(engine, action_id)).error or {})["detail"]


async def test_a_process_starts_once(
    engine: Engine, durable: PluginInstance, platform: Path
) -> None:
    process_id = await created(engine, durable, id="v")
    first = await call(engine, process_id, "start")
    again = await call(engine, process_id, "start", 2, cut_off=True)
    assert first.record == again.record
    assert first.record.status == "pending"
    assert platform.read_text() == f"poll {process_id}:start\n"
    assert (await process_row(engine, process_id)).correlation_key == "v"


async def test_a_start_that_was_cut_off_is_looked_up(
    engine: Engine, durable: PluginInstance, platform: Path
) -> None:
    made, not_made = [await created(engine, durable) for _ in range(2)]
    platform.write_text(f"poll {made}:start\n")
    for process_id in (made, not_made):
        assert await processes.STARTS.begin(engine.database, await process_row(engine, process_id))
        outcome = await call(engine, process_id, "start", 2, cut_off=True)
        assert (outcome.failure, outcome.record.status) == (None, "pending")
    lines = platform.read_text().splitlines()
    assert lines == [f"poll {made}:start", f"poll {not_made}:start"]


async def test_a_start_that_cannot_be_looked_up_ends_as_unknown(
    engine: Engine, durable: PluginInstance
) -> None:
    process_id = await created(engine, durable, slug="blind")
    assert await processes.STARTS.begin(engine.database, await process_row(engine, process_id))
    outcome = await call(engine, process_id, "start", 2, cut_off=True)
    assert outcome.failure == f"{process_id}:start"
    assert outcome.record.errors["code"] == "start_outcome_unknown"


async def test_a_webhook_is_handled_once(engine: Engine, durable: PluginInstance) -> None:
    process_id = await created(engine, durable, id="v")
    await call(engine, process_id, "start")
    webhook_id = await webhook(engine, durable, "yes")
    for attempt in (1, 2):
        facts = {"number": webhook_id, "webhook_id": webhook_id, "cut_off": attempt == 2}
        outcome = await call(engine, process_id, "receive_webhook", attempt, **facts)
        assert outcome.record.outcome == {"heard": ["yes"]}


async def test_a_webhook_that_a_process_rejects_is_tried_some_times_and_stands_in_the_journal(
    engine: Engine, durable: PluginInstance
) -> None:
    process_id = await created(engine, durable, id="v")
    await call(engine, process_id, "start")
    webhook_id = await webhook(engine, durable, "reject")
    facts = {"number": webhook_id, "webhook_id": webhook_id}
    for attempt in range(1, 5):
        with pytest.raises(ApplicationError):
            await call(engine, process_id, "receive_webhook", attempt, **facts)
    outcome = await call(engine, process_id, "receive_webhook", 5, **facts)
    assert (outcome.failure, outcome.record.status) == (f"{process_id}:{webhook_id}", "pending")
    async with engine.database.read() as session:
        row = await session.get_one(ReceivedWebhook, webhook_id)
    assert (row.status, (row.error or {})["process"]) == ("failed", process_id)


async def test_nothing_is_called_after_the_end(
    engine: Engine, durable: PluginInstance, platform: Path
) -> None:
    process_id = await created(engine, durable, id="v")
    await call(engine, process_id, "start")
    closed = await call(engine, process_id, "close")
    assert closed.record.completed
    webhook_id = await webhook(engine, durable, "late")
    late = await call(
        engine, process_id, "receive_webhook", number=webhook_id, webhook_id=webhook_id
    )
    assert late.record == closed.record
    assert "heard" not in platform.read_text()


async def test_a_call_whose_process_another_call_changed_is_made_again(
    engine: Engine, durable: PluginInstance
) -> None:
    process_id = await created(engine, durable, id="v")
    await call(engine, process_id, "start")
    asked = InvokeProcess(process_id, f"{process_id}:c", "close")
    behind = CloseCall(engine, asked)

    async def overtaken() -> None:
        assert await behind.load() is None
        made = await behind.make()
        webhook_id = await webhook(engine, durable, "yes")
        await call(engine, process_id, "receive_webhook", number="w", webhook_id=webhook_id)
        await engine.database.persist(lambda session: behind.store(session, made))

    with pytest.raises(Exception, match="changed by another call"):
        await tried(overtaken)
    row = await process_row(engine, process_id)
    assert (row.status, row.outcome) == ("pending", {"heard": ["yes"]})


async def test_an_error_that_nobody_foresaw_has_an_end(
    engine: Engine, durable: PluginInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    process_id = await created(engine, durable, id="v")
    monkeypatch.setattr(StartCall, "load", broken)
    monkeypatch.setattr("engine.invocations.heartbeat.MOST_UNFORESEEN", 1)
    outcome = await call(engine, process_id, "start")
    assert outcome.record.errors["code"] == "start_outcome_unknown"


def test_every_method_of_a_process_has_its_call() -> None:
    assert {
        "start": StartCall,
        "close": CloseCall,
        "receive_webhook": WebhookCall,
        "child_completed": ChildCompletedCall,
    } == CALLS
