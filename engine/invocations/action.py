"""The call of an action."""

from __future__ import annotations

import json
from typing import Any

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PluginCodeError,
    RecordedError,
    UnavailableError,
    Violation,
    WorkerLostError,
    describe,
)
from engine.invocations.effects import FollowUp, effects_of
from engine.invocations.heartbeat import give_up
from engine.invocations.loading import load_plugin
from engine.invocations.lost_calls import is_suspect, isolate_after_losses
from engine.invocations.policy import ACTION, IDEMPOTENT_ACTION
from engine.invocations.run import CUT_OFF, Call, Done
from engine.resources import Engine
from engine.sdk.arguments import arguments_for
from engine.sdk.parameters import Parameters, fill_defaults, json_safe, validate
from engine.sdk.registry import ActionDeclaration
from engine.store import invocations
from engine.store.invocations import DONE, RUNNING, Invocation

log = structlog.get_logger()


class ActionCall(Call[None]):
    """An action that was accepted; its result and its error lie in its row.

    Args:
        engine: What all activities share.
        invocation_id: The accepted invocation.
    """

    row: Invocation
    action: ActionDeclaration

    def __init__(self, engine: Engine, invocation_id: str) -> None:
        super().__init__(engine, invocation_id, ACTION)

    @property
    def what(self) -> str:
        """``action '{plugin}.{slug}'``."""
        return f"action '{self.row.plugin}.{self.row.target}'"

    async def load(self) -> Done[None] | None:
        """Find the invocation, and load its plugin instance."""
        async with self.engine.database.read() as session:
            found = await invocations.find_with_instance(session, self.id)
            assert found is not None, "an accepted invocation is stored before its activity"
            self.row, enabled = found
            if self.row.status == DONE:
                return self._done(self.row)
            self.begun_before = self.row.status == RUNNING
            if enabled is None:
                raise PluginCodeError(f"Plugin '{self.row.plugin}' was disabled meanwhile")
            self.plugin = await load_plugin(self.engine, session, enabled, self.id)
        action = self.plugin.declaration.actions.get(self.row.target)
        if action is None:
            raise PluginCodeError(f"This worker knows no {self.what}")
        self.action = action
        if action.idempotent:
            self.policy = IDEMPOTENT_ACTION
            self.plugin.isolated |= await is_suspect(self.engine, self.id, enabled)
        else:
            # It is made once only, so what is counted is all of them.
            self.lost_as = self.plugin.lost_as = f"actions:{enabled.id}"
            await isolate_after_losses(self.engine, enabled, self.row.target)
        return None

    async def begin(self) -> Done[None] | None:
        """Note that the action may run now."""
        if await invocations.CALLS.begin(self.engine.database, self.row):
            self.begun_now = True
            return None
        self.begun_before = True
        async with self.engine.database.read() as session:
            now = await invocations.get_invocation(session, self.id)
        if now is not None and now.status == DONE:
            return self._done(now)
        if self.policy.once:
            raise OutcomeUnknownError(CUT_OFF)
        return None

    async def make(self) -> Any:
        """Call the action; gives its result as plain data."""
        assert self.plugin is not None
        schema = self.action.input_schema
        method = getattr(self.plugin.plugin, self.action.method)
        # The action may have got new defaults since.
        filled = fill_defaults(self.row.parameters or {}, schema or {})
        parameters = Parameters.stored(filled, schema)
        args, kwargs = arguments_for(method, parameters, schema)
        result = await self.call(method, *args, **kwargs)
        try:
            plain = json_safe(result)
        except PluginCodeError as error:
            raise PluginCodeError(
                f"The {self.what} returned what JSON cannot hold: {error}"
            ) from None
        size, most = len(json.dumps(plain)), self.engine.settings.result_max_bytes
        if size > most:
            raise PluginCodeError(
                f"The {self.what} returned {size} bytes of JSON; allowed are {most}"
            )
        schema = self.action.output_schema
        violations = validate(plain, schema) if schema else []
        if violations:
            places = "; ".join(f"{v.path or '/'}: {v.message}" for v in violations[:5])
            failure = PluginCodeError(
                f"The output of {self.what} does not fit its output_schema: {places}"
            )
            failure.violations = tuple(  # type: ignore[attr-defined]
                Violation(v.path, v.message) for v in violations
            )
            raise failure
        return plain

    async def store(self, session: AsyncSession, made: Any) -> Done[None]:
        """Store the result, unless the invocation was ended before."""
        assert self.plugin is not None
        effects = effects_of(self.engine, self.plugin)
        follow_up = FollowUp(items=effects.items)
        kept = {"value": made} | follow_up.as_result()
        if not await invocations.mark_done(session, self.id, result=kept):
            # Or this very commit was made, and the answer to it lost.
            now = await invocations.get_invocation(session, self.id)
            return self._done(now) if now is not None else Done(None)
        await effects.store(session)
        log.info(
            "action performed",
            community=self.row.community,
            action=f"{self.row.plugin}.{self.row.target}",
        )
        return Done(None, self.row.community, follow_up)

    async def set_back(self) -> None:
        """Note that the action did nothing."""
        await invocations.CALLS.set_back(self.engine.database, self.id)

    async def fail(self, error: EngineError) -> None:
        """Record the failure with the invocation, and end the activity."""
        reported = error
        if self.begun_now and isinstance(error, WorkerLostError):
            # This very call may have had its effect, whatever became of those before it.
            reported = OutcomeUnknownError(
                "The action took its process down; whether it had an effect is not known"
            )
        await self.engine.database.persist(lambda session: self._record(session, reported))
        log.warning("action failed", invocation=self.id, kind=reported.kind, detail=reported.detail)
        raise give_up(reported) from None

    async def _record(self, session: AsyncSession, error: EngineError) -> None:
        if error.status == UnavailableError.status:
            # Nothing was done, and the same key may be sent again.
            if await invocations.withdraw(
                self.engine.database, session, self.id, describe(error), begun=self.begun_now
            ):
                return
            error = OutcomeUnknownError(CUT_OFF)
        await invocations.mark_done(session, self.id, error=describe(error))

    def _done(self, row: Invocation) -> Done[None]:
        if row.error is not None:
            raise give_up(RecordedError(row.error)) from None
        return Done(None, row.community, FollowUp.of(row))
