"""Received webhooks: stored before they are answered, marked when they are handled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Index, LargeBinary, Text, bindparam, delete, update
from sqlalchemy.orm import defer
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store import communities
from engine.store.communities import NAME_MAX_LENGTH, EnabledInstance
from engine.store.database import JsonText, UtcDateTime, new_id, utc_now
from engine.store.paging import newest_first

RECEIVED = "received"
HANDLED = "handled"
FAILED = "failed"

_FORGOTTEN_AT_ONCE = 200

SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


class ReceivedWebhook(SQLModel, table=True):
    """A verified webhook of a plugin instance.

    ``delivery_id`` is the platform's own id of it, if it sends one. ``replayed`` says that somebody
    asked for it to be handled again, ``replays`` how often that was from the beginning.
    """

    __tablename__ = "received_webhook"
    __table_args__ = (
        Index("received_webhook_delivery", "instance_id", "delivery_id", unique=True),
        Index("received_webhook_listing", "received_at", "id"),
    )

    id: str = Field(default_factory=new_id, primary_key=True, max_length=36)
    instance_id: str = Field(max_length=36, index=True)
    community: str = Field(max_length=NAME_MAX_LENGTH)
    plugin: str = Field(max_length=64)
    delivery_id: str | None = Field(default=None, max_length=255)
    path: str = Field(sa_type=Text)
    query: dict[str, Any] = Field(default_factory=dict, sa_type=JsonText)
    headers: dict[str, Any] = Field(default_factory=dict, sa_type=JsonText)
    body: bytes = Field(default=b"", sa_type=LargeBinary)
    status: str = Field(default=RECEIVED, max_length=16, index=True)
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
    """Note how a try to handle a webhook ended, unless a process that failed at it has done so.

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
            handled_at=utc_now() if status != RECEIVED else None,
        )
        .execution_options(synchronize_session=False)
    )
    await session.exec(statement)


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


async def unhandled(session: AsyncSession) -> Sequence[tuple[str, str, str]]:
    """Webhooks that are not handled yet.

    Args:
        session: An open session.

    Returns:
        Community, plugin and id of each, the oldest first.
    """
    query = (
        select(ReceivedWebhook.community, ReceivedWebhook.plugin, ReceivedWebhook.id)
        .where(col(ReceivedWebhook.status) == RECEIVED)
        .order_by(col(ReceivedWebhook.received_at))
    )
    return (await session.exec(query)).all()


async def list_webhooks(
    session: AsyncSession,
    *,
    community: str | None,
    plugin: str | None,
    status: str | None,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[ReceivedWebhook], str | None]:
    """List webhooks, the newest first.

    Args:
        session: An open session.
        community: Only this community's.
        plugin: Only this plugin's.
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
