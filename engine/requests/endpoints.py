"""Endpoints of drivers: their secrets, and those that are disabled."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError

from engine.errors import (
    BadRequestError,
    ConflictError,
    OutboundRefusedError,
    ResourceNotFoundError,
    Violation,
)
from engine.resources import Engine, endpoint_secrets, new_webhook_secret, webhook_secret_problem
from engine.store import endpoints
from engine.store.database import utc_now
from engine.store.endpoints import Endpoint as Endpoint


async def list_endpoints(engine: Engine) -> Sequence[Endpoint]:
    """Those that were registered, and addresses that are disabled since they answered 410.

    Args:
        engine: What is open.
    """
    async with engine.database.read() as session:
        return await endpoints.all_endpoints(session)


async def read(engine: Engine, endpoint_id: str) -> Endpoint:
    """Read an endpoint.

    Args:
        engine: What is open.
        endpoint_id: Its id.

    Returns:
        The endpoint.

    Raises:
        ResourceNotFoundError: There is none.
    """
    async with engine.database.read() as session:
        row = await endpoints.get_endpoint(session, endpoint_id)
    if row is None:
        raise ResourceNotFoundError(f"No endpoint {endpoint_id:.64}")
    return row


async def create(engine: Engine, url: str, secret: str | None) -> tuple[Endpoint, str]:
    """Register an endpoint with a secret of its own.

    Args:
        engine: What is open.
        url: Its address; the secret signs deliveries to it and to all below it.
        secret: The secret; None: a fresh one.

    Returns:
        The endpoint and its secret.

    Raises:
        BadRequestError: The address may not be called, or the secret is none.
        ConflictError: There is one for this address.
    """
    chosen = _secret(secret)
    try:
        engine.outbound.check_url(url)
    except OutboundRefusedError as error:
        raise BadRequestError(f"/url: {error.detail}", [Violation("/url", error.detail)]) from None
    kept = engine.secrets.encrypt([{"secret": chosen, "until": None}])
    try:
        async with engine.database.write() as session:
            row = await endpoints.find_endpoint(session, url)
            if row is not None and row.secrets_encrypted is not None:
                raise ConflictError(f"There is an endpoint for this URL already: {row.id}")
            if row is None:
                row = Endpoint(url=url)
                session.add(row)
            row.secrets_encrypted, row.updated_at = kept, utc_now()
    except IntegrityError:
        raise ConflictError("There is an endpoint for this URL already") from None
    return row, chosen


async def rotate_secret(
    engine: Engine, endpoint_id: str, secret: str | None, overlap: timedelta
) -> tuple[Endpoint, str]:
    """Give an endpoint a new secret; the old one signs as well for a while.

    Args:
        engine: What is open.
        endpoint_id: Its id.
        secret: The secret; None: a fresh one.
        overlap: How long the old one is valid yet.

    Returns:
        The endpoint and its new secret.

    Raises:
        BadRequestError: The secret is none.
        ResourceNotFoundError: There is no such endpoint.
    """
    chosen = _secret(secret)
    until = utc_now() + overlap
    await read(engine, endpoint_id)
    async with engine.database.write() as session:
        row = await session.get_one(Endpoint, endpoint_id, with_for_update=True)
        kept: list[dict[str, Any]] = [{"secret": chosen, "until": None}]
        # The newest of the old ones only: no more than two are valid at a time.
        kept += [
            {"secret": old, "until": until.isoformat()} for old in endpoint_secrets(engine, row)[:1]
        ]
        row.secrets_encrypted, row.updated_at = engine.secrets.encrypt(kept), utc_now()
    return row, chosen


async def enable(engine: Engine, endpoint_id: str) -> Endpoint:
    """Enable an endpoint that answered 410.

    Args:
        engine: What is open.
        endpoint_id: Its id.

    Returns:
        The endpoint.

    Raises:
        ResourceNotFoundError: There is none.
    """
    await read(engine, endpoint_id)
    async with engine.database.write() as session:
        row = await session.get_one(Endpoint, endpoint_id)
        row.disabled_at, row.updated_at = None, utc_now()
    return row


async def delete(engine: Engine, endpoint_id: str) -> None:
    """Forget an endpoint.

    Args:
        engine: What is open.
        endpoint_id: Its id.

    Raises:
        ResourceNotFoundError: There is none.
    """
    await read(engine, endpoint_id)
    async with engine.database.write() as session:
        row = await session.get(Endpoint, endpoint_id)
        if row is not None:
            await session.delete(row)


def _secret(given: str | None) -> str:
    if given is None:
        return new_webhook_secret()
    problem = webhook_secret_problem(given)
    if problem:
        raise BadRequestError(f"/secret: {problem}", [Violation("/secret", problem)])
    return given
