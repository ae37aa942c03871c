"""Moments for calls: evenly spaced, whoever asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from engine.settings import Settings
from engine.store import pacing
from engine.store.database import Database, open_database
from engine.store.pacing import InstancePace

NOW = datetime(2026, 8, 21, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    database = open_database(Settings(database_url=migrated_url))
    yield database
    await database.close()


async def reserve(
    database: Database, now: datetime = NOW, longest: timedelta | None = None
) -> float:
    """Take a moment; gives how many seconds it is off."""
    async with database.write() as session:
        moment = await pacing.reserve(session, "i", every=2 * SECOND, now=now, longest=longest)
    return (moment - now).total_seconds()


async def test_moments_are_evenly_spaced(database: Database) -> None:
    assert [await reserve(database) for _ in range(3)] == [0, 2, 4]
    assert await reserve(database, NOW + 3 * SECOND) == 3


async def test_time_that_nobody_used_is_not_saved_up(database: Database) -> None:
    assert await reserve(database) == 0
    later = NOW + 60 * SECOND
    assert [await reserve(database, later) for _ in range(2)] == [0, 2]


async def test_a_moment_too_far_off_is_left_to_others(database: Database) -> None:
    assert [await reserve(database, longest=SECOND) for _ in range(3)] == [0, 2, 2]
    assert [await reserve(database) for _ in range(2)] == [2, 4]


async def test_the_later_end_of_two_pauses_stays(database: Database) -> None:
    for seconds in (5, 9, 7):
        async with database.write() as session:
            await pacing.pause(session, "i", NOW + seconds * SECOND)
            await pacing.isolate(session, "i", NOW + 2 * seconds * SECOND)
    async with database.read() as session:
        pace = await session.get_one(InstancePace, "i")
    assert (pace.paused_until, pace.alone_until) == (NOW + 9 * SECOND, NOW + 18 * SECOND)
