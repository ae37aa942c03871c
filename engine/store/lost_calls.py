"""Calls of plugin code that were under way when their worker died."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel, col
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store.database import UtcDateTime, utc_now

# So long a loss counts; what happens less often is an accident.
REMEMBERED = timedelta(days=1)


class LostCall(SQLModel, table=True):
    """How often calls were lost with their worker: of a process, a webhook, a task, an instance."""

    __tablename__ = "lost_call"

    key: str = Field(primary_key=True, max_length=255)
    instance_id: str = Field(max_length=36, index=True)
    count: int
    last_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime, index=True)


async def count_loss(
    session: AsyncSession, key: str, instance_id: str, within: timedelta = REMEMBERED
) -> int:
    """Count one more loss.

    Args:
        session: A session in a transaction.
        key: What was lost.
        instance_id: The plugin instance that it belongs to.
        within: How long after the last one a loss counts together with it.

    Returns:
        How many there were within that time of each other.
    """
    row = await session.get(LostCall, key, with_for_update=True)
    if row is None:
        try:
            async with session.begin_nested():
                session.add(LostCall(key=key, instance_id=instance_id, count=1))
            return 1
        except IntegrityError:
            # Another transaction made it at the same moment.
            row = await session.get_one(LostCall, key, with_for_update=True, populate_existing=True)
    recent = utc_now() - row.last_at < within
    row.count, row.last_at = (row.count + 1 if recent else 1), utc_now()
    return row.count


async def was_lost(session: AsyncSession, key: str) -> bool:
    """Whether a loss was counted that nothing has made good since.

    Args:
        session: An open session.
        key: What was lost.
    """
    return await session.get(LostCall, key) is not None


async def forget(session: AsyncSession, *keys: str) -> None:
    """Begin to count anew.

    Args:
        session: A session in a transaction.
        keys: What was lost.
    """
    await session.exec(delete(LostCall).where(col(LostCall.key).in_(keys)))


async def forget_before(session: AsyncSession, moment: datetime) -> None:
    """Delete counts that nothing was added to since a moment.

    Args:
        session: A session in a transaction.
        moment: The moment.
    """
    await session.exec(delete(LostCall).where(col(LostCall.last_at) < moment))
