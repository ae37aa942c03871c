"""Events and callbacks for drivers to read: page by page, by long poll, or as a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from api.dependencies import CommunityFilter, EngineDependency, Limit
from api.problems import problem_responses
from engine.requests.cursors import Place, find_place
from engine.requests.feed import Feed, OutboxItem

router = APIRouter(prefix="/api/internal/events", tags=["events"])

LONGEST_WAIT_SECONDS = 60
PAGE = 100
LATEST = "latest"


async def read_place(
    request: Request,
    engine: EngineDependency,
    after: Annotated[
        str | None,
        Query(
            description="Cursor of the last item that was read; `latest` skips all there is; "
            "default: from the oldest that is kept."
        ),
    ] = None,
    last_event_id: Annotated[
        str | None, Header(description="As `after`, which it goes before.")
    ] = None,
) -> Place:
    """Read where a reader stands.

    Args:
        request: The request.
        engine: The engine.
        after: The cursor.
        last_event_id: The cursor as browsers send it when they connect again.

    Returns:
        The place after the last item that it read.

    Raises:
        BadRequestError: The cursor is none that was given.
    """
    cursor = last_event_id or after
    if cursor != LATEST:
        return await find_place(engine, cursor)
    feed: Feed = request.state.feed
    return (await find_place(engine, None)).at(await feed.latest())


class FeedItem(BaseModel):
    """An event or a callback, as its driver receives it."""

    id: str
    cursor: str
    type: Annotated[str, Field(description="`event` or `process`.")]
    community: str
    position: int
    epoch: int
    created_at: str
    data: Any


class FeedPage(BaseModel):
    """What came after a cursor, in order."""

    events: list[FeedItem]
    next_cursor: str


PlaceDependency = Annotated[Place, Depends(read_place)]


@router.get("", summary="Read events and callbacks on", responses=problem_responses(400))
async def read_events(
    request: Request,
    place: PlaceDependency,
    community: CommunityFilter = None,
    limit: Limit = 50,
    wait: Annotated[
        float,
        Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Seconds to wait if there are none yet."),
    ] = 0,
) -> FeedPage:
    """In order; ``next_cursor`` is what to send as ``after`` next time."""
    feed: Feed = request.state.feed
    items = await feed.read(place.sequence, community=community, limit=limit, wait=wait)
    following = place.at(items[-1].sequence) if items else place
    events = [_shown(item, place) for item in items]
    return FeedPage(events=events, next_cursor=following.cursor)


@router.get(
    "/stream",
    response_class=EventSourceResponse,
    summary="Read events and callbacks as server-sent events",
    responses=problem_responses(400),
)
async def stream_events(
    request: Request,
    place: PlaceDependency,
    community: CommunityFilter = None,
) -> AsyncIterator[ServerSentEvent]:
    """Each with its cursor as ``id``, and ``event`` or ``process`` as its type."""
    feed: Feed = request.state.feed
    yield ServerSentEvent(comment="from here on", retry=1000)
    while not feed.closed:
        items = await feed.read(place.sequence, community=community, limit=PAGE, wait=30)
        for item in items:
            place = place.at(item.sequence)
            yield ServerSentEvent(
                raw_data=json.dumps(_shown(item, place).model_dump()),
                event=item.kind,
                id=place.cursor,
            )


def _shown(item: OutboxItem, place: Place) -> FeedItem:
    return FeedItem(
        id=item.id,
        cursor=place.at(item.sequence).cursor,
        type=item.kind,
        community=item.community,
        position=item.position,
        epoch=item.epoch,
        created_at=item.created_at.isoformat(),
        data=item.body,
    )
