"""Received webhooks: stored before they are answered, marked when they are handled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import LargeBinary, Text, delete
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store.communities import NAME_MAX_LENGTH
from engine.store.database import JsonText, UtcDateTime, new_id, utc_now

RECEIVED = "received"
HANDLED = "handled"
FAILED = "failed"

SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


class ReceivedWebhook(SQLModel, table=True):
    """A verified webhook of a plugin instance."""

    __tablename__ = "received_webhook"

    id: str = Field(default_factory=new_id, primary_key=True, max_length=36)
    instance_id: str = Field(max_length=36, index=True)
    community: str = Field(max_length=NAME_MAX_LENGTH)
    plugin: str = Field(max_length=64)
    path: str = Field(sa_type=Text)
    query: dict[str, Any] = Field(default_factory=dict, sa_type=JsonText)
    headers: dict[str, Any] = Field(default_factory=dict, sa_type=JsonText)
    body: bytes = Field(default=b"", sa_type=LargeBinary)
    status: str = Field(default=RECEIVED, max_length=16, index=True)
    error: dict[str, Any] | None = Field(default=None, sa_type=JsonText)
    received_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    handled_at: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)


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


async def get_webhook(session: AsyncSession, webhook_id: str) -> ReceivedWebhook | None:
    """Find a webhook.

    Args:
        session: An open session.
        webhook_id: Its id.

    Returns:
        The webhook, or None.
    """
    return await session.get(ReceivedWebhook, webhook_id)


async def unhandled(session: AsyncSession) -> Sequence[ReceivedWebhook]:
    """Webhooks that are not handled yet.

    Args:
        session: An open session.

    Returns:
        The webhooks, the oldest first.
    """
    query = (
        select(ReceivedWebhook)
        .where(col(ReceivedWebhook.status) == RECEIVED)
        .order_by(col(ReceivedWebhook.received_at))
    )
    return (await session.exec(query)).all()


async def forget_webhooks_before(session: AsyncSession, handled: datetime) -> None:
    """Delete webhooks past their retention.

    Args:
        session: A session in a transaction.
        handled: Webhooks handled before this moment go.
    """
    await session.exec(delete(ReceivedWebhook).where(col(ReceivedWebhook.handled_at) < handled))
