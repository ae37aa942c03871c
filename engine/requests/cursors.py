"""Cursors of the feed: ``{epoch}-{number}``, and where each reads on after a restoring."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import structlog

from engine.errors import BadRequestError, Violation
from engine.resources import Engine
from engine.store import epochs, outbox, restoring
from engine.store.epochs import DatabaseEpoch
from engine.store.paging import bad_cursor

log = structlog.get_logger()

# A cursor further ahead than this was not given by any database of ours.
MOST_AHEAD = 1_000_000_000

_CURSOR = re.compile(r"(?:([0-9]{1,15})-)?([0-9]{1,18})")


@dataclass(frozen=True)
class Place:
    """Where a reader stands.

    Attributes:
        epoch: The epoch in which its cursors are given.
        sequence: The number of the last item that it read.
    """

    epoch: int
    sequence: int

    @property
    def cursor(self) -> str:
        """The cursor that leads here."""
        return f"{self.epoch}-{self.sequence}"

    def at(self, sequence: int | None) -> Place:
        """The place of another item.

        Args:
            sequence: The item's number; None: it has none, the place stays.
        """
        return self if sequence is None else replace(self, sequence=sequence)


async def find_place(engine: Engine, cursor: str | None) -> Place:
    """Find where a cursor reads on, so that nothing is skipped.

    Args:
        engine: The engine.
        cursor: The cursor; a number alone is one of the first epoch; None: the beginning.

    Returns:
        The place.

    Raises:
        BadRequestError: The cursor is none that was given.
    """
    async with engine.database.read() as session:
        known = await epochs.all_epochs(session)
        latest = await outbox.latest_sequence(session)
    if cursor is None:
        return Place(known[-1].epoch, 0)
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise bad_cursor("after")
    epoch, sequence = int(found[1] or known[0].epoch), int(found[2])
    after = [later for later in known if later.epoch > epoch]
    if epoch not in [one.epoch for one in known]:
        # Of a life of the database that this one knows nothing of: from where that can have begun.
        before = [one for one in known if one.epoch < epoch]
        return Place(known[-1].epoch, before[-1].restored_to if before else 0)
    if after:
        return Place(known[-1].epoch, min(sequence, after[0].restored_to))
    if sequence <= latest:
        return Place(epoch, sequence)
    if found[1] is None or sequence - latest > MOST_AHEAD:
        raise _ahead(latest)
    began = await _begin_epoch(engine, known[-1], sequence)
    return Place(began.epoch, min(sequence, began.restored_to))


async def _begin_epoch(engine: Engine, present: DatabaseEpoch, latest_read: int) -> DatabaseEpoch:
    """Begin an epoch: a database that gave a cursor and does not know it is an older one."""
    async with engine.database.write() as session:
        now = await epochs.lock_present_epoch(session)
        if now.epoch != present.epoch:
            return now
        began = await restoring.begin_epoch(
            session, now, found_by=restoring.CURSOR, latest_read=latest_read, at_once=False
        )
    log.warning(
        "a driver has read further than the database goes: it was restored from a backup",
        epoch=began.epoch,
        continues_after=began.continues_after,
    )
    return began


def _ahead(latest: int) -> BadRequestError:
    message = (
        f"is ahead of the latest position, {latest}; "
        "if the database was restored from a backup, have `metagov restored` run"
    )
    return BadRequestError(f"after: {message}", [Violation("/after", message)])
