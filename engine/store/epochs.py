"""Epochs: each restoring of the database from a backup begins one.

Positions that were given after the backup are gone from the database, but drivers have seen them.
An epoch says how far the backup reached (``restored_to``) and goes on above all that can have been
given meanwhile (``continues_after``). Its number is the moment at which it began, in milliseconds:
a backup that is put back twice begins two different ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, func
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store.database import JsonText, UtcDateTime, utc_now


class DatabaseEpoch(SQLModel, table=True):
    """A time between two restorings of the database.

    ``beats`` counts starts of workers and hourly looks: what is outside of the database remembers
    the count, and a database that has counted less is an older one.
    """

    __tablename__ = "database_epoch"

    epoch: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    restored_to: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    continues_after: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    found_by: str = Field(default="", max_length=16)
    backup_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    beats: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    beat_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    put_right: dict[str, Any] | None = Field(default=None, sa_type=JsonText)

    @property
    def began_at(self) -> datetime:
        """When the epoch began."""
        return datetime.fromtimestamp(self.epoch / 1000, utc_now().tzinfo)


async def all_epochs(session: AsyncSession) -> Sequence[DatabaseEpoch]:
    """The epochs that the database knows of.

    Args:
        session: An open session.

    Returns:
        The epochs, the first one first; there is always one.
    """
    return (await session.exec(select(DatabaseEpoch).order_by(col(DatabaseEpoch.epoch)))).all()


async def present_epoch(session: AsyncSession) -> DatabaseEpoch:
    """The epoch that the database is in.

    Args:
        session: An open session.

    Returns:
        The epoch.
    """
    query = select(DatabaseEpoch).order_by(col(DatabaseEpoch.epoch).desc()).limit(1)
    return (await session.exec(query)).one()


async def lock_present_epoch(session: AsyncSession) -> DatabaseEpoch:
    """The epoch that the database is in, with others that would change it waiting.

    Args:
        session: A session in a transaction.

    Returns:
        The epoch.
    """
    while True:
        seen = await present_epoch(session)
        await session.get_one(
            DatabaseEpoch, seen.epoch, with_for_update=True, populate_existing=True
        )
        latest = (await session.exec(select(func.max(DatabaseEpoch.epoch)))).one()
        if latest == seen.epoch:
            return seen


async def beat(session: AsyncSession) -> None:
    """Count a start, or an hour.

    Args:
        session: A session in a transaction.
    """
    present = await lock_present_epoch(session)
    present.beats += 1
    present.beat_at = utc_now()


def next_epoch(*before: int) -> int:
    """The next epoch's number: now in milliseconds, or more if an earlier one is not over by it."""
    return max(time.time_ns() // 1_000_000, *(epoch + 1 for epoch in before))
