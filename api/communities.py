"""Communities: their desired state, and what they can do."""

from __future__ import annotations

import re
import secrets as random_source
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from fastapi import APIRouter, Response, status
from sqlalchemy import true
from sqlmodel.ext.asyncio.session import AsyncSession

from api.accepted import answer_of
from api.dependencies import (
    EngineDependency,
    IdempotencyKeyHeader,
    JsonObject,
    check,
    idempotency_of,
)
from api.plugins import describe_actions, describe_events, describe_processes
from api.problems import problem_responses
from engine.errors import (
    BadRequestError,
    EngineError,
    OutcomeUnknownError,
    RecordedError,
    ResourceNotFoundError,
    UnavailableError,
    Violation,
    describe,
)
from engine.resources import Engine, webhook_path
from engine.sdk.parameters import fill_defaults, secret_properties
from engine.sdk.registry import PluginDeclaration, Registry
from engine.store import communities, invocations
from engine.store.communities import (
    APPLIED,
    NAME_MAX_LENGTH,
    REFUSED,
    CommunityChange,
    PluginInstance,
)
from engine.store.database import new_id
from engine.store.invocations import Idempotency
from engine.store.secrets import mask, unmask

router = APIRouter(prefix="/api/internal/community", tags=["communities"])

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._~-]*$"
COMMUNITY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Community",
    "properties": {
        "name": {
            "type": "string",
            "pattern": NAME_PATTERN,
            "maxLength": NAME_MAX_LENGTH,
            "description": "Unique, best hard to guess: it stands in webhook URLs.",
        },
        "readable_name": {
            "type": "string",
            "maxLength": 255,
            "pattern": "^[^\\x00]*$",
            "default": "",
        },
        "plugins": {
            "type": "array",
            "default": [],
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "config": {"type": "object", "default": {}},
                },
                "required": ["name"],
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
EXAMPLE = {
    "name": "my-community-1234",
    "readable_name": "My community",
    "plugins": [{"name": "randomness", "config": {"default_low": 1, "default_high": 6}}],
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": COMMUNITY_SCHEMA, "example": EXAMPLE}},
    }
}
CHANGE_MARGIN_SECONDS = 30
ENDED = (APPLIED, REFUSED)

Result = TypeVar("Result")


@router.put(
    "/{name}",
    summary="Create a community, or bring it into a desired state",
    responses={201: {"description": "Created"}, **problem_responses(400, 413, 415, 502, 503, 504)},
    openapi_extra=BODY,
)
async def put_community(
    name: str,
    body: JsonObject,
    engine: EngineDependency,
    response: Response,
    idempotency_key: IdempotencyKeyHeader = None,
) -> dict[str, Any]:
    """Plugins named are enabled, plugins left out are disabled: all of it, or nothing."""
    if body.get("name", None) != name:
        raise BadRequestError(
            f"Expected name {name}, found {body.get('name')}",
            [Violation("/name", f"must be {name}, as in the path")],
        )
    idempotency = idempotency_of(engine, f"community {name}", idempotency_key, body)
    return await _put(engine, name, body, response, idempotency)


@router.post(
    "",
    status_code=201,
    summary="Create a community, with a name made for it if none is given",
    responses=problem_responses(400, 409, 413, 415, 502, 503, 504),
    openapi_extra=BODY,
)
async def post_community(
    body: JsonObject,
    engine: EngineDependency,
    response: Response,
    idempotency_key: IdempotencyKeyHeader = None,
) -> dict[str, Any]:
    """Without a name a hard-to-guess one is made."""
    idempotency = idempotency_of(engine, "communities", idempotency_key, body)
    name = body.get("name")
    if name is None:
        name = random_source.token_hex(8)
        body = {**body, "name": name}
    return await _put(engine, name, body, response, idempotency)


@router.get("/{name}", summary="Read a community", responses=problem_responses(404))
async def get_community(name: str, engine: EngineDependency) -> dict[str, Any]:
    """The community as stored; secrets are masked."""
    async with engine.database.read() as session:
        return await _community(engine, session, name)


@router.delete(
    "/{name}",
    status_code=204,
    summary="Delete a community; its plugins are disabled first",
    responses=problem_responses(404, 503, 504),
)
async def delete_community(name: str, engine: EngineDependency) -> None:
    """Pending processes end with ``plugin_disabled``, and their drivers are told."""
    await _change(engine, name, None, None)


@router.get("/{name}/hooks", summary="List webhook URLs", responses=problem_responses(404))
async def list_hooks(name: str, engine: EngineDependency) -> dict[str, Any]:
    """The path of each enabled plugin that takes webhooks."""
    return {
        "hooks": [
            webhook_path(name, plugin.name, config.get("webhook_slug"))
            for plugin, config in await _enabled(engine, name)
            if plugin.uses_webhooks
        ]
    }


@router.get("/{name}/actions", summary="List actions", responses=problem_responses(404))
async def list_actions(name: str, engine: EngineDependency) -> dict[str, Any]:
    """The actions of the community's plugins, with their schemas."""
    enabled = await _enabled(engine, name)
    return {"actions": [item for plugin, _ in enabled for item in describe_actions(plugin)]}


@router.get("/{name}/processes", summary="List processes", responses=problem_responses(404))
async def list_processes(name: str, engine: EngineDependency) -> dict[str, Any]:
    """The governance processes that the community's plugins offer, with their schemas."""
    enabled = await _enabled(engine, name)
    return {"processes": [item for plugin, _ in enabled for item in describe_processes(plugin)]}


@router.get("/{name}/events", summary="List events", responses=problem_responses(404))
async def list_events(name: str, engine: EngineDependency) -> dict[str, Any]:
    """The events that the community's plugins declare."""
    enabled = await _enabled(engine, name)
    return {"events": [item for plugin, _ in enabled for item in describe_events(plugin)]}


async def _desired(engine: Engine, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Check a desired state whole, fill in defaults and put masked secrets back."""
    check(body, COMMUNITY_SCHEMA)
    if not re.fullmatch(NAME_PATTERN[1:-1], name):
        raise BadRequestError("name: use letters, digits and . _ ~ -, a letter or digit first")
    async with engine.database.read() as session:
        present = {i.plugin: i for i in await communities.instances_of(session, name)}
    plugins: list[dict[str, Any]] = []
    for index, item in enumerate(body.get("plugins", [])):
        plugin, path = item["name"], f"/plugins/{index}"
        declaration = Registry.plugins.get(plugin)
        if declaration is None:
            raise BadRequestError(
                f"No such plugin registered: {plugin:.128}",
                [Violation(f"{path}/name", "no such plugin registered")],
            )
        if any(other["name"] == plugin for other in plugins):
            raise BadRequestError(
                f"Plugin '{plugin}' is named twice", [Violation(f"{path}/name", "named twice")]
            )
        stored = _config(engine, present[plugin]) if plugin in present else None
        hidden = secret_properties(declaration.config_schema)
        config = unmask(item.get("config", {}), hidden, stored)
        config = fill_defaults(config, declaration.config_schema)
        check(config, declaration.config_schema, f"{path}/config")
        _check_webhook_slug(config, f"{path}/config/webhook_slug")
        plugins.append({"name": plugin, "config": config})
    return {"readable_name": body.get("readable_name", ""), "plugins": plugins}


def _check_webhook_slug(config: dict[str, Any], path: str) -> None:
    slug = config.get("webhook_slug")
    if slug in (None, ""):
        return
    if not isinstance(slug, str) or not re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", slug):
        message = "must be 1 to 128 letters, digits and . _ ~ -, for it stands in a URL"
        raise BadRequestError(f"{path}: {message}", [Violation(path, message)])


async def _put(
    engine: Engine,
    name: str,
    body: dict[str, Any],
    response: Response,
    idempotency: Idempotency | None,
) -> dict[str, Any]:
    """Bring a community into its desired state; gives it as stored."""
    done = await _change(engine, name, await _desired(engine, name, body), idempotency)
    response.status_code = status.HTTP_201_CREATED if done.created else status.HTTP_200_OK
    # The first request with this key may have been given another name.
    return await _after_change(engine, lambda session: _community(engine, session, done.community))


async def _change(
    engine: Engine, name: str, desired: dict[str, Any] | None, idempotency: Idempotency | None
) -> CommunityChange:
    """Have a change applied after those before it; gives what came of it."""
    change = CommunityChange(
        id=new_id(),
        community=name,
        desired_encrypted=engine.secrets.encrypt(desired) if desired is not None else None,
    )
    async with engine.database.read() as session:
        if desired is None and await communities.get_community(session, name) is None:
            raise ResourceNotFoundError(f"Community '{name:.128}' not found")
        present = len(await communities.instances_of(session, name))
    change_id = await invocations.accept_once(
        engine.database, change, change.id, true(), idempotency
    )
    assert change_id is not None, "its condition always holds"
    done = await _read_change(engine, change_id)
    if done.status not in ENDED:
        wanted = len(desired["plugins"]) if desired else 0
        # Each plugin that comes or goes may be called once.
        done = await _apply(engine, done, calls=wanted + present)
    if done.error is not None:
        raise RecordedError(done.error)
    return done


async def _apply(engine: Engine, change: CommunityChange, calls: int) -> CommunityChange:
    """Have a change applied, unless nobody begins with it; gives what came of it."""
    seconds = engine.settings.invocation_timeout_seconds * max(1, calls) + CHANGE_MARGIN_SECONDS
    failure: EngineError | None = None
    try:
        await engine.temporal.communities.apply_change(
            change.community, change.id, timedelta(seconds=seconds)
        )
    except EngineError as error:
        failure = error
        await _withdraw(engine, change.id, error)
    done = await _read_change(engine, change.id)
    if done.status not in ENDED:
        raise OutcomeUnknownError(
            "The change was begun, and there is no result in time; it may still be applied. "
            "The same request with the same Idempotency-Key tells what came of it"
        ) from failure
    return done


async def _read_change(engine: Engine, change_id: str) -> CommunityChange:
    return await _after_change(engine, lambda session: session.get_one(CommunityChange, change_id))


async def _withdraw(engine: Engine, change_id: str, error: EngineError) -> None:
    """Take back a change that nobody has begun to apply, so that nothing of it is ever done."""
    told = UnavailableError(f"{error.detail}; the change was taken back, nothing was done")

    async def withdraw(session: AsyncSession) -> None:
        if await communities.withdraw_change(engine.database, session, change_id, describe(told)):
            await invocations.forget_key(session, change_id)

    await answer_of(engine.database.persist(withdraw), "change")


async def _after_change(
    engine: Engine, query: Callable[[AsyncSession], Awaitable[Result]]
) -> Result:
    """Read what came of a change that was accepted."""
    return await answer_of(engine.database.recall(query), "change")


async def _enabled(engine: Engine, name: str) -> list[tuple[PluginDeclaration, dict[str, Any]]]:
    async with engine.database.read() as session:
        if await communities.get_community(session, name) is None:
            raise ResourceNotFoundError(f"Community '{name:.128}' not found")
        instances = await communities.instances_of(session, name)
    return [
        (Registry.plugins[instance.plugin], _config(engine, instance))
        for instance in instances
        if instance.plugin in Registry.plugins
    ]


def _config(engine: Engine, instance: PluginInstance) -> dict[str, Any]:
    config: dict[str, Any] = engine.secrets.decrypt(instance.config_encrypted)
    return config


async def _community(engine: Engine, session: AsyncSession, name: str) -> dict[str, Any]:
    row = await communities.get_community(session, name)
    if row is None:
        raise ResourceNotFoundError(f"Community '{name:.128}' not found")
    instances = await communities.instances_of(session, name)
    return {
        "name": row.name,
        "readable_name": row.readable_name,
        "plugins": [
            {"name": instance.plugin, "config": _shown(engine, instance)} for instance in instances
        ],
    }


def _shown(engine: Engine, instance: PluginInstance) -> dict[str, Any]:
    """A config without its secrets; of a plugin that is gone, all of it may be secret."""
    config = _config(engine, instance)
    declaration = Registry.plugins.get(instance.plugin)
    hidden = secret_properties(declaration.config_schema) if declaration else config
    return mask(config, hidden)
