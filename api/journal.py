"""The webhook journal: what platforms sent, what became of it, and handling it again."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.dependencies import (
    CommunityFilter,
    Cursor,
    EngineDependency,
    InstanceFilter,
    JsonObject,
    Limit,
    time_range,
)
from api.problems import problem_responses
from engine.requests import journal
from engine.requests.journal import ReceivedWebhook

router = APIRouter(prefix="/api/internal/webhooks", tags=["webhooks"])


class Webhook(BaseModel):
    """A webhook that a plugin instance received."""

    id: str
    community: str
    plugin: str
    instance: str
    delivery_id: Annotated[str | None, Field(description="The platform's own id of it.")]
    status: str
    tries: int
    error: dict[str, Any] | None
    size: Annotated[int, Field(description="Bytes of its body.")]
    received_at: str
    handled_at: str | None


class WebhookText(Webhook):
    """A webhook with what it holds."""

    headers: dict[str, Any]
    query: dict[str, Any]
    body: str


class WebhookBytes(Webhook):
    """A webhook with what it holds, which is no text."""

    headers: dict[str, Any]
    query: dict[str, Any]
    body_base64: str


class WebhookPage(BaseModel):
    """Webhooks, the newest first."""

    webhooks: list[Webhook]
    next_cursor: str | None


class Replayed(BaseModel):
    """How many webhooks are handled again."""

    replayed: int


RANGE_EXAMPLE = {"since": "2027-01-01T00:00:00Z", "until": "2027-01-02T00:00:00Z"}


@router.get("", summary="List received webhooks", responses=problem_responses(400))
async def list_webhooks(
    engine: EngineDependency,
    status: Annotated[
        Literal["received", "handled", "failed"] | None, Query(description="Only these.")
    ] = None,
    community: CommunityFilter = None,
    plugin: Annotated[str | None, Query(description="Only this plugin's.")] = None,
    instance: InstanceFilter = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> WebhookPage:
    """The newest first; ``next_cursor`` is null on the last page."""
    rows, following = await journal.list_webhooks(
        engine,
        community=community,
        plugin=plugin,
        instance=instance,
        status=status,
        cursor=cursor,
        limit=limit,
    )
    return WebhookPage(webhooks=[_shown(row) for row in rows], next_cursor=following)


@router.get("/{webhook_id}", summary="Read a received webhook", responses=problem_responses(404))
async def get_webhook(webhook_id: str, engine: EngineDependency) -> WebhookText | WebhookBytes:
    """One webhook with headers and body; a body that is no text comes as ``body_base64``."""
    row = await journal.read(engine, webhook_id)
    held = {**_shown(row).model_dump(), "headers": row.headers, "query": row.query}
    try:
        return WebhookText(**held, body=row.body.decode())
    except UnicodeDecodeError:
        return WebhookBytes(**held, body_base64=base64.b64encode(row.body).decode())


@router.post(
    "/replay",
    status_code=202,
    summary="Handle the webhooks of a time range again",
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
async def replay_range(body: JsonObject, engine: EngineDependency) -> Replayed:
    """Those that failed, or with ``"status": "handled"`` those that were handled."""
    wanted = time_range(body, journal.REPLAYED)
    return Replayed(replayed=await journal.replay_range(engine, **asdict(wanted)))


@router.post(
    "/{webhook_id}/replay",
    status_code=202,
    summary="Handle a received webhook again",
    responses=problem_responses(404, 409, 503),
)
async def replay(webhook_id: str, engine: EngineDependency) -> Webhook:
    """Of one that failed, what failed; of one that was handled, all. A try under way is let be."""
    return _shown(await journal.replay(engine, webhook_id))


def _shown(row: ReceivedWebhook) -> Webhook:
    return Webhook(
        id=row.id,
        community=row.community,
        plugin=row.plugin,
        instance=row.instance,
        delivery_id=row.delivery_id,
        status=row.status,
        tries=row.tries,
        error=row.error,
        size=len(row.body),
        received_at=row.received_at.isoformat(),
        handled_at=row.handled_at.isoformat() if row.handled_at else None,
    )
