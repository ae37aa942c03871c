"""Deliveries to drivers: read, and sent again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from engine.errors import ConflictError, ResourceNotFoundError, UnavailableError
from engine.requests.hand_over import send_pending
from engine.resources import Engine
from engine.store import endpoints, outbox
from engine.store.outbox import DELIVERED, FAILED, PENDING
from engine.store.outbox import OutboxItem as OutboxItem

# What of a time range may be sent again.
REDELIVERED = (FAILED, DELIVERED)


async def list_deliveries(
    engine: Engine,
    *,
    community: str | None,
    status: str | None,
    kind: str | None,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[OutboxItem], str | None]:
    """List deliveries, the newest first.

    Args:
        engine: What is open.
        community: Only this community's.
        status: Only those with this status.
        kind: ``event`` or ``process``: only those.
        cursor: Where an earlier page ended.
        limit: Most rows on the page.

    Returns:
        The page, and the cursor of the next one, None at the end.

    Raises:
        BadRequestError: The cursor is none of ours.
    """
    async with engine.database.read() as session:
        return await outbox.list_items(
            session, community=community, status=status, kind=kind, cursor=cursor, limit=limit
        )


async def read(engine: Engine, delivery_id: str) -> OutboxItem:
    """Read a delivery.

    Args:
        engine: What is open.
        delivery_id: Its id.

    Returns:
        The delivery.

    Raises:
        ResourceNotFoundError: There is none.
    """
    async with engine.database.read() as session:
        row = await outbox.get_item(session, delivery_id)
    if row is None:
        raise ResourceNotFoundError(f"No delivery {delivery_id:.64}")
    return row


async def redeliver_range(
    engine: Engine, *, since: datetime, until: datetime, status: str, community: str | None
) -> int:
    """Have the deliveries of a time range sent again.

    Args:
        engine: What is open.
        since: Deliveries made at this moment or later.
        until: Deliveries made before this moment.
        status: One of ``REDELIVERED``.
        community: Only this community's.

    Returns:
        How many there are.
    """
    async with engine.database.write() as session:
        count = await outbox.queue_again(
            session, since=since, until=until, status=status, community=community
        )
    if count:
        await send_pending(engine)
    return count


async def redeliver(engine: Engine, delivery_id: str) -> OutboxItem:
    """Have a delivery sent now, under its old id; a try that is under way is left alone.

    Args:
        engine: What is open.
        delivery_id: Its id.

    Returns:
        The delivery, as it stands then.

    Raises:
        ResourceNotFoundError: There is none.
        ConflictError: It has no address, or its endpoint is disabled.
        UnavailableError: Temporal does not answer, and it was to be sent anyway.
    """
    row = await read(engine, delivery_id)
    if row.url is None:
        raise ConflictError("This item was recorded only: it has no address to be sent to")
    async with engine.database.write() as session:
        endpoint = await endpoints.find_endpoint(session, row.url)
        if endpoint is not None and endpoint.disabled_at is not None:
            raise ConflictError(
                f"Its endpoint is disabled, for it answered 410; enable {endpoint.id} first"
            )
        stored = await session.get_one(OutboxItem, delivery_id, with_for_update=True)
        if queued := stored.status != PENDING:
            stored.queue()
    try:
        await engine.temporal.background.redeliver(row.community, row.id)
    except UnavailableError:
        if not queued:
            raise
        # It is stored as to be done: it is done as soon as Temporal answers.
        engine.schedules.reconcile_when_reachable()
    return await read(engine, delivery_id)
