"""The outbox: what is delivered to drivers, one ordered sequence per community."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Text, UniqueConstraint, delete, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store import epochs
from engine.store.communities import NAME_MAX_LENGTH
from engine.store.database import JsonText, UtcDateTime, new_id, utc_now
from engine.store.paging import later_than, newest_first

PENDING = "pending"
DELIVERED = "delivered"
FAILED = "failed"
RECORDED = "recorded"

EVENT = "event"
PROCESS = "process"

# No community has this name: the sequence over all of them.
_ALL_COMMUNITIES = ""
_LONGEST_ERROR = 500
_NUMBERED_AT_ONCE = 1000
_FORGOTTEN_AT_ONCE = 1000

# When it was made, its id and community.
Waiting = tuple[datetime, str, str]


def new_item_id() -> str:
    """Make an id for an item that is not stored yet."""
    return f"msg_{new_id()}"


class OutboxSequence(SQLModel, table=True):
    """The latest position in a community's sequence."""

    __tablename__ = "outbox_sequence"

    community: str = Field(primary_key=True, max_length=NAME_MAX_LENGTH)
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    epoch: int = Field(sa_column=Column(BigInteger, nullable=False))


class OutboxItem(SQLModel, table=True):
    """Something for a community's driver, and the state of its delivery.

    ``position`` counts within the community. ``sequence`` counts over all of them; a reader gives
    it to items that have none yet, so that no later item can come before one that was read.
    ``epoch`` is the database's when the item was made.
    """

    __tablename__ = "outbox_item"
    __table_args__ = (
        UniqueConstraint("community", "position"),
        Index("outbox_item_listing", "created_at", "id"),
        Index("outbox_item_feed", "sequence", unique=True),
    )

    id: str = Field(default_factory=new_item_id, primary_key=True, max_length=40)
    community: str = Field(max_length=NAME_MAX_LENGTH)
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    epoch: int = Field(sa_column=Column(BigInteger, nullable=False))
    kind: str = Field(max_length=16)
    body: Any = Field(sa_type=JsonText)
    url: str | None = Field(default=None, sa_type=Text)
    status: str = Field(default=PENDING, max_length=16, index=True)
    attempts: int = 0
    last_status: int | None = None
    last_error: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    queued_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    sequence: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
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

    def queue(self) -> None:
        """Have the item delivered once more, with all of the time for it ahead."""
        self.status = PENDING
        self.finished_at = None
        self.queued_at = utc_now()

    def finish(self, status: str) -> None:
        """End the delivery as ``delivered`` or ``failed``."""
        self.status = status
        self.finished_at = utc_now()


async def append(
    session: AsyncSession,
    *,
    community: str,
    kind: str,
    body: Any,
    url: str | None,
    item_id: str | None = None,
) -> OutboxItem:
    """Add an item at the end of a community's sequence.

    Args:
        session: A session in the transaction that makes its content.
        community: The community's name.
        kind: ``event`` or ``process``.
        body: Its content, JSON data.
        url: Where it is sent; None: it is recorded only.
        item_id: Its id; default: a new one.

    Returns:
        The item.
    """
    counter = await _counter(session, community)
    counter.position += 1
    item = OutboxItem(
        id=item_id or new_item_id(),
        community=community,
        position=counter.position,
        epoch=counter.epoch,
        kind=kind,
        body=body,
        url=url,
        status=PENDING if url else RECORDED,
        finished_at=None if url else utc_now(),
    )
    session.add(item)
    return item


async def _counter(session: AsyncSession, community: str) -> OutboxSequence:
    """The counter of a sequence, with all who want it waiting until the transaction ends."""
    counter = await session.get(OutboxSequence, community, with_for_update=True)
    if counter is None:
        present = await epochs.present_epoch(session)
        first = OutboxSequence(
            community=community, position=present.continues_after, epoch=present.epoch
        )
        try:
            async with session.begin_nested():
                session.add(first)
        except IntegrityError:
            # Another transaction made the first item at the same moment.
            pass
        counter = await session.get_one(
            OutboxSequence, community, with_for_update=True, populate_existing=True
        )
    return counter


async def get_item(session: AsyncSession, item_id: str) -> OutboxItem | None:
    """Find an item.

    Args:
        session: An open session.
        item_id: Its id.

    Returns:
        The item, or None.
    """
    return await session.get(OutboxItem, item_id)


async def pending_items(
    session: AsyncSession, after: Waiting | None, limit: int
) -> Sequence[Waiting]:
    """Items that are still to be delivered, a page of them.

    Args:
        session: An open session.
        after: The last one of the page before; None for the first page.
        limit: Most items.

    Returns:
        When each was made, its id and community, the oldest first.
    """
    at, by_id = col(OutboxItem.created_at), col(OutboxItem.id)
    query = (
        select(OutboxItem.created_at, OutboxItem.id, OutboxItem.community)
        .where(col(OutboxItem.status) == PENDING)
        .order_by(at, by_id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(later_than(at, by_id, after[0], after[1]))
    return (await session.exec(query)).all()


async def list_items(
    session: AsyncSession,
    *,
    community: str | None,
    status: str | None,
    kind: str | None,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[OutboxItem], str | None]:
    """List items, the newest first.

    Args:
        session: An open session.
        community: Only this community's.
        status: Only those with this status.
        kind: Only those of this kind.
        cursor: Where an earlier page ended.
        limit: Most rows on the page.

    Returns:
        The page, and the cursor of the next one, None at the end.

    Raises:
        BadRequestError: The cursor is none of ours.
    """
    query = select(OutboxItem)
    for column, wanted in (
        (OutboxItem.community, community),
        (OutboxItem.status, status),
        (OutboxItem.kind, kind),
    ):
        if wanted is not None:
            query = query.where(col(column) == wanted)
    return await newest_first(
        session, query, OutboxItem.created_at, OutboxItem.id, cursor=cursor, limit=limit
    )


async def queue_again(
    session: AsyncSession, *, since: datetime, until: datetime, status: str, community: str | None
) -> int:
    """Have ended items of a time range delivered once more.

    Args:
        session: A session in a transaction.
        since: Items made at this moment or later.
        until: Items made before this moment.
        status: ``failed`` or ``delivered``.
        community: Only this community's.

    Returns:
        How many there are.
    """
    statement = (
        update(OutboxItem)
        .where(
            col(OutboxItem.status) == status,
            col(OutboxItem.created_at) >= since,
            col(OutboxItem.created_at) < until,
        )
        .values(status=PENDING, finished_at=None, queued_at=utc_now())
        .execution_options(synchronize_session=False)
    )
    if community is not None:
        statement = statement.where(col(OutboxItem.community) == community)
    return (await session.exec(statement)).rowcount


async def is_anything_unnumbered(session: AsyncSession) -> bool:
    """Whether there are items that no reader has seen.

    Args:
        session: An open session.

    Returns:
        True if ``number_items`` has something to do.
    """
    query = select(OutboxItem.id).where(col(OutboxItem.sequence).is_(None)).limit(1)
    return (await session.exec(query)).first() is not None


async def number_items(session: AsyncSession) -> int:
    """Give items without one the next numbers of the sequence over all communities.

    A community's items keep their order. An item of a transaction that is still open is not seen
    here, and gets a later number than all that is: nothing ever appears behind a reader.

    Args:
        session: A session in a transaction.

    Returns:
        How many were numbered; at most a thousand.
    """
    counter = await _counter(session, _ALL_COMMUNITIES)
    query = (
        select(OutboxItem)
        .where(col(OutboxItem.sequence).is_(None))
        .order_by(col(OutboxItem.community), col(OutboxItem.position))
        .limit(_NUMBERED_AT_ONCE)
    )
    items = (await session.exec(query)).all()
    order: list[tuple[datetime, OutboxItem]] = []
    for item in items:
        moment = item.created_at
        if order and order[-1][1].community == item.community:
            moment = max(moment, order[-1][0])
        order.append((moment, item))
    for _, item in sorted(order, key=lambda pair: pair[0]):
        counter.position += 1
        item.sequence = counter.position
    return len(items)


async def latest_sequence(session: AsyncSession) -> int:
    """The highest number that an item was given.

    Args:
        session: An open session.

    Returns:
        The number; the one before the epoch's first, if there is none yet.
    """
    counter = await session.get(OutboxSequence, _ALL_COMMUNITIES)
    if counter is None:
        return (await epochs.present_epoch(session)).continues_after
    return counter.position


async def items_after(
    session: AsyncSession, sequence: int, *, community: str | None, limit: int
) -> Sequence[OutboxItem]:
    """Read on in the sequence.

    Args:
        session: An open session.
        sequence: The number of the last item that was read.
        community: Only this community's.
        limit: Most items.

    Returns:
        The items, in order.
    """
    query = select(OutboxItem).where(col(OutboxItem.sequence) > sequence)
    if community is not None:
        query = query.where(col(OutboxItem.community) == community)
    return (await session.exec(query.order_by(col(OutboxItem.sequence)).limit(limit))).all()


async def forget_items_before(session: AsyncSession, finished: datetime) -> int:
    """Delete items past their retention, some at a time.

    Args:
        session: A session in a transaction.
        finished: Items that ended before this moment go.

    Returns:
        How many were deleted; 0 when there are no more.
    """
    old = (
        select(OutboxItem.id)
        .where(col(OutboxItem.finished_at) < finished)
        .limit(_FORGOTTEN_AT_ONCE)
    )
    return (await session.exec(delete(OutboxItem).where(col(OutboxItem.id).in_(old)))).rowcount
