"""The outbox: what drivers are told, one ordered sequence per community."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Text, UniqueConstraint, delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store.communities import NAME_MAX_LENGTH
from engine.store.database import JsonText, UtcDateTime, new_id, utc_now

PENDING = "pending"
DELIVERED = "delivered"
FAILED = "failed"
RECORDED = "recorded"

EVENT = "event"
PROCESS = "process"

_LONGEST_ERROR = 500


class OutboxSequence(SQLModel, table=True):
    """The latest position in a community's sequence."""

    __tablename__ = "outbox_sequence"

    community: str = Field(primary_key=True, max_length=NAME_MAX_LENGTH)
    position: int = Field(sa_column=Column(BigInteger, nullable=False))


class OutboxItem(SQLModel, table=True):
    """Something that a community's driver is told, and how the telling went."""

    __tablename__ = "outbox_item"
    __table_args__ = (UniqueConstraint("community", "position"),)

    id: str = Field(default_factory=lambda: f"msg_{new_id()}", primary_key=True, max_length=40)
    community: str = Field(max_length=NAME_MAX_LENGTH)
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    kind: str = Field(max_length=16)
    body: Any = Field(sa_type=JsonText)
    url: str | None = Field(default=None, sa_type=Text)
    status: str = Field(default=PENDING, max_length=16, index=True)
    attempts: int = 0
    last_status: int | None = None
    last_error: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)

    def attempted(self, *, status: int | None = None, error: str | None = None) -> None:
        """Note one more try.

        Args:
            status: The HTTP status that came back, if one did.
            error: What went wrong, if anything.
        """
        self.attempts += 1
        self.last_status = status
        self.last_error = error[:_LONGEST_ERROR] if error else None

    def finish(self, status: str) -> None:
        """End the telling.

        Args:
            status: ``delivered`` or ``failed``.
        """
        self.status = status
        self.finished_at = utc_now()


async def append(
    session: AsyncSession, *, community: str, kind: str, body: Any, url: str | None
) -> OutboxItem:
    """Add an item at the end of a community's sequence.

    Args:
        session: A session in the transaction that makes what is told.
        community: The community's name.
        kind: ``event`` or ``process``.
        body: What is told, JSON data.
        url: Where it is sent; None: it is recorded only.

    Returns:
        The item.
    """
    item = OutboxItem(
        community=community,
        position=await _next_position(session, community),
        kind=kind,
        body=body,
        url=url,
        status=PENDING if url else RECORDED,
        finished_at=None if url else utc_now(),
    )
    session.add(item)
    return item


async def _next_position(session: AsyncSession, community: str) -> int:
    sequence = await session.get(OutboxSequence, community, with_for_update=True)
    if sequence is None:
        try:
            async with session.begin_nested():
                session.add(OutboxSequence(community=community, position=0))
        except IntegrityError:
            # Another transaction made the community's first item at the same moment.
            pass
        sequence = await session.get_one(
            OutboxSequence, community, with_for_update=True, populate_existing=True
        )
    sequence.position += 1
    return sequence.position


async def get_item(session: AsyncSession, item_id: str) -> OutboxItem | None:
    """Find an item.

    Args:
        session: An open session.
        item_id: Its id.

    Returns:
        The item, or None.
    """
    return await session.get(OutboxItem, item_id)


async def pending_items(session: AsyncSession) -> Sequence[str]:
    """Items that are still to be delivered.

    Args:
        session: An open session.

    Returns:
        Their ids, the oldest first.
    """
    query = (
        select(OutboxItem.id)
        .where(col(OutboxItem.status) == PENDING)
        .order_by(col(OutboxItem.created_at))
    )
    return (await session.exec(query)).all()


async def forget_items_before(session: AsyncSession, finished: datetime) -> None:
    """Delete items past their retention.

    Args:
        session: A session in a transaction.
        finished: Items that ended before this moment go.
    """
    await session.exec(delete(OutboxItem).where(col(OutboxItem.finished_at) < finished))
