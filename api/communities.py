"""Communities: their desired state, and what they can do."""

from __future__ import annotations

import secrets as random_source
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response, status
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from api.dependencies import EngineDependency, IdempotencyKeyHeader, body_of, documented
from api.plugins import (
    ActionShown,
    EventShown,
    ProcessShown,
    describe_actions,
    describe_events,
    describe_processes,
)
from api.problems import problem_responses
from engine.errors import BadRequestError, Violation
from engine.requests import communities
from engine.requests.accepting import Once
from engine.requests.communities import (
    NAME_MAX_LENGTH,
    NAME_PATTERN,
    ShownCommunity,
)
from engine.resources import Engine, webhook_path
from engine.sdk.registry import PluginDeclaration

router = APIRouter(prefix="/api/internal/community", tags=["communities"])

EXAMPLE = {
    "name": "my-community-1234",
    "readable_name": "My community",
    "plugins": [{"name": "randomness", "config": {"default_low": 1, "default_high": 6}}],
}


# A field of answers; in a request it is allowed and ignored.
Answered = Annotated[Any, Field(description="As it was answered; it says nothing in a request.")]


class PluginBody(BaseModel):
    """A plugin that a community is to have enabled."""

    model_config = ConfigDict(extra="forbid")

    name: str
    instance: Annotated[
        str | SkipJsonSchema[None],
        Field(
            description="Name of the instance, unique here: 1 to 63 small letters, digits and -, "
            "a letter or digit first; default: the plugin's name."
        ),
    ] = None
    config: dict[str, Any] = {}
    id: Answered = None
    community_platform_id: Answered = None
    community: Answered = None
    auth_type: Answered = None


class CommunityBody(BaseModel):
    """A community as it is to be."""

    model_config = ConfigDict(extra="forbid", title="Community")

    name: (
        Annotated[
            str,
            Field(
                pattern=NAME_PATTERN,
                max_length=NAME_MAX_LENGTH,
                description="Unique, best hard to guess: it stands in webhook URLs.",
            ),
        ]
        | SkipJsonSchema[None]
    ) = None
    readable_name: Annotated[str, Field(max_length=255, pattern="^[^\\x00]*$")] = ""
    plugins: list[PluginBody] = []


Body = Annotated[CommunityBody, Depends(body_of(CommunityBody))]


class Hooks(BaseModel):
    """Where a community's plugin instances receive webhooks."""

    hooks: Annotated[list[str], Field(examples=[["/api/hooks/my-community-1234/loomio/f5c3ff8f"]])]


class Actions(BaseModel):
    """What a community's plugins can do."""

    actions: list[ActionShown]


class Processes(BaseModel):
    """The governance processes that a community's plugins offer."""

    processes: list[ProcessShown]


class Events(BaseModel):
    """The events that a community's plugins declare."""

    events: list[EventShown]


CHOSEN = {"name", "instance", "config"}
BODY = documented(CommunityBody, EXAMPLE)


@router.put(
    "/{name}",
    summary="Create a community, or bring it into a desired state",
    responses={
        201: {"description": "Created", "model": ShownCommunity},
        **problem_responses(400, 413, 415, 502, 503, 504),
    },
    openapi_extra=BODY,
)
async def put_community(
    name: str,
    body: Body,
    engine: EngineDependency,
    response: Response,
    idempotency_key: IdempotencyKeyHeader = None,
) -> ShownCommunity:
    """Plugins named are enabled, plugins left out are disabled: all of it, or nothing."""
    if body.name != name:
        raise BadRequestError(
            f"Expected name {name}, found {body.name}",
            [Violation("/name", f"must be {name}, as in the path")],
        )
    return await _put(engine, name, body, f"community {name}", idempotency_key, response)


@router.post(
    "",
    status_code=201,
    summary="Create a community, with a name made for it if none is given",
    responses=problem_responses(400, 409, 413, 415, 502, 503, 504),
    openapi_extra=BODY,
)
async def post_community(
    body: Body,
    engine: EngineDependency,
    response: Response,
    idempotency_key: IdempotencyKeyHeader = None,
) -> ShownCommunity:
    """Without a name a hard-to-guess one is made."""
    name = body.name or random_source.token_hex(8)
    return await _put(engine, name, body, "communities", idempotency_key, response)


@router.get("/{name}", summary="Read a community", responses=problem_responses(404))
async def get_community(name: str, engine: EngineDependency) -> ShownCommunity:
    """The community as stored; secrets are masked."""
    return await communities.read(engine, name)


@router.delete(
    "/{name}",
    status_code=204,
    summary="Delete a community; its plugins are disabled first",
    responses=problem_responses(404, 503, 504),
)
async def delete_community(name: str, engine: EngineDependency) -> None:
    """Pending processes end with ``plugin_disabled``, and their drivers are notified."""
    await communities.delete(engine, name)


@router.get("/{name}/hooks", summary="List webhook URLs", responses=problem_responses(404))
async def list_hooks(name: str, engine: EngineDependency) -> Hooks:
    """The path of each plugin instance that takes webhooks."""
    return Hooks(
        hooks=[
            webhook_path(name, instance.name, instance.config.get("webhook_slug"))
            for plugin, instance in await communities.enabled_plugins(engine, name)
            if plugin.uses_webhooks
        ]
    )


@router.get("/{name}/actions", summary="List actions", responses=problem_responses(404))
async def list_actions(name: str, engine: EngineDependency) -> Actions:
    """The actions of the community's plugins, with their schemas."""
    enabled = await _plugins(engine, name)
    return Actions(actions=[item for plugin in enabled for item in describe_actions(plugin)])


@router.get("/{name}/processes", summary="List processes", responses=problem_responses(404))
async def list_processes(name: str, engine: EngineDependency) -> Processes:
    """The governance processes that the community's plugins offer, with their schemas."""
    enabled = await _plugins(engine, name)
    return Processes(processes=[item for plugin in enabled for item in describe_processes(plugin)])


@router.get("/{name}/events", summary="List events", responses=problem_responses(404))
async def list_events(name: str, engine: EngineDependency) -> Events:
    """The events that the community's plugins declare."""
    enabled = await _plugins(engine, name)
    return Events(events=[item for plugin in enabled for item in describe_events(plugin)])


async def _plugins(engine: Engine, name: str) -> list[PluginDeclaration]:
    """The plugins of a community, each once, however many instances it has."""
    enabled = await communities.enabled_plugins(engine, name)
    return list({plugin.name: plugin for plugin, _ in enabled}.values())


async def _put(
    engine: Engine,
    name: str,
    body: CommunityBody,
    scope: str,
    idempotency_key: str | None,
    response: Response,
) -> ShownCommunity:
    once = Once(idempotency_key, body.model_dump(exclude_unset=True))
    plugins = [plugin.model_dump(include=CHOSEN) for plugin in body.plugins]
    shown, created = await communities.put(engine, name, body.readable_name, plugins, scope, once)
    response.status_code = status.HTTP_201_CREATED if created else status.HTTP_200_OK
    return shown
