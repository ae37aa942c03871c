"""The pace at which a plugin instance may call its platform, shared by all workers."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store.database import UtcDateTime

WATCHED = timedelta(days=1)


class InstancePace(SQLModel, table=True):
    """When a plugin instance may make its next call, and until when it may make none at all."""

    __tablename__ = "instance_pace"

    instance_id: str = Field(primary_key=True, max_length=36)
    next_call_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # By its platform's rate limit.
    paused_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # For its calls took workers down.
    stopped_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # Calls are made in a process of their own until then.
    alone_until: datetime | None = Field(default=None, sa_type=UtcDateTime)


async def stop(session: AsyncSession, instance_id: str, until: datetime) -> None:
    """Have no plugin code called for a while, and for a day after that in a process of its own.

    Args:
        session: A session in a transaction.
        instance_id: The instance.
        until: Till when.
    """
    pace = await _locked(session, instance_id)
    pace.stopped_until, pace.alone_until = until, until + WATCHED


async def isolate(session: AsyncSession, instance_id: str, until: datetime) -> None:
    """Have plugin code called in a process of its own for a while.

    Args:
        session: A session in a transaction.
        instance_id: The instance.
        until: Till when; a later moment that was noted before stays.
    """
    pace = await _locked(session, instance_id)
    pace.alone_until = max(until, pace.alone_until or until)


async def pause(session: AsyncSession, instance_id: str, until: datetime) -> None:
    """Note that the platform wants no calls for a while.

    Args:
        session: A session in a transaction.
        instance_id: The instance.
        until: Till when; a later moment that was noted before stays.
    """
    pace = await _locked(session, instance_id)
    pace.paused_until = max(until, pace.paused_until or until)


async def reserve(
    session: AsyncSession,
    instance_id: str,
    *,
    every: timedelta,
    now: datetime,
    longest: timedelta | None,
) -> datetime:
    """Take the next free moment for a call, evenly spaced (a leaky bucket without burst).

    Args:
        session: A session in a transaction.
        instance_id: The instance.
        every: Time between two calls.
        now: The present time.
        longest: How far off the moment may be to be taken; None: as far as it is.

    Returns:
        The moment; one too far off was not taken.
    """
    pace = await _locked(session, instance_id)
    moment = max(now, pace.next_call_at or now)
    if longest is None or moment - now <= longest:
        pace.next_call_at = moment + every
    return moment


async def _locked(session: AsyncSession, instance_id: str) -> InstancePace:
    pace = await session.get(InstancePace, instance_id, with_for_update=True)
    if pace is None:
        try:
            async with session.begin_nested():
                session.add(InstancePace(instance_id=instance_id))
        except IntegrityError:
            # Another transaction made it at the same moment.
            pass
        pace = await session.get_one(
            InstancePace, instance_id, with_for_update=True, populate_existing=True
        )
    return pace
