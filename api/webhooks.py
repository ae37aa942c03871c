"""The public door for what platforms send."""

from __future__ import annotations

import json
from functools import partial

from fastapi import APIRouter, Request, Response

from api.dependencies import EngineDependency, read_body
from api.problems import problem_responses
from engine.requests import webhooks
from engine.requests.webhooks import Taken
from engine.sdk.webhook import WebhookRequest, WebhookResponse

router = APIRouter(prefix="/api/hooks", tags=["webhooks"])

RESPONSES = problem_responses(401, 404, 408, 413, 503)


@router.post("/{plugin}", summary="Receive a webhook of a whole platform", responses=RESPONSES)
async def receive_for_platform(plugin: str, request: Request, engine: EngineDependency) -> Response:
    """One URL for all communities: the plugin says which instances a request is for."""
    taken = await webhooks.receive_for_platform(engine, plugin, partial(_read, request))
    return await _answer(request, taken)


@router.post(
    "/{community}/{plugin}",
    summary="Receive a webhook of a community's plugin",
    responses=RESPONSES,
)
async def receive(
    community: str, plugin: str, request: Request, engine: EngineDependency
) -> Response:
    """For plugins whose config sets no ``webhook_slug``."""
    return await receive_at_slug(community, plugin, "", request, engine)


@router.post(
    "/{community}/{plugin}/{webhook_slug}",
    summary="Receive a webhook of a community's plugin, at a hard-to-guess address",
    responses=RESPONSES,
)
async def receive_at_slug(
    community: str, plugin: str, webhook_slug: str, request: Request, engine: EngineDependency
) -> Response:
    """For plugins whose config sets this ``webhook_slug``."""
    read = partial(_read, request)
    taken = await webhooks.receive(engine, community, plugin, webhook_slug, read)
    return await _answer(request, [taken])


async def _read(request: Request, most: int) -> WebhookRequest:
    return WebhookRequest(
        body=await read_body(request, most),
        headers=dict(request.headers),
        query=dict(request.query_params),
        path=request.url.path,
    )


async def _answer(request: Request, taken: list[Taken]) -> Response:
    """Have what was stored handled, without keeping other webhooks waiting; gives the answer."""
    request.state.turn.give_back()
    await request.state.hand_over.hand_over([one.to_handle for one in taken if one.to_handle])
    answer = taken[-1].answer
    return _as_response(answer) if answer is not None else Response(status_code=200)


def _as_response(answer: WebhookResponse) -> Response:
    if isinstance(answer.body, dict):
        return Response(
            json.dumps(answer.body),
            status_code=answer.status,
            media_type=answer.content_type or "application/json",
        )
    return Response(
        answer.body, status_code=answer.status, media_type=answer.content_type or "text/plain"
    )
