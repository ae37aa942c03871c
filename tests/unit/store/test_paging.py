"""Pages of rows: each row on one of them, whatever the moment it shares."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from engine.errors import BadRequestError
from engine.settings import Settings
from engine.store.communities import Community
from engine.store.database import Database, open_database
from engine.store.paging import newest_first

NOON = datetime(2026, 8, 21, 12, 0, tzinfo=UTC)


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    database = open_database(Settings(database_url=migrated_url))
    yield database
    await database.close()


async def page(
    database: Database, cursor: str | None = None, limit: int = 2
) -> tuple[list[str], str | None]:
    async with database.read() as session:
        rows, after = await newest_first(
            session,
            select(Community),
            Community.created_at,
            Community.name,
            cursor=cursor,
            limit=limit,
        )
    return [row.name for row in rows], after


async def pages(database: Database, limit: int) -> list[list[str]]:
    names, cursor = await page(database, limit=limit)
    found = [names]
    while cursor is not None:
        assert len(found) < 9
        names, cursor = await page(database, cursor, limit)
        found.append(names)
    return found


async def test_the_newest_first_and_each_row_once(database: Database) -> None:
    assert await pages(database, 2) == [[]]
    minutes = {"a": 0, "b": 1, "c": 1, "d": 1, "e": 2}
    async with database.write() as session:
        for name, minute in minutes.items():
            session.add(Community(name=name, created_at=NOON + timedelta(minutes=minute)))
    order = ["e", "d", "c", "b", "a"]
    for limit in range(1, 7):
        whole = [order[start : start + limit] for start in range(0, 5, limit)]
        assert await pages(database, limit) == whole


async def test_what_is_new_since_moves_nothing(database: Database) -> None:
    async with database.write() as session:
        session.add_all(Community(name=name, created_at=NOON) for name in "abc")
    first, cursor = await page(database)
    async with database.write() as session:
        session.add(Community(name="d", created_at=NOON + timedelta(seconds=1)))
    assert (first, await page(database, cursor)) == (["c", "b"], (["a"], None))


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "☂",
        encoded("soon|a"),
        encoded("2026-08-21T12:00:00|a"),
        encoded("2026-08-21T12:00:00+00:00"),
        encoded("2026-08-21T12:00:00+00:00|a|b"),
        encoded("2026-08-21T12:00:00+00:00|a\0"),
        encoded("0001-01-01T00:00:00+14:00|a"),
    ],
)
async def test_what_is_no_cursor_is_refused(database: Database, cursor: str) -> None:
    with pytest.raises(BadRequestError, match="cursor: no cursor that this endpoint gave"):
        await page(database, cursor)
