"""Endpoints: the addresses at which drivers take deliveries, with their secrets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

from sqlalchemy import Text
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store.database import UtcDateTime, new_id, utc_now


class Endpoint(SQLModel, table=True):
    """An address of a driver.

    A row is made by the driver, to have secrets of its own for the address and all below it, or by
    the engine when an address answers 410 and is disabled.
    """

    __tablename__ = "endpoint"

    id: str = Field(default_factory=lambda: f"ep_{new_id()}", primary_key=True, max_length=40)
    url: str = Field(sa_type=Text, unique=True)
    secrets_encrypted: str | None = Field(default=None, sa_type=Text)
    disabled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


async def get_endpoint(session: AsyncSession, endpoint_id: str) -> Endpoint | None:
    """Find an endpoint.

    Args:
        session: An open session.
        endpoint_id: Its id.

    Returns:
        The endpoint, or None.
    """
    return await session.get(Endpoint, endpoint_id)


async def find_endpoint(session: AsyncSession, url: str) -> Endpoint | None:
    """Find the endpoint of exactly this address.

    Args:
        session: An open session.
        url: The address.

    Returns:
        The endpoint, or None.
    """
    return (await session.exec(select(Endpoint).where(col(Endpoint.url) == url))).one_or_none()


async def all_endpoints(session: AsyncSession) -> Sequence[Endpoint]:
    """All endpoints, by address.

    Args:
        session: An open session.

    Returns:
        The endpoints.
    """
    return (await session.exec(select(Endpoint).order_by(col(Endpoint.url)))).all()


async def endpoints_above(session: AsyncSession, url: str) -> Sequence[Endpoint]:
    """The endpoints that cover an address: its own, and those of the paths above it.

    Args:
        session: An open session.
        url: The address.

    Returns:
        The endpoints, the nearest first.
    """
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    names = [name for name in parts.path.split("/") if name]
    covering = {url, origin, f"{origin}/"}
    for count in range(1, len(names) + 1):
        path = origin + "/" + "/".join(names[:count])
        covering |= {path, f"{path}/"}
    query = select(Endpoint).where(col(Endpoint.url).in_(covering))
    return sorted((await session.exec(query)).all(), key=lambda row: len(row.url), reverse=True)


async def disable_address(session: AsyncSession, url: str) -> None:
    """Note that an address wants no more deliveries.

    Args:
        session: A session in a transaction.
        url: The address.
    """
    endpoint = await find_endpoint(session, url)
    if endpoint is None:
        endpoint = Endpoint(url=url)
        session.add(endpoint)
    endpoint.disabled_at = endpoint.updated_at = utc_now()
