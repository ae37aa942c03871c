"""Actions: performed at once, their result is the answer."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Response

from api.accepted import answer_of
from api.dependencies import (
    CommunityHeader,
    EngineDependency,
    IdempotencyKeyHeader,
    JsonObject,
    check,
    idempotency_of,
    split_name,
)
from api.plugins import enabled_instance, find_action
from engine.errors import (
    OutcomeUnknownError,
    PluginTimeoutError,
    RecordedError,
    ResourceNotFoundError,
    UnavailableError,
    describe,
)
from engine.resources import Engine
from engine.sdk.parameters import fill_defaults
from engine.store import invocations
from engine.store.database import new_id
from engine.store.invocations import DONE, Invocation

router = APIRouter(include_in_schema=False)

BODY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"parameters": {"type": "object"}},
    "additionalProperties": False,
}


@router.post("/api/internal/action/{name}")
async def perform_action(
    name: str,
    body: JsonObject,
    engine: EngineDependency,
    community: CommunityHeader = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Perform an action of a plugin that the community has enabled."""
    return await _perform(engine, name, body, community, idempotency_key, public=False)


@router.post("/api/action/{name}")
async def perform_public_action(
    name: str,
    body: JsonObject,
    engine: EngineDependency,
    community: CommunityHeader = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Perform an action that its plugin has declared public."""
    return await _perform(engine, name, body, community, idempotency_key, public=True)


async def _perform(
    engine: Engine,
    name: str,
    body: dict[str, Any],
    community: str | None,
    idempotency_key: str | None,
    *,
    public: bool,
) -> Response:
    plugin, slug = split_name(name)
    action = find_action(plugin, slug)
    if action is None or (public and not action.is_public):
        raise ResourceNotFoundError(f"No such action: {name:.128}")
    instance = await enabled_instance(engine, community, plugin)
    check(body, BODY_SCHEMA)
    schema = action.input_schema or {}
    parameters = fill_defaults(body.get("parameters", {}), schema)
    check(parameters, schema, "/parameters")
    row = Invocation(
        id=new_id(),
        community=instance.community,
        instance_id=instance.id,
        plugin=plugin,
        target=slug,
        parameters=parameters,
    )
    scope = f"action {name} {instance.community}"
    idempotency = idempotency_of(engine, scope, idempotency_key, body)
    invocation_id = await invocations.accept_once(
        engine.database, row, row.id, instance.unchanged(), idempotency
    )
    if invocation_id is None:
        await engine.instances.read(instance.community, plugin)
        return await _perform(engine, name, body, community, idempotency_key, public=public)
    if invocation_id != row.id:
        answer = _repeat(engine, instance.community, name, invocation_id)
    else:
        answer = _run(engine, instance.community, name, invocation_id)
    return await answer_of(answer, "action")


async def _run(engine: Engine, community: str, name: str, invocation_id: str) -> Response:
    try:
        await engine.temporal.actions.perform(community, name, invocation_id)
    except UnavailableError as error:
        recorded = describe(error)
        await engine.database.persist(
            lambda session: invocations.withdraw(engine.database, session, invocation_id, recorded)
        )
    except PluginTimeoutError as error:
        # It may still end: then the same request with the same key gets its result.
        if not await _is_done(engine, invocation_id):
            raise error from None
    return await _answer(engine, invocation_id)


async def _repeat(engine: Engine, community: str, name: str, invocation_id: str) -> Response:
    """Answer as the first request with this idempotency key was, or will be, answered."""
    async with engine.database.read() as session:
        first = await invocations.get_invocation(session, invocation_id)
    if first is not None and first.status == DONE:
        return await _answer(engine, invocation_id)
    return await _run(engine, community, name, invocation_id)


async def _is_done(engine: Engine, invocation_id: str) -> bool:
    row = await engine.database.recall(
        lambda session: invocations.get_invocation(session, invocation_id)
    )
    return row is not None and row.status == DONE


async def _answer(engine: Engine, invocation_id: str) -> Response:
    done = await engine.database.recall(
        lambda session: invocations.get_invocation(session, invocation_id)
    )
    if done is None or done.status != DONE:
        raise OutcomeUnknownError(
            "The action has no result yet; whether it had an effect is not known. "
            "The same request with the same Idempotency-Key tells if it ends"
        )
    if done.error is not None:
        raise RecordedError(done.error)
    value = (done.result or {}).get("value")
    if value is None:
        return Response(status_code=200)
    return Response(json.dumps(value), media_type="application/json")
