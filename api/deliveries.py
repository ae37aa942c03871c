"""Deliveries to drivers: what was sent, what failed, and sending it again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.dependencies import (
    CommunityFilter,
    Cursor,
    EngineDependency,
    JsonObject,
    Limit,
    time_range,
)
from api.problems import problem_responses
from engine.requests import deliveries
from engine.requests.deliveries import OutboxItem

router = APIRouter(prefix="/api/internal/deliveries", tags=["deliveries"])


class Delivery(BaseModel):
    """An event or a callback, and how far its delivery has come."""

    id: str
    community: str
    position: int
    epoch: int
    type: Annotated[str, Field(description="`event` or `process`.")]
    url: str | None
    status: str
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: str
    queued_at: str
    finished_at: str | None


class DeliveryContent(Delivery):
    """A delivery with its body."""

    body: Any


class DeliveryPage(BaseModel):
    """Deliveries, the newest first."""

    deliveries: list[Delivery]
    next_cursor: str | None


class Redelivered(BaseModel):
    """How many deliveries are sent again."""

    redelivered: int


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
) -> DeliveryPage:
    """The newest first; ``next_cursor`` is null on the last page."""
    rows, following = await deliveries.list_deliveries(
        engine, community=community, status=status, kind=kind, cursor=cursor, limit=limit
    )
    return DeliveryPage(deliveries=[_shown(row) for row in rows], next_cursor=following)


@router.get("/{delivery_id}", summary="Read a delivery", responses=problem_responses(404))
async def get_delivery(delivery_id: str, engine: EngineDependency) -> DeliveryContent:
    """One delivery, with its body."""
    row = await deliveries.read(engine, delivery_id)
    return DeliveryContent(**_shown(row).model_dump(), body=row.body)


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
async def redeliver_range(body: JsonObject, engine: EngineDependency) -> Redelivered:
    """Those that failed, or with ``"status": "delivered"`` those that arrived."""
    wanted = time_range(body, deliveries.REDELIVERED)
    return Redelivered(redelivered=await deliveries.redeliver_range(engine, **asdict(wanted)))


@router.post(
    "/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a delivery now",
    responses=problem_responses(404, 409, 503),
)
async def redeliver(delivery_id: str, engine: EngineDependency) -> Delivery:
    """Under its old id. A try that is under way is left alone."""
    return _shown(await deliveries.redeliver(engine, delivery_id))


def _shown(row: OutboxItem) -> Delivery:
    return Delivery(
        id=row.id,
        community=row.community,
        position=row.position,
        epoch=row.epoch,
        type=row.kind,
        url=row.url,
        status=row.status,
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at.isoformat(),
        queued_at=row.queued_at.isoformat(),
        finished_at=row.finished_at.isoformat() if row.finished_at else None,
    )
