"""Webhooks without a key: handled by each process once, in order; the rest is left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlmodel import col, select

from engine.invocations.in_place import follow_up_again, handle_in_place
from engine.invocations.process_calls import CALLS
from engine.invocations.run import run
from engine.messages import InvokeProcess, ProcessRecord
from engine.resources import Engine
from engine.store import invocations, pacing, processes
from engine.store.communities import PluginInstance
from engine.store.database import utc_now
from engine.store.invocations import Invocation
from engine.store.outbox import OutboxItem
from engine.store.processes import Concerned, GovernanceProcess
from engine.store.webhooks import ReceivedWebhook
from engine.temporal.processes import Processes
from tests.unit.invocations.conftest import created, tried


@pytest.fixture(autouse=True)
def reloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the processes whose workflows are signalled to reload, for no Temporal is here."""
    signalled: list[str] = []

    async def reload(_: Processes, record: ProcessRecord) -> None:
        signalled.append(record.id)

    monkeypatch.setattr(Processes, "reload", reload)
    return signalled


async def call(engine: Engine, asked: InvokeProcess) -> None:
    await tried(lambda: run(engine, CALLS[asked.method](engine, asked)))


@pytest.fixture
async def votes(engine: Engine, durable: PluginInstance) -> list[str]:
    """Three pending votes without a key."""
    ids = [await created(engine, durable, slug="keyless", id=f"v{n}") for n in range(3)]
    for process_id in ids:
        await call(engine, InvokeProcess(process_id, f"{process_id}:1", "start"))
    return ids


async def received(engine: Engine, instance: PluginInstance, text: str) -> ReceivedWebhook:
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
    return row


async def concerned(engine: Engine, webhook: ReceivedWebhook) -> list[Concerned]:
    async with engine.database.read() as session:
        return await processes.concerned_by(session, webhook.id, ["keyless"], None)


async def handled(
    engine: Engine, webhook: ReceivedWebhook, free: Sequence[Concerned] | None = None
) -> list[str]:
    some = free if free is not None else await concerned(engine, webhook)
    left: list[str] = await tried(
        lambda: handle_in_place(engine, webhook, webhook.instance_id, some)
    )
    return left


async def rows(engine: Engine) -> dict[str, GovernanceProcess]:
    async with engine.database.read() as session:
        found = (await session.exec(select(GovernanceProcess))).all()
    return {row.parameters["id"]: row for row in found}


async def heard(engine: Engine) -> dict[str, list[str]]:
    return {name: row.outcome["heard"] for name, row in (await rows(engine)).items()}


async def marks(engine: Engine, webhook: ReceivedWebhook) -> list[str]:
    async with engine.database.read() as session:
        found = await invocations.marks_of_webhook(
            session, webhook.instance_id, webhook.reference, webhook.received_at
        )
    return [mark.id.partition(":")[0] for mark in found]


async def test_only_what_changed_is_stored_and_signalled(
    engine: Engine, durable: PluginInstance, votes: list[str], reloads: list[str]
) -> None:
    webhook = await received(engine, durable, "v1 yes")
    assert await handled(engine, webhook) == []
    assert await heard(engine) == {"v0": [], "v1": ["yes"], "v2": []}
    assert reloads == [votes[1]] == await marks(engine, webhook)


async def test_each_handles_a_webhook_once(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    webhook = await received(engine, durable, "all yes")
    stale = await concerned(engine, webhook)
    for _ in range(2):
        await handled(engine, webhook, stale)
    assert await heard(engine) == {name: ["yes"] for name in ("v0", "v1", "v2")}
    assert sorted(await marks(engine, webhook)) == sorted(votes)


async def test_one_that_raises_is_left_to_its_workflow_and_nothing_of_it_stands(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    webhook = await received(engine, durable, "all fail-v1")
    assert await handled(engine, webhook) == [votes[1]]
    assert await heard(engine) == {"v0": ["fail-v1"], "v1": [], "v2": ["fail-v1"]}
    async with engine.database.read() as session:
        events = (await session.exec(select(OutboxItem))).all()
    assert [event for event in events if event.body.get("event_type") == "failing"] == []


async def test_one_that_hangs_holds_up_the_others_for_a_while_only(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    webhook = await received(engine, durable, "all hang-v0")
    left = await handled(engine, webhook)
    assert votes[0] in left
    known = await heard(engine)
    assert known["v0"] == []
    for name, process_id in zip(("v1", "v2"), votes[1:], strict=True):
        assert (known[name] == ["hang-v0"]) != (process_id in left)


async def test_events_and_shared_state_are_stored_with_the_process_that_made_them(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    webhook = await received(engine, durable, "all event")
    assert await handled(engine, webhook) == []
    async with engine.database.read() as session:
        query = select(OutboxItem).order_by(col(OutboxItem.position))
        items = (await session.exec(query)).all()
    counted = [item.body["data"]["n"] for item in items if item.kind == "event"]
    assert counted == [1, 2, 3]


async def test_what_another_call_changed_meanwhile_is_left_to_its_workflow(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    first, second = [await received(engine, durable, f"all {n}") for n in ("one", "two")]
    before = await concerned(engine, second)
    await handled(engine, first)
    # It was read before, as when another worker handles the first one at the same moment.
    fresh = await concerned(engine, second)
    assert {c.updated_at for c in before}.isdisjoint({c.updated_at for c in fresh})
    await processes.count_signalled(engine.database, [votes[0]])
    await processes.note_called(engine.database, votes[1], fresh[0].updated_at.max)
    assert sorted(await handled(engine, second, fresh)) == sorted(votes[:2])
    assert await heard(engine) == {"v0": ["one"], "v1": ["one"], "v2": ["one", "two"]}


async def test_who_is_signalled_and_who_is_not(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    webhook = await received(engine, durable, "all one")
    keyed = await created(engine, durable, slug="keyless", id="keyed")
    async with engine.database.write() as session:
        row = await session.get_one(GovernanceProcess, keyed)
        row.status, row.correlation_key = "pending", "k"
    new = await created(engine, durable, slug="keyless", id="new")
    await processes.count_signalled(engine.database, [votes[0]])
    await processes.note_called(engine.database, votes[1], webhook.received_at.max)
    free = {c.id: c.in_place for c in await concerned(engine, webhook)}
    assert free == {votes[0]: False, votes[1]: False, votes[2]: True, keyed: False, new: False}
    await processes.note_called(engine.database, votes[1], None)
    assert {c.id: c.in_place for c in await concerned(engine, webhook)}[votes[1]]


async def test_a_webhook_that_the_workflow_has_handled_opens_the_way(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    webhook = await received(engine, durable, "all one")
    await processes.count_signalled(engine.database, [votes[0]])
    asked = InvokeProcess(
        votes[0], f"{votes[0]}:{webhook.id}", "receive_webhook", webhook_id=webhook.id
    )
    await call(engine, asked)
    assert all(c.in_place for c in await concerned(engine, webhook))


async def test_a_process_that_gives_up_its_key_goes_on_by_signals(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    for text in ("v0 key", "v0 no-key"):
        webhook = await received(engine, durable, text)
        asked = InvokeProcess(
            votes[0], f"{votes[0]}:{webhook.id}", "receive_webhook", webhook_id=webhook.id
        )
        await call(engine, asked)
    row = (await rows(engine))["v0"]
    assert (row.correlation_key, row.webhooks_signalled) == (None, 1)


async def test_a_completion_in_place_is_sent_to_the_driver(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    webhook = await received(engine, durable, "v2 end")
    assert await handled(engine, webhook) == []
    assert (await rows(engine))["v2"].status == "completed"
    async with engine.database.read() as session:
        items = (await session.exec(select(OutboxItem))).all()
        mark = await session.get(Invocation, f"{votes[2]}:{webhook.id}")
    assert [item.body["id"] for item in items] == [votes[2]]
    assert mark is not None


async def test_a_platform_that_wants_no_calls_gets_none(
    engine: Engine, durable: PluginInstance, votes: list[str]
) -> None:
    webhook = await received(engine, durable, "all one")
    async with engine.database.write() as session:
        await pacing.pause(session, durable.id, utc_now() + timedelta(minutes=1))
    assert sorted(await handled(engine, webhook)) == sorted(votes)
    assert await heard(engine) == {name: [] for name in ("v0", "v1", "v2")}


async def test_what_a_try_that_was_cut_off_stored_is_followed_up(
    engine: Engine, durable: PluginInstance, votes: list[str], reloads: list[str]
) -> None:
    webhook = await received(engine, durable, "v2 end")
    await handled(engine, webhook)
    reloads.clear()
    await tried(lambda: follow_up_again(engine, webhook), 2, cut_off=True)
    assert reloads == [votes[2]]
