"""The protocol of requests: accepted once, handed over, answered or withdrawn."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import (
    BadRequestError,
    EngineError,
    IdempotencyMismatchError,
    OutcomeUnknownError,
    PluginTimeoutError,
    UnavailableError,
    describe,
)
from engine.requests.accepting import Once, accept, accept_of_instance, hand_over
from engine.requests.instances import Chosen, Instance
from engine.store import invocations
from engine.store.communities import Community, PluginInstance
from engine.store.invocations import DONE, Invocation


def an_invocation() -> Invocation:
    return Invocation(community="c", instance_id="i", plugin="p", target="act")


async def ask(engine: Any, once: Once) -> tuple[str, str]:
    """Accept a request; gives its own id and that of the row that is stored."""
    row = an_invocation()
    return row.id, await accept(engine, row, row.id, once.within(engine, "scope"))


async def stored(engine: Any, row_id: str) -> Invocation:
    async with engine.database.read() as session:
        found = await invocations.get_invocation(session, row_id)
    assert found is not None
    return found


async def test_a_key_leads_to_the_first_request(engine: Any) -> None:
    first, accepted = await ask(engine, Once("k", {"a": 1}))
    again, found = await ask(engine, Once("k", {"a": 1}))
    assert accepted == found == first != again
    other, its_own = await ask(engine, Once("l", {"a": 1}))
    assert other == its_own
    with pytest.raises(IdempotencyMismatchError):
        await ask(engine, Once("k", {"a": 2}))


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_has_its_bounds(engine: Any, key: str) -> None:
    with pytest.raises(BadRequestError, match="1 to 255"):
        Once(key, {}).within(engine, "scope")


class _HandedOver:
    """A request of which Temporal says something."""

    def __init__(self, engine: Any, row_id: str, said: EngineError | str) -> None:
        self.engine = engine
        self.row_id = row_id
        self.said = said

    async def asked(self) -> str:
        if isinstance(self.said, EngineError):
            raise self.said
        return self.said

    async def withdraw(self, session: AsyncSession, error: EngineError) -> bool:
        return await invocations.withdraw(
            self.engine.database, session, self.row_id, describe(error)
        )

    async def result(self, failures: type[EngineError] = UnavailableError) -> str:
        return await hand_over(self.engine, self.asked(), self.withdraw, "It may be", failures)


async def test_what_temporal_gives_is_given(engine: Any) -> None:
    _, row_id = await ask(engine, Once(None, {}))
    assert await _HandedOver(engine, row_id, "well").result() == "well"


async def test_what_temporal_does_not_take_is_withdrawn_and_its_key_free(engine: Any) -> None:
    once = Once("k", {})
    _, row_id = await ask(engine, once)
    with pytest.raises(UnavailableError, match="away"):
        await _HandedOver(engine, row_id, UnavailableError("away")).result()
    assert (await stored(engine, row_id)).status == DONE
    again, accepted = await ask(engine, once)
    assert again == accepted != row_id


async def test_what_somebody_has_begun_is_not_withdrawn(engine: Any) -> None:
    _, row_id = await ask(engine, Once("k", {}))
    assert await invocations.CALLS.begin(engine.database, await stored(engine, row_id))
    with pytest.raises(OutcomeUnknownError, match="It may be; the same request"):
        await _HandedOver(engine, row_id, UnavailableError("away")).result()
    assert (await stored(engine, row_id)).status != DONE


async def test_only_a_promise_of_nothing_done_is_a_503(engine: Any) -> None:
    _, row_id = await ask(engine, Once(None, {}))
    slow = _HandedOver(engine, row_id, PluginTimeoutError("slow"))
    with pytest.raises(PluginTimeoutError):
        await slow.result()
    assert (await stored(engine, row_id)).status != DONE
    with pytest.raises(UnavailableError, match="slow; it was taken back"):
        await slow.result(EngineError)
    assert (await stored(engine, row_id)).status == DONE


class _Meanwhile:
    """Makes an invocation's row, while something happens to the plugin instance."""

    def __init__(self, engine: Any, *statements: str) -> None:
        self.database = engine.settings.data_dir / "metagov.sqlite"
        self.statements = list(statements)
        self.made_for: list[Instance] = []

    def row_for(self, instance: Instance) -> Invocation:
        self.made_for.append(instance)
        if self.statements:
            with sqlite3.connect(self.database) as connection:
                connection.execute(self.statements.pop(0))
            connection.close()
        return Invocation(
            community=instance.community, instance_id=instance.id, plugin="p", target="act"
        )

    async def accepted(self, engine: Any) -> str:
        chosen = Chosen("c", "p")
        _, _, row_id = await accept_of_instance(
            engine, chosen, self.row_for, "action", Once(None, {})
        )
        return row_id


@pytest.fixture
async def instance(engine: Any) -> PluginInstance:
    config = engine.secrets.encrypt({"n": 1})
    row = PluginInstance(community="c", plugin="p", instance="p", config_encrypted=config)
    async with engine.database.write() as session:
        session.add(Community(name="c"))
        await session.flush()
        session.add(row)
    return row


async def test_what_changed_since_it_was_read_is_read_again(
    engine: Any, instance: PluginInstance
) -> None:
    changed = engine.secrets.encrypt({"n": 2})
    meanwhile = _Meanwhile(engine, f"UPDATE plugin_instance SET config_encrypted = '{changed}'")
    row_id = await meanwhile.accepted(engine)
    assert [one.config for one in meanwhile.made_for] == [{"n": 1}, {"n": 2}]
    assert (await stored(engine, row_id)).instance_id == instance.id


async def test_what_is_disabled_since_it_was_read_is_asked_for_nothing(
    engine: Any, instance: PluginInstance
) -> None:
    meanwhile = _Meanwhile(engine, "DELETE FROM plugin_instance")
    with pytest.raises(BadRequestError, match="Plugin 'p' not enabled for community 'c'"):
        await meanwhile.accepted(engine)
    assert len(meanwhile.made_for) == 1
