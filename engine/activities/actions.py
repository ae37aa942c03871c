"""Performs actions."""

from __future__ import annotations

import json

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PlatformDownError,
    PluginCodeError,
    RecordedError,
    StateConflictError,
    UnavailableError,
    Violation,
    WorkerLostError,
    describe,
)
from engine.invocations.effects import start_deliveries, store_effects
from engine.invocations.heartbeat import (
    before_plugin_code,
    give_up,
    last_unforeseen_try,
    try_again,
    was_cut_off,
    with_heartbeat,
)
from engine.invocations.loading import LoadedPlugin, load_plugin
from engine.invocations.lost_calls import is_suspect, isolate_after_losses
from engine.invocations.pacing import paced_call
from engine.invocations.plugin_code import beside_plugin_code
from engine.messages import PerformAction
from engine.resources import Engine
from engine.sdk.arguments import arguments_for
from engine.sdk.parameters import Parameters, json_safe, validate
from engine.sdk.registry import ActionDeclaration
from engine.store import invocations
from engine.store.database import is_outage
from engine.store.invocations import DONE, RUNNING, Invocation

log = structlog.get_logger()

LONGEST_RETRY_SECONDS = 5.0


MOST_TRIES = 3
UNKNOWN = "A first try was cut off; whether it had an effect is not known"


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
        await with_heartbeat(self._perform_or_end(action.invocation_id))

    async def _perform_or_end(self, invocation_id: str) -> None:
        try:
            await self._perform(invocation_id)
        except ApplicationError:
            raise
        except Exception as error:
            if is_outage(error) or not last_unforeseen_try():
                raise
            log.exception("action not performed", invocation=invocation_id)
            unknown = OutcomeUnknownError("The engine failed; the action may have been done")
            await self._record_failure(invocation_id, unknown, ours=False)
            raise give_up(unknown) from None

    async def _perform(self, invocation_id: str) -> None:
        action, ours = None, False
        try:
            with before_plugin_code():
                row, loaded = await self._load(invocation_id)
                action = loaded.declaration.actions.get(row.target) if loaded else None
                row, ours = await self._begin(row, action)
            done = row.status == DONE
            items = _items_of(row) if done else await self._run(row, loaded, action)
        except EngineError as error:
            retry_after = getattr(error, "retry_after_seconds", None)
            last = activity.info().attempt >= MOST_TRIES
            last = last or (retry_after or 0) > LONGEST_RETRY_SECONDS
            if not last and _may_be_repeated(error, action):
                if ours and error.nothing_done:
                    await invocations.set_back(self._engine.database, invocation_id)
                raise try_again(error, retry_after) from None
            if not ours and await self._may_have_run(invocation_id, error):
                error = OutcomeUnknownError(UNKNOWN)
            if ours and isinstance(error, WorkerLostError):
                # This very call may have had its effect, whatever became of those before it.
                error = OutcomeUnknownError(
                    "The action took its process down; whether it had an effect is not known"
                )
            await self._record_failure(invocation_id, error, ours=ours)
            raise give_up(error) from None
        await start_deliveries(self._engine, row.community, items)

    async def _load(self, invocation_id: str) -> tuple[Invocation, LoadedPlugin | None]:
        async with self._engine.database.read() as session:
            found = await invocations.find_with_instance(session, invocation_id)
            assert found is not None, "an accepted invocation is stored before its activity"
            row, enabled = found
            if row.status == DONE or enabled is None:
                return row, None
            loaded = await load_plugin(self._engine, session, enabled, invocation_id)
        action = loaded.declaration.actions.get(row.target)
        if action is not None and action.idempotent:
            loaded.isolated |= await is_suspect(self._engine, invocation_id, enabled)
        else:
            # It is made once only, so what is counted is all of them.
            loaded.lost_as = f"actions:{enabled.id}"
            await isolate_after_losses(self._engine, enabled, row.target)
        return row, loaded

    async def _may_have_run(self, invocation_id: str, error: EngineError) -> bool:
        """Whether a try that was cut off may have had an effect, whatever this one met with."""
        if isinstance(error, RecordedError | WorkerLostError):
            return False
        if activity.info().attempt > 1 and not was_cut_off():
            return False
        async with self._engine.database.read() as session:
            row = await invocations.get_invocation(session, invocation_id)
        return row is not None and row.status == RUNNING

    async def _begin(
        self, row: Invocation, action: ActionDeclaration | None
    ) -> tuple[Invocation, bool]:
        """Note that the action may run now; gives the invocation, and if this try is the first."""
        if row.status == DONE or action is None:
            return row, False
        if await invocations.begin(self._engine.database, row):
            return row, True
        async with self._engine.database.read() as session:
            now = await invocations.get_invocation(session, row.id)
        if now is not None and now.status == DONE:
            return now, False
        if not action.idempotent:
            raise OutcomeUnknownError(UNKNOWN)
        return row, False

    async def _run(
        self, row: Invocation, loaded: LoadedPlugin | None, action: ActionDeclaration | None
    ) -> list[str]:
        if loaded is None:
            raise PluginCodeError(f"Plugin '{row.plugin}' was disabled meanwhile")
        if action is None:
            raise PluginCodeError(f"This worker knows no action '{row.plugin}.{row.target}'")

        async def store(session: AsyncSession) -> list[str]:
            items = await store_effects(self._engine, session, loaded)
            kept = {"value": result, "items": items}
            if await invocations.mark_done(session, row.id, result=kept):
                return items
            raise _SupersededError

        with beside_plugin_code(loaded, f"action '{row.plugin}.{row.target}'"):
            result = await _call_action(self._engine, loaded, action, row)
            try:
                items = await self._engine.database.persist(store)
            except _SupersededError:
                done = await self._engine.database.recall(
                    lambda session: invocations.get_invocation(session, row.id)
                )
                return _items_of(done) if done is not None else []
        log.info("action performed", community=row.community, action=f"{row.plugin}.{row.target}")
        return items

    async def _record_failure(self, invocation_id: str, error: EngineError, *, ours: bool) -> None:
        database = self._engine.database

        async def record(session: AsyncSession) -> None:
            told = error
            if error.status == UnavailableError.status:
                # Nothing was done, and the same key may be sent again.
                if await invocations.withdraw(
                    database, session, invocation_id, describe(error), begun=ours
                ):
                    return
                told = OutcomeUnknownError(UNKNOWN)
            await invocations.mark_done(session, invocation_id, error=describe(told))

        await self._engine.database.persist(record)
        log.warning("action failed", invocation=invocation_id, kind=error.kind, detail=error.detail)


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
    size, most = len(json.dumps(plain)), engine.settings.result_max_bytes
    if size > most:
        raise PluginCodeError(f"The {what} returned {size} bytes of JSON; allowed are {most}")
    violations = validate(plain, action.output_schema) if action.output_schema else []
    if violations:
        places = "; ".join(f"{v.path or '/'}: {v.message}" for v in violations[:5])
        failure = PluginCodeError(f"The output of {what} does not fit its output_schema: {places}")
        failure.violations = tuple(  # type: ignore[attr-defined]
            Violation(v.path, v.message) for v in violations
        )
        raise failure
    return plain
