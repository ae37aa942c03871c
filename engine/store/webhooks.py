"""Received webhooks: stored before they are answered, marked when they are handled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Insert,
    LargeBinary,
    Text,
    bindparam,
    delete,
    func,
    update,
)
from sqlalchemy import (
    Sequence as NumberSequence,
)
from sqlalchemy.orm import defer
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store import communities
from engine.store.communities import NAME_MAX_LENGTH, EnabledInstance
from engine.store.database import (
    Database,
    JsonText,
    UtcDateTime,
    insert_if,
    new_id,
    utc_now,
)
from engine.store.paging import later_than, newest_first

RECEIVED = "received"
HANDLED = "handled"
FAILED = "failed"

_FORGOTTEN_AT_ONCE = 200

# When it was received, its id, community, plugin and instance.
Unhandled = tuple[datetime, str, str, str, str]

SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


class ReceivedWebhook(SQLModel, table=True):
    """A verified webhook of a plugin instance.

    ``delivery_id`` is the platform's own id of it, if it sends one. ``sequence`` grows with every
    webhook that is accepted; ``routed`` says that the processes which it concerns have been
    signalled, ``keys_asked_at`` since when its plugin is asked for its keys for a later one.
    ``replayed`` says that somebody asked for it to be handled again, ``replays`` how often that was
    from the beginning.
    """

    __tablename__ = "received_webhook"
    __table_args__ = (
        Index("received_webhook_delivery", "instance_id", "delivery_id", unique=True),
        Index("received_webhook_listing", "received_at", "id"),
        Index("received_webhook_order", "instance_id", "routed", "sequence"),
        Index("received_webhook_sequence", "sequence"),
    )

    id: str = Field(default_factory=new_id, primary_key=True, max_length=36)
    instance_id: str = Field(max_length=36, index=True)
    community: str = Field(max_length=NAME_MAX_LENGTH)
    plugin: str = Field(max_length=64)
    instance: str = Field(max_length=64)
    delivery_id: str | None = Field(default=None, max_length=255)
    path: str = Field(sa_type=Text)
    query: dict[str, Any] = Field(default_factory=dict, sa_type=JsonText)
    headers: dict[str, Any] = Field(default_factory=dict, sa_type=JsonText)
    body: bytes = Field(default=b"", sa_type=LargeBinary)
    status: str = Field(default=RECEIVED, max_length=16, index=True)
    sequence: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    routed: bool = False
    keys_asked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    tries: int = 0
    replayed: bool = False
    replays: int = 0
    error: dict[str, Any] | None = Field(default=None, sa_type=JsonText)
    received_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    handled_at: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)

    @property
    def reference(self) -> str:
        """What invocations that handle it are marked by: another one after a replay."""
        return f"{self.id}:{self.replays}" if self.replays else self.id

    def replay(self) -> None:
        """Have it handled once more: of one that failed, what failed; of one that did not, all."""
        if self.status == HANDLED:
            self.replays += 1
        self.replayed = True
        self.status, self.tries = RECEIVED, 0
        self.error, self.handled_at = None, None


_WITH_INSTANCE = communities.select_with_instance(
    ReceivedWebhook.instance_id, ReceivedWebhook
).where(col(ReceivedWebhook.id) == bindparam("id"))


_NUMBERS = NumberSequence("received_webhook_sequence_numbers")
_NOT_ROUTED = (
    select(ReceivedWebhook)
    .where(
        col(ReceivedWebhook.instance_id) == bindparam("instance"),
        col(ReceivedWebhook.routed).is_(False),
        col(ReceivedWebhook.sequence) <= bindparam("last"),
    )
    .order_by(
        col(ReceivedWebhook.sequence), col(ReceivedWebhook.received_at), col(ReceivedWebhook.id)
    )
    .limit(20)
)


def without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    """Leave out the headers that carry credentials.

    Args:
        headers: The webhook's headers.

    Returns:
        Those that may be stored, names in lower case.
    """
    return {
        name.lower(): value for name, value in headers.items() if name.lower() not in SECRET_HEADERS
    }


def webhook_id_of(reference: str | None) -> str:
    """The id in a webhook's ``reference``.

    Args:
        reference: The reference.

    Returns:
        The id; empty if there is none.
    """
    return (reference or "").partition(":")[0]


_NEXT = _NUMBERS.next_value()
# SQLite has one writer at a time, so nobody takes the same number.
_FOLLOWING = func.coalesce(select(func.max(ReceivedWebhook.sequence)).scalar_subquery(), 0) + 1


def insert_in_order(
    database: Database, row: ReceivedWebhook, condition: ColumnElement[bool]
) -> Insert:
    """Make the statement that accepts a webhook: after all that were accepted before.

    Args:
        database: The database.
        row: The new webhook.
        condition: What must hold at that moment.

    Returns:
        The statement; it changes one row, or none.
    """
    postgresql = database.engine.dialect.name == "postgresql"
    return insert_if(row, condition, {"sequence": _NEXT if postgresql else _FOLLOWING})


async def newest_of(session: AsyncSession, instance_id: str) -> int:
    """The number of the webhook that a plugin instance accepted last.

    Args:
        session: An open session.
        instance_id: The instance.

    Returns:
        The number; 0 if there is none.
    """
    query = select(func.max(ReceivedWebhook.sequence)).where(
        col(ReceivedWebhook.instance_id) == instance_id
    )
    return (await session.exec(query)).one() or 0


async def not_routed(
    session: AsyncSession, instance_id: str, last: int
) -> Sequence[ReceivedWebhook]:
    """The first webhooks of a plugin instance whose processes were not signalled yet.

    Args:
        session: An open session.
        instance_id: The instance.
        last: Only those up to the one of this number.

    Returns:
        The webhooks in order of acceptance; at most twenty.
    """
    parameters = {"instance": instance_id, "last": last}
    return (await session.exec(_NOT_ROUTED, params=parameters)).all()


async def mark_routed(database: Database, webhook_id: str) -> None:
    """Note that the processes which a webhook concerns were signalled; a loss of this does no harm.

    Args:
        database: The database.
        webhook_id: The webhook.
    """
    statement = update(ReceivedWebhook).where(col(ReceivedWebhook.id) == webhook_id)
    await database.mark(statement.values(routed=True, keys_asked_at=None))


async def mark_keys_asked(database: Database, webhook_id: str) -> None:
    """Note that the plugin is about to be asked for a webhook's keys on behalf of a later one.

    Args:
        database: The database.
        webhook_id: The webhook.
    """
    statement = update(ReceivedWebhook).where(col(ReceivedWebhook.id) == webhook_id)
    await database.mark(statement.values(keys_asked_at=utc_now()))


async def forget_routed(database: Database, instance_id: str, since: datetime) -> None:
    """Have webhooks routed once more: whom they were signalled to may have lost them.

    Args:
        database: The database.
        instance_id: The plugin instance.
        since: Those received at this moment or later.
    """
    statement = update(ReceivedWebhook).where(
        col(ReceivedWebhook.instance_id) == instance_id, col(ReceivedWebhook.received_at) >= since
    )
    await database.execute(statement.values(routed=False))


async def move_unhandled(session: AsyncSession, instance_id: str, successor: str) -> None:
    """Have webhooks that wait handled by the plugin instance that takes another one's place.

    Args:
        session: A session in a transaction.
        instance_id: The instance that goes.
        successor: The one that comes.
    """
    statement = (
        update(ReceivedWebhook)
        .where(
            col(ReceivedWebhook.instance_id) == instance_id,
            col(ReceivedWebhook.status) == RECEIVED,
        )
        .values(instance_id=successor)
        .execution_options(synchronize_session=False)
    )
    await session.exec(statement)


async def move(session: AsyncSession, webhook_id: str, successor: str) -> None:
    """Have a webhook handled by the plugin instance that took its own one's place.

    Args:
        session: A session in a transaction.
        webhook_id: The webhook.
        successor: The instance.
    """
    statement = update(ReceivedWebhook).where(col(ReceivedWebhook.id) == webhook_id)
    await session.exec(statement.values(instance_id=successor))


async def get_webhook(session: AsyncSession, webhook_id: str) -> ReceivedWebhook | None:
    """Find a webhook.

    Args:
        session: An open session.
        webhook_id: Its id.

    Returns:
        The webhook, or None.
    """
    return await session.get(ReceivedWebhook, webhook_id)


async def find_with_instance(
    session: AsyncSession, webhook_id: str
) -> tuple[ReceivedWebhook, EnabledInstance | None] | None:
    """Find a webhook and the plugin instance that received it.

    Args:
        session: An open session.
        webhook_id: Its id.

    Returns:
        The webhook, and the instance, None if it was disabled; None if there is no such webhook.
    """
    found = await communities.find_with_instance(session, _WITH_INSTANCE, id=webhook_id)
    return (found[0][0], found[1]) if found is not None else None


async def note_try(
    session: AsyncSession, webhook_id: str, status: str, error: dict[str, Any] | None
) -> None:
    """Note how a try ended that signalled the processes, unless one of them has failed meanwhile.

    Args:
        session: A session in a transaction.
        webhook_id: The webhook.
        status: The status it has from now on.
        error: What went wrong, if anything did.
    """
    statement = (
        update(ReceivedWebhook)
        .where(col(ReceivedWebhook.id) == webhook_id, col(ReceivedWebhook.status) == RECEIVED)
        .values(
            status=status,
            error=error,
            tries=col(ReceivedWebhook.tries) + 1,
            routed=True,
            handled_at=utc_now() if status != RECEIVED else None,
        )
        .execution_options(synchronize_session=False)
    )
    if not (await session.exec(statement)).rowcount:
        routed = update(ReceivedWebhook).where(col(ReceivedWebhook.id) == webhook_id)
        await session.exec(routed.values(routed=True))


async def find_delivery(
    session: AsyncSession, instance_id: str, delivery_id: str
) -> ReceivedWebhook | None:
    """Find a webhook by the platform's own id of it.

    Args:
        session: An open session.
        instance_id: The plugin instance.
        delivery_id: The platform's id.

    Returns:
        The webhook, or None.
    """
    query = select(ReceivedWebhook).where(
        col(ReceivedWebhook.instance_id) == instance_id,
        col(ReceivedWebhook.delivery_id) == delivery_id,
    )
    return (await session.exec(query)).one_or_none()


async def unhandled(
    session: AsyncSession, after: Unhandled | None, limit: int
) -> Sequence[Unhandled]:
    """Webhooks that are not handled yet, a page of them.

    Args:
        session: An open session.
        after: The last one of the page before; None for the first page.
        limit: Most webhooks.

    Returns:
        When each was received, its id, community, plugin and instance, the oldest first.
    """
    at, by_id = col(ReceivedWebhook.received_at), col(ReceivedWebhook.id)
    columns: tuple[Any, ...] = (
        ReceivedWebhook.received_at,
        ReceivedWebhook.id,
        ReceivedWebhook.community,
        ReceivedWebhook.plugin,
        ReceivedWebhook.instance,
    )
    query = (
        select(*columns)
        .where(col(ReceivedWebhook.status) == RECEIVED)
        .order_by(at, by_id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(later_than(at, by_id, after[0], after[1]))
    found: Sequence[Unhandled] = (await session.exec(query)).all()
    return found


async def list_webhooks(
    session: AsyncSession,
    *,
    community: str | None,
    plugin: str | None,
    instance: str | None,
    status: str | None,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[ReceivedWebhook], str | None]:
    """List webhooks, the newest first.

    Args:
        session: An open session.
        community: Only this community's.
        plugin: Only this plugin's.
        instance: Only those of plugin instances of this name.
        status: Only those with this status.
        cursor: Where an earlier page ended.
        limit: Most rows on the page.

    Returns:
        The page, and the cursor of the next one, None at the end.

    Raises:
        BadRequestError: The cursor is none of ours.
    """
    query = select(ReceivedWebhook)
    for column, wanted in (
        (ReceivedWebhook.community, community),
        (ReceivedWebhook.plugin, plugin),
        (ReceivedWebhook.instance, instance),
        (ReceivedWebhook.status, status),
    ):
        if wanted is not None:
            query = query.where(col(column) == wanted)
    return await newest_first(
        session, query, ReceivedWebhook.received_at, ReceivedWebhook.id, cursor=cursor, limit=limit
    )


async def replay_range(
    session: AsyncSession, *, since: datetime, until: datetime, status: str, community: str | None
) -> int:
    """Have ended webhooks of a time range handled once more.

    Args:
        session: A session in a transaction.
        since: Webhooks received at this moment or later.
        until: Webhooks received before this moment.
        status: ``failed`` or ``handled``.
        community: Only this community's.

    Returns:
        How many there are.
    """
    query = select(ReceivedWebhook).where(
        col(ReceivedWebhook.status) == status,
        col(ReceivedWebhook.received_at) >= since,
        col(ReceivedWebhook.received_at) < until,
    )
    if community is not None:
        query = query.where(col(ReceivedWebhook.community) == community)
    rows = (await session.exec(query.options(defer(ReceivedWebhook.body)))).all()  # type: ignore[arg-type]
    for row in rows:
        row.replay()
    return len(rows)


async def forget_webhooks_before(session: AsyncSession, handled: datetime) -> int:
    """Delete webhooks past their retention, some at a time.

    Args:
        session: A session in a transaction.
        handled: Webhooks handled before this moment go.

    Returns:
        How many were deleted; 0 when there are no more.
    """
    old = (
        select(ReceivedWebhook.id)
        .where(col(ReceivedWebhook.handled_at) < handled)
        .limit(_FORGOTTEN_AT_ONCE)
    )
    statement = delete(ReceivedWebhook).where(col(ReceivedWebhook.id).in_(old))
    return (await session.exec(statement)).rowcount
