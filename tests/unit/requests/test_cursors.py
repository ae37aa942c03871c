"""Where a reader of the feed reads on, after a restoring too."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import delete

from engine.errors import BadRequestError
from engine.requests.cursors import MOST_AHEAD, Place, find_place
from engine.store import epochs
from engine.store.epochs import DatabaseEpoch
from engine.store.restoring import CURSOR

# Of the first epoch's items the backup held 40; the second one goes on above all that were read.
FIRST = DatabaseEpoch(epoch=100, continues_after=0)
SECOND = DatabaseEpoch(epoch=200, restored_to=40, continues_after=1060)
THIRD = DatabaseEpoch(epoch=300, restored_to=1070, continues_after=2090)


async def lived_through(engine: Any, *known: DatabaseEpoch) -> None:
    async with engine.database.write() as session:
        await session.exec(delete(DatabaseEpoch))
        for epoch in known:
            session.add(DatabaseEpoch(**epoch.model_dump()))


async def test_a_reader_begins_at_the_beginning(engine: Any) -> None:
    await lived_through(engine, FIRST, SECOND)
    place = await find_place(engine, None)
    assert (place, place.cursor) == (Place(200, 0), "200-0")
    assert place.at(7).cursor == "200-7"
    assert place.at(None) == place


@pytest.mark.parametrize(
    ("cursor", "reads_on"),
    [
        ("300-2080", "300-2080"),
        # What the backup did not hold any more is told again, under numbers above.
        ("100-60", "300-40"),
        ("60", "300-40"),
        # What it held is not.
        ("100-30", "300-30"),
        ("30", "300-30"),
        ("200-1065", "300-1065"),
        ("200-1085", "300-1070"),
        # Of a life of the database that no backup knows of.
        ("250-1500", "300-40"),
        ("50-7", "300-0"),
    ],
)
async def test_a_cursor_skips_nothing(engine: Any, cursor: str, reads_on: str) -> None:
    await lived_through(engine, FIRST, SECOND, THIRD)
    assert (await find_place(engine, cursor)).cursor == reads_on


@pytest.mark.parametrize(
    "cursor", ["", "x", "-1", "100-", "-", "100-x", " 7", "1-2-3", "7" * 19, "٣", f"{'1' * 16}-1"]
)
async def test_what_is_no_cursor_is_refused(engine: Any, cursor: str) -> None:
    with pytest.raises(BadRequestError, match="after: no cursor that this endpoint gave"):
        await find_place(engine, cursor)


@pytest.mark.parametrize("cursor", ["8", f"100-{MOST_AHEAD + 8}"])
async def test_what_nobody_can_have_read_is_refused(engine: Any, cursor: str) -> None:
    await lived_through(engine, DatabaseEpoch(epoch=100, continues_after=7))
    with pytest.raises(BadRequestError, match="ahead of the latest position, 7; "):
        await find_place(engine, cursor)


async def test_a_cursor_that_the_database_does_not_know_shows_that_it_is_an_older_one(
    engine: Any,
) -> None:
    await lived_through(engine, DatabaseEpoch(epoch=100, continues_after=7))
    place = await find_place(engine, "100-9")
    async with engine.database.read() as session:
        before, began = await epochs.all_epochs(session)
    assert (before.epoch, began.epoch, began.found_by) == (100, place.epoch, CURSOR)
    assert began.continues_after > 9
    assert place.sequence == began.restored_to == 7
    again = await find_place(engine, "100-9")
    assert again == place
