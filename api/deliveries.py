"""Deliveries to drivers: what was sent, what failed, and sending it again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from api.dependencies import (
    CommunityFilter,
    Cursor,
    EngineDependency,
    JsonObject,
    Limit,
    time_range,
)
from api.problems import problem_responses
from engine.errors import ConflictError, ResourceNotFoundError, UnavailableError
from engine.requests.hand_over import send_pending
from engine.resources import Engine
from engine.store import endpoints, outbox
from engine.store.outbox import DELIVERED, FAILED, PENDING, OutboxItem

router = APIRouter(prefix="/api/internal/deliveries", tags=["deliveries"])

RANGE_EXAMPLE = {"since": "2027-01-01T00:00:00Z", "until": "2027-01-02T00:00:00Z"}


@router.get("", summary="List deliveries", responses=problem_responses(400))
async def list_deliveries(
    engine: EngineDependency,
    status: Annotated[
        Literal["pending", "delivered", "failed", "recorded"] | None,
        Query(description="Only these; `recorded` has no address to be sent to."),
    ] = None,
    community: CommunityFilter = None,
    kind: Annotated[
        Literal["event", "process"] | None, Query(description="Events or callbacks only.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """The newest first; ``next_cursor`` is null on the last page."""
    async with engine.database.read() as session:
        rows, following = await outbox.list_items(
            session, community=community, status=status, kind=kind, cursor=cursor, limit=limit
        )
    return {"deliveries": [_shown(row) for row in rows], "next_cursor": following}


@router.get("/{delivery_id}", summary="Read a delivery", responses=problem_responses(404))
async def get_delivery(delivery_id: str, engine: EngineDependency) -> dict[str, Any]:
    """One delivery, with its body."""
    row = await _get(engine, delivery_id)
    return {**_shown(row), "body": row.body}


@router.post(
    "/redeliver",
    status_code=202,
    summary="Send the deliveries of a time range again",
    responses=problem_responses(400, 413, 415, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"type": "object"}, "example": RANGE_EXAMPLE}
            },
        }
    },
)
async def redeliver_range(body: JsonObject, engine: EngineDependency) -> dict[str, Any]:
    """Those that failed, or with ``"status": "delivered"`` those that arrived."""
    wanted = time_range(body, [FAILED, DELIVERED])
    async with engine.database.write() as session:
        count = await outbox.queue_again(
            session,
            since=wanted.since,
            until=wanted.until,
            status=wanted.status,
            community=wanted.community,
        )
    if count:
        await send_pending(engine)
    return {"redelivered": count}


@router.post(
    "/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a delivery now",
    responses=problem_responses(404, 409, 503),
)
async def redeliver(delivery_id: str, engine: EngineDependency) -> dict[str, Any]:
    """Under its old id. A try that is under way is left alone."""
    row = await _get(engine, delivery_id)
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
    return _shown(await _get(engine, delivery_id))


async def _get(engine: Engine, delivery_id: str) -> OutboxItem:
    async with engine.database.read() as session:
        row = await outbox.get_item(session, delivery_id)
    if row is None:
        raise ResourceNotFoundError(f"No delivery {delivery_id:.64}")
    return row


def _shown(row: OutboxItem) -> dict[str, Any]:
    return {
        "id": row.id,
        "community": row.community,
        "position": row.position,
        "epoch": row.epoch,
        "type": row.kind,
        "url": row.url,
        "status": row.status,
        "attempts": row.attempts,
        "last_status": row.last_status,
        "last_error": row.last_error,
        "created_at": row.created_at.isoformat(),
        "queued_at": row.queued_at.isoformat(),
        "finished_at": row.finished_at.isoformat() if row.finished_at else None,
    }
