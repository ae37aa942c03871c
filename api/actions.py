"""Actions: performed at once, their result is the answer."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import SkipJsonSchema

from api.dependencies import (
    Choice,
    ChoiceDependency,
    EngineDependency,
    IdempotencyKeyHeader,
    body_of,
)
from engine.requests import actions
from engine.requests.accepting import Once
from engine.resources import Engine

router = APIRouter(include_in_schema=False)


class ActionBody(BaseModel):
    """What is sent with a request for an action."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, Any] = {}
    community_platform_id: str | SkipJsonSchema[None] = None


Body = Annotated[ActionBody, Depends(body_of(ActionBody))]


@router.post("/api/internal/action/{name}")
async def perform_action(
    name: str,
    body: Body,
    engine: EngineDependency,
    choice: ChoiceDependency,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Perform an action of a plugin that the community has enabled."""
    return await _perform(engine, name, body, choice, idempotency_key, public=False)


@router.post("/api/action/{name}")
async def perform_public_action(
    name: str,
    body: Body,
    engine: EngineDependency,
    choice: ChoiceDependency,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Perform an action that its plugin has declared public."""
    return await _perform(engine, name, body, choice, idempotency_key, public=True)


async def _perform(
    engine: Engine,
    name: str,
    body: ActionBody,
    choice: Choice,
    idempotency_key: str | None,
    *,
    public: bool,
) -> Response:
    plugin, _, slug = name.partition(".")
    value = await actions.perform(
        engine,
        choice.of(plugin, body.community_platform_id),
        actions.find_action(plugin, slug, public=public),
        body.parameters,
        Once(idempotency_key, body.model_dump(exclude_unset=True)),
    )
    if value is None:
        return Response(status_code=200)
    return Response(json.dumps(value), media_type="application/json")
