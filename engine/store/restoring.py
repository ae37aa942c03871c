"""Begins a new epoch in a database that was restored from a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store import epochs, outbox, outside
from engine.store.database import Database
from engine.store.epochs import DatabaseEpoch
from engine.store.invocations import Invocation
from engine.store.outbox import OutboxItem, OutboxSequence
from engine.store.outside import Remembered
from engine.store.processes import GovernanceProcess
from engine.store.webhooks import ReceivedWebhook

log = structlog.get_logger()

# More than is ever delivered between two backups: no position of that time is given again.
GAP = 1_000_000

COMMAND = "command"
DATA_FOLDER = "data folder"
TEMPORAL = "temporal"
CURSOR = "cursor"

_MOMENTS: tuple[Any, ...] = (
    OutboxItem.created_at,
    GovernanceProcess.updated_at,
    ReceivedWebhook.received_at,
    Invocation.created_at,
    DatabaseEpoch.beat_at,
)


async def begin_epoch(
    session: AsyncSession,
    present: DatabaseEpoch,
    *,
    found_by: str,
    at_once: bool,
    latest_read: int = 0,
    remembered: Sequence[Remembered] = (),
) -> DatabaseEpoch:
    """Begin a new epoch: all positions go on above what drivers can have seen.

    Args:
        session: A session in a transaction that holds the lock of the present epoch.
        present: The epoch that ends.
        found_by: How the restoring was found.
        at_once: Whether nothing was delivered since the restoring. Else it is not known how far the
            backup reached, and readers of the epoch that ends begin at its beginning.
        latest_read: The highest number that a driver is known to have read.
        remembered: What is known of the database from outside of it.

    Returns:
        The new epoch.
    """
    if at_once:
        while await outbox.number_items(session):
            pass
    highest = (await session.exec(select(func.max(OutboxSequence.position)))).one() or 0
    began = DatabaseEpoch(
        epoch=epochs.next_epoch(present.epoch, *(one.epoch for one in remembered)),
        restored_to=await outbox.latest_sequence(session) if at_once else present.continues_after,
        continues_after=max(highest, latest_read, *(one.told for one in remembered)) + GAP,
        found_by=found_by,
        backup_at=await _last_moment(session) if at_once else None,
    )
    session.add(began)
    await session.exec(
        update(OutboxSequence).values(position=began.continues_after, epoch=began.epoch)
    )
    return began


async def notice(
    database: Database, data_dir: Path, temporal: Remembered | None, *, at_once: bool
) -> DatabaseEpoch | None:
    """Find out by what is remembered outside of a database whether it is an older one.

    Args:
        database: The database.
        data_dir: The data folder.
        temporal: What Temporal remembers, if it answers and does.
        at_once: Whether nothing was delivered since the restoring, if there was one.

    Returns:
        The epoch that has begun, if it is.
    """
    remembered = {DATA_FOLDER: outside.recall(data_dir), TEMPORAL: temporal}
    async with database.read() as session:
        if not await _ahead(session, remembered):
            return None
    async with database.write() as session:
        present = await epochs.lock_present_epoch(session)
        ahead = await _ahead(session, remembered)
        if not ahead:
            return None
        began = await begin_epoch(
            session,
            present,
            found_by=next(iter(ahead)),
            at_once=at_once,
            remembered=list(ahead.values()),
        )
        now = await outside.how_far(session)
    outside.remember(data_dir, now)
    log.warning(
        "the database is older than what is known of it: it was restored from a backup",
        found_by=began.found_by,
        backup_at=str(began.backup_at),
        epoch=began.epoch,
        continues_after=began.continues_after,
    )
    return began


async def mark(
    database: Database, data_dir: Path, *, again: bool, at_once: bool
) -> DatabaseEpoch | None:
    """Begin a new epoch because an operator says that the database was restored.

    Args:
        database: The database.
        data_dir: The data folder.
        again: Whether that is so although the database is known to have been restored.
        at_once: Whether nothing was delivered since the restoring.

    Returns:
        The epoch that has begun; None if that was done before.
    """
    folder = outside.recall(data_dir)
    async with database.write() as session:
        present = await epochs.lock_present_epoch(session)
        if present.found_by and not again:
            return None
        began = await begin_epoch(
            session,
            present,
            found_by=COMMAND,
            at_once=at_once,
            remembered=[folder] if folder is not None else [],
        )
        now = await outside.how_far(session)
    outside.remember(data_dir, now)
    return began


async def _ahead(
    session: AsyncSession, remembered: Mapping[str, Remembered | None]
) -> dict[str, Remembered]:
    """What knows of a later time than the database."""
    known = await epochs.all_epochs(session)
    latest = await outbox.latest_sequence(session)
    return {
        name: found
        for name, found in remembered.items()
        if found is not None and found.is_ahead_of(known, latest)
    }


async def _last_moment(session: AsyncSession) -> datetime | None:
    """The last moment that the database knows of: when it was backed up, or shortly before."""
    found = [(await session.exec(select(func.max(col(column))))).one() for column in _MOMENTS]
    return max((moment for moment in found if moment is not None), default=None)
