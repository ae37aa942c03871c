"""Performs actions."""

from __future__ import annotations

import structlog
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
    call,
    hand_out,
    load_plugin,
    store_effects,
)
from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PluginCodeError,
    RecordedError,
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


class _SupersededError(Exception):
    """The invocation was ended meanwhile; raised to take back what this try would store."""


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
        try:
            items = await self._run(invocation_id)
        except EngineError as error:
            retry_after = getattr(error, "retry_after_seconds", None)
            last = activity.info().attempt >= 3 or (retry_after or 0) > LONGEST_RETRY_SECONDS
            if error.nothing_done and not last:
                raise try_again(error, retry_after) from None
            await self._record_failure(invocation_id, error)
            raise give_up(error) from None
        await hand_out(self._engine, *items)

    async def _run(self, invocation_id: str) -> tuple[str, list[str]]:
        with before_plugin_code():
            async with self._engine.database.read() as session:
                row = await invocations.get_invocation(session, invocation_id)
                assert row is not None, "an accepted invocation is stored before its activity"
                if row.status == DONE:
                    return _done_before(row)
                if not first_try():
                    raise OutcomeUnknownError(
                        "A first try was cut off; whether it had an effect is not known"
                    )
                loaded = await load_plugin(
                    self._engine, session, row.community, row.plugin, invocation_id
                )
                if loaded is None or loaded.instance_id != row.instance_id:
                    raise PluginCodeError(f"Plugin '{row.plugin}' was disabled meanwhile")
        declaration = loaded.declaration.actions.get(row.target)
        if declaration is None:
            raise PluginCodeError(f"This worker knows no action '{row.plugin}.{row.target}'")
        result = await _call_action(loaded, declaration, row)
        try:
            async with self._engine.database.write() as session:
                items = await store_effects(self._engine, session, loaded)
                kept = {"value": result, "items": items}
                if not await invocations.mark_done(session, invocation_id, result=kept):
                    raise _SupersededError
        except _SupersededError:
            return loaded.community, []
        log.info("action performed", community=row.community, action=f"{row.plugin}.{row.target}")
        return loaded.community, items

    async def _record_failure(self, invocation_id: str, error: EngineError) -> None:
        async with self._engine.database.write() as session:
            await invocations.mark_done(session, invocation_id, error=describe(error))
        log.warning("action failed", invocation=invocation_id, kind=error.kind)


def _done_before(row: Invocation) -> tuple[str, list[str]]:
    if row.error is not None:
        raise RecordedError(row.error)
    return row.community, (row.result or {}).get("items", [])


async def _call_action(loaded: LoadedPlugin, action: ActionDeclaration, row: Invocation) -> object:
    what = f"action '{row.plugin}.{row.target}'"
    method = getattr(loaded.plugin, action.method)
    args, kwargs = arguments_for(
        method, Parameters(row.parameters or {}, action.input_schema), action.input_schema
    )
    result = await call(loaded, what, method, *args, **kwargs)
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
