"""Performs actions."""

from __future__ import annotations

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity

from engine.activities.heartbeat import (
    before_plugin_code,
    first_try,
    give_up,
    try_again,
    with_heartbeat,
)
from engine.activities.invocation import (
    LoadedPlugin,
    hand_out,
    load_plugin,
    store_effects,
)
from engine.activities.pacing import paced_call
from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PlatformDownError,
    PluginCodeError,
    RecordedError,
    StateConflictError,
    Violation,
    describe,
)
from engine.messages import PerformAction
from engine.resources import Engine
from engine.sdk.arguments import arguments_for
from engine.sdk.parameters import Parameters, json_safe, validate
from engine.sdk.registry import ActionDeclaration
from engine.store import invocations
from engine.store.invocations import DONE, Invocation

log = structlog.get_logger()

LONGEST_RETRY_SECONDS = 5.0


MOST_TRIES = 3


class _SupersededError(Exception):
    """The invocation was ended before, or its commit was made and the answer to it lost."""


class ActionActivities:
    """The activity that performs an action.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="perform_action")
    async def perform_action(self, action: PerformAction) -> None:
        """Call an action and store its result.

        Args:
            action: The accepted invocation.

        Raises:
            ApplicationError: It failed; the error is recorded with the invocation.
        """
        await with_heartbeat(self._perform(action.invocation_id))

    async def _perform(self, invocation_id: str) -> None:
        action = None
        try:
            with before_plugin_code():
                row, loaded = await self._load(invocation_id)
            action = loaded.declaration.actions.get(row.target) if loaded else None
            done = row.status == DONE
            items = _items_of(row) if done else await self._run(row, loaded, action)
        except EngineError as error:
            retry_after = getattr(error, "retry_after_seconds", None)
            last = activity.info().attempt >= MOST_TRIES
            last = last or (retry_after or 0) > LONGEST_RETRY_SECONDS
            if not last and _may_be_repeated(error, action):
                raise try_again(error, retry_after) from None
            await self._record_failure(invocation_id, error)
            raise give_up(error) from None
        await hand_out(self._engine, row.community, items)

    async def _load(self, invocation_id: str) -> tuple[Invocation, LoadedPlugin | None]:
        async with self._engine.database.read() as session:
            found = await invocations.find_with_instance(session, invocation_id)
            assert found is not None, "an accepted invocation is stored before its activity"
            row, enabled = found
            if row.status == DONE or enabled is None:
                return row, None
            return row, await load_plugin(self._engine, session, enabled, invocation_id)

    async def _run(
        self, row: Invocation, loaded: LoadedPlugin | None, action: ActionDeclaration | None
    ) -> list[str]:
        if loaded is None:
            raise PluginCodeError(f"Plugin '{row.plugin}' was disabled meanwhile")
        if action is None:
            raise PluginCodeError(f"This worker knows no action '{row.plugin}.{row.target}'")
        if not action.idempotent and not first_try():
            raise OutcomeUnknownError(
                "A first try was cut off; whether it had an effect is not known"
            )
        result = await _call_action(self._engine, loaded, action, row)

        async def store(session: AsyncSession) -> list[str]:
            items = await store_effects(self._engine, session, loaded)
            kept = {"value": result, "items": items}
            if await invocations.mark_done(session, row.id, result=kept):
                return items
            raise _SupersededError

        try:
            items = await self._engine.database.persist(store)
        except _SupersededError:
            done = await self._engine.database.recall(
                lambda session: invocations.get_invocation(session, row.id)
            )
            return _items_of(done) if done is not None else []
        log.info("action performed", community=row.community, action=f"{row.plugin}.{row.target}")
        return items

    async def _record_failure(self, invocation_id: str, error: EngineError) -> None:
        async def record(session: AsyncSession) -> None:
            await invocations.mark_done(session, invocation_id, error=describe(error))

        await self._engine.database.persist(record)
        log.warning("action failed", invocation=invocation_id, kind=error.kind)


def _may_be_repeated(error: EngineError, action: ActionDeclaration | None) -> bool:
    """The retry decision: nothing was done, or doing it again leads to the same end."""
    if error.nothing_done:
        return True
    again = (PlatformDownError, StateConflictError)
    return action is not None and action.idempotent and isinstance(error, again)


def _items_of(row: Invocation) -> list[str]:
    if row.error is not None:
        raise RecordedError(row.error)
    items: list[str] = (row.result or {}).get("items", [])
    return items


async def _call_action(
    engine: Engine, loaded: LoadedPlugin, action: ActionDeclaration, row: Invocation
) -> object:
    what = f"action '{row.plugin}.{row.target}'"
    method = getattr(loaded.plugin, action.method)
    args, kwargs = arguments_for(
        method, Parameters(row.parameters or {}, action.input_schema), action.input_schema
    )
    result = await paced_call(engine, loaded, what, method, *args, **kwargs)
    try:
        plain = json_safe(result)
    except PluginCodeError as error:
        raise PluginCodeError(f"The {what} returned what JSON cannot hold: {error}") from None
    violations = validate(plain, action.output_schema) if action.output_schema else []
    if violations:
        places = "; ".join(f"{v.path or '/'}: {v.message}" for v in violations[:5])
        failure = PluginCodeError(f"The output of {what} does not fit its output_schema: {places}")
        failure.violations = tuple(  # type: ignore[attr-defined]
            Violation(v.path, v.message) for v in violations
        )
        raise failure
    return plain
