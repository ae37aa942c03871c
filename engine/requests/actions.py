"""Actions: performed at once, their result is the answer."""

from __future__ import annotations

from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PluginTimeoutError,
    RecordedError,
    ResourceNotFoundError,
    describe,
)
from engine.requests.accepting import Once, accept_of_instance, answering, hand_over
from engine.requests.documents import check
from engine.requests.instances import Chosen, Instance
from engine.resources import Engine
from engine.sdk.parameters import fill_defaults
from engine.sdk.registry import ActionDeclaration, Registry
from engine.store import invocations
from engine.store.invocations import DONE, Invocation


def find_action(plugin: str, slug: str, *, public: bool) -> ActionDeclaration:
    """Find a registered action.

    Args:
        plugin: The plugin's name.
        slug: The action's slug.
        public: Whether only those count that are declared public.

    Returns:
        The action.

    Raises:
        ResourceNotFoundError: There is none.
    """
    declaration = Registry.plugins.get(plugin)
    action = declaration.actions.get(slug) if declaration else None
    if action is None or (public and not action.is_public):
        name = f"{plugin}.{slug}" if slug else plugin
        raise ResourceNotFoundError(f"No such action: {name:.128}")
    return action


async def perform(
    engine: Engine,
    chosen: Chosen,
    action: ActionDeclaration,
    parameters: dict[str, Any],
    once: Once,
) -> Any:
    """Perform an action, once for each idempotency key.

    Args:
        engine: What is open.
        chosen: The plugin instance that is to perform it.
        action: The action.
        parameters: Its parameters, as they were sent.
        once: The request's idempotency key.

    Returns:
        What the action returned.

    Raises:
        BadRequestError: There is no such instance, or the parameters do not fit their schema.
        UnavailableError: Nothing was done.
        RecordedError: The action failed.
        OutcomeUnknownError: It may have been done.
    """
    schema = action.input_schema or {}
    name = f"{chosen.plugin}.{action.slug}"

    def row_for(instance: Instance) -> Invocation:
        filled = fill_defaults(parameters, schema)
        check(filled, schema, "/parameters")
        return Invocation(
            community=instance.community,
            instance_id=instance.id,
            plugin=instance.plugin,
            target=action.slug,
            parameters=filled,
        )

    row, instance, accepted = await accept_of_instance(
        engine, chosen, row_for, f"action {name}", once
    )
    async with answering("action"):
        if accepted == row.id or not await _is_done(engine, accepted):
            await _run(engine, instance, name, accepted)
        return await _result(engine, accepted)


async def _run(engine: Engine, instance: Instance, name: str, invocation_id: str) -> None:
    async def withdraw(session: AsyncSession, error: EngineError) -> bool:
        return await invocations.withdraw(engine.database, session, invocation_id, describe(error))

    try:
        performed = engine.temporal.actions.perform(
            instance.community, name, instance.name, invocation_id
        )
        await hand_over(engine, performed, withdraw, "The action may be done")
    except (OutcomeUnknownError, PluginTimeoutError) as error:
        # It may still end: then the same request with the same key gets its result.
        if not await _is_done(engine, invocation_id):
            raise error from None


async def _is_done(engine: Engine, invocation_id: str) -> bool:
    row = await _read(engine, invocation_id)
    return row is not None and row.status == DONE


async def _result(engine: Engine, invocation_id: str) -> Any:
    done = await _read(engine, invocation_id)
    if done is None or done.status != DONE:
        raise OutcomeUnknownError(
            "The action has no result yet; whether it had an effect is not known. "
            "The same request with the same Idempotency-Key returns it once it ends"
        )
    if done.error is not None:
        raise RecordedError(done.error)
    return (done.result or {}).get("value")


async def _read(engine: Engine, invocation_id: str) -> Invocation | None:
    return await engine.database.recall(
        lambda session: invocations.get_invocation(session, invocation_id)
    )
