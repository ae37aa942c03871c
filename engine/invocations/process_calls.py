"""The calls of a governance process: its start, its close, its webhooks, its polls."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity

from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PlatformDownError,
    PluginCodeError,
    PluginPausedError,
    RateLimitError,
    StateConflictError,
    UnavailableError,
    WorkerLostError,
    describe,
)
from engine.invocations.effects import FollowUp, append_record, store_effects
from engine.invocations.heartbeat import again_in
from engine.invocations.loading import load_plugin
from engine.invocations.lost_calls import clear, is_suspect
from engine.invocations.pacing import call_in_turn, wait_for_poll
from engine.invocations.policy import (
    CHILD_COMPLETED,
    CLOSE,
    FINDABLE_START,
    POLL,
    PROCESS_WEBHOOK,
    START,
    UNKNOWN,
    Policy,
)
from engine.invocations.process import (
    ChangeProcess,
    LoadedProcess,
    again_at,
    complete,
    end_process,
    load_process,
    lock,
    read_record,
    snapshot_of,
)
from engine.invocations.receiver import request_of
from engine.invocations.run import CUT_OFF, Call, Done
from engine.messages import COMPLETED, InvocationOutcome, InvokeProcess, PollProcess, PollTogether
from engine.resources import Engine
from engine.sdk.arguments import arguments_for
from engine.sdk.children import Child
from engine.store import accepted, invocations, processes, webhooks
from engine.store.database import utc_now
from engine.store.invocations import DONE, Invocation, mark_of
from engine.store.processes import GovernanceProcess
from engine.store.webhooks import FAILED, ReceivedWebhook, webhook_id_of

log = structlog.get_logger()

JITTER = 0.1
CHILD_NOT_HANDLED = "child_completed_failed"


class ProcessCall(Call[InvocationOutcome]):
    """A call of one method of a process; gives the record, and whether the call failed."""

    method: str
    # It is ``start``, whose outcome the request's own answer gives.
    starts = False
    # Webhooks without a key are signalled while it is under way.
    alone = False

    def __init__(self, engine: Engine, process_id: str, call_id: str, policy: Policy) -> None:
        super().__init__(engine, call_id, policy)
        self.process_id = process_id
        self.loaded: LoadedProcess | None = None
        self.counts_losses = True

    @property
    def what(self) -> str:
        """``the {method} of process '{plugin}.{slug}'``."""
        name = self.loaded.name if self.loaded is not None else self.process_id
        return f"the {self.method} of process '{name}'"

    @property
    def process(self) -> Any:
        """The object that stands for the process during the call."""
        assert self.loaded is not None
        return self.loaded.process

    async def load(self) -> Done[InvocationOutcome] | None:
        """Find the process with the call's mark, and load it with its plugin instance."""
        async with self.engine.database.read() as session:
            found = await processes.find_for_call(session, self.process_id, self.id)
            assert found is not None, "a process is stored before its workflow starts"
            row, mark, enabled = found
            self.begun_before = self.policy.once and row.began_at is not None
            if mark is not None:
                return _done(row, mark)
            if row.status == COMPLETED:
                return _done(row)
            if enabled is None:
                raise PluginCodeError(f"Plugin '{row.plugin}' is not enabled any more")
            suspect = self.counts_losses and await is_suspect(self.engine, self.id, enabled)
            self.plugin = await load_plugin(self.engine, session, enabled, self.id)
        declaration = self.plugin.declaration.processes.get(row.slug)
        if declaration is None:
            raise PluginCodeError(f"This worker knows no process '{row.name}'")
        self.plugin.isolated |= suspect
        self.plugin.context.log = self.plugin.context.log.bind(process=row.id)
        self.loaded = load_process(self.plugin, row, declaration)
        return None

    async def make(self) -> ChangeProcess:
        """Call the method; gives what it made of the process."""
        async with self._alone():
            await self.call_method()
        assert self.loaded is not None
        return ChangeProcess(self.loaded, snapshot_of(self.engine, self.loaded), self.starts)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Have no webhook handled in place meanwhile; one that is already finds that out."""
        assert self.loaded is not None
        row, declaration = self.loaded.row, self.loaded.declaration
        if not (self.alone and declaration.receives_webhooks and row.correlation_key is None):
            yield
            return
        longest = timedelta(seconds=self.engine.settings.invocation_timeout_seconds)
        await processes.note_called(self.engine.database, row.id, utc_now() + longest)
        try:
            yield
        finally:
            await processes.note_called(self.engine.database, row.id, None)

    async def call_method(self) -> None:
        """Call the method with its arguments."""
        method = getattr(self.process, self.method, None)
        if method is None:
            raise PluginCodeError(f"This worker knows no {self.what}")
        await self.call(method)

    async def store(self, session: AsyncSession, made: ChangeProcess) -> Done[InvocationOutcome]:
        """Store what the call did, unless another try was faster or the process has ended."""
        assert self.plugin is not None
        row = await lock(session, self.process_id)
        mark = await invocations.get_invocation(session, self.id)
        if mark is not None:
            return _done(row, mark)
        if row.status == COMPLETED:
            # It was ended meanwhile: nothing of this call may stand.
            return _done(row)
        if row.updated_at != made.loaded.row.updated_at:
            raise StateConflictError("The process was changed by another call meanwhile")
        await self.store_beside(session, row)
        items = await store_effects(self.engine, session, self.plugin)
        follow_up = FollowUp(items) + await made.store(session, row)
        session.add(self._mark(row, follow_up))
        record = row.record()
        log.info(
            "process invoked",
            process=record.id,
            community=record.community,
            name=record.name,
            method=self.method,
            status=record.status,
        )
        return Done(InvocationOutcome(record), record.community, follow_up)

    async def store_beside(self, session: AsyncSession, row: GovernanceProcess) -> None:
        """Store what else is known of the process now."""

    async def fail(self, error: EngineError) -> InvocationOutcome:
        """Record the failure with the call's mark; the process ends if it cannot go on."""

        async def store(session: AsyncSession) -> Done[InvocationOutcome]:
            row = await lock(session, self.process_id)
            mark = await invocations.get_invocation(session, self.id)
            if mark is not None:
                # A worker that was only stopped has gone on, and was faster.
                return _done(row, mark)
            follow_up = await self.store_failure(session, row, error)
            session.add(self._mark(row, follow_up, describe(error)))
            return Done(InvocationOutcome(row.record(), self.id), row.community, follow_up)

        done = await self.engine.database.persist(store)
        if done.result.failure is not None:
            log.warning(
                "process invocation failed",
                process=self.process_id,
                method=self.method,
                kind=error.kind,
                detail=error.detail,
            )
        await self.follow_up(done)
        return done.result

    async def store_failure(
        self, session: AsyncSession, row: GovernanceProcess, error: EngineError
    ) -> FollowUp:
        """Store what a failure means for the process."""
        if row.status == COMPLETED or not isinstance(error, WorkerLostError):
            return FollowUp()
        return await complete(session, row, {"code": error.kind, "message": error.detail})

    def _mark(
        self, row: GovernanceProcess, follow_up: FollowUp, error: dict[str, Any] | None = None
    ) -> Invocation:
        instance = (row.community, row.plugin, row.instance_id)
        target = f"{row.slug}#{self.method}"
        return mark_of(self.id, instance, target, follow_up.as_result(), error)


def _done(row: GovernanceProcess, mark: Invocation | None = None) -> Done[InvocationOutcome]:
    failure = mark.id if mark is not None and mark.error else None
    follow_up = FollowUp.of(mark) if mark is not None else FollowUp()
    return Done(InvocationOutcome(row.record(), failure), row.community, follow_up)


class StartCall(ProcessCall):
    """The start of a process: made once, or looked for by ``find_started``."""

    method = "start"
    starts = True

    def __init__(self, engine: Engine, invocation: InvokeProcess) -> None:
        super().__init__(engine, invocation.process_id, invocation.invocation_id, START)

    async def begin(self) -> Done[InvocationOutcome] | None:
        """Note that ``start`` may run now, unless it may have before."""
        assert self.loaded is not None
        if self.loaded.declaration.can_find_started:
            self.policy = FINDABLE_START
        if await processes.STARTS.begin(self.engine.database, self.loaded.row):
            self.begun_now = True
            return None
        self.begun_before = True
        # The request that withdrew the start in this moment has completed the process.
        record = await read_record(self.engine, self.process_id)
        return Done(InvocationOutcome(record), record.community) if record.completed else None

    async def call_method(self) -> None:
        """Call ``start``; after a try that was cut off only if that has made nothing."""
        if self.begun_before and await self._was_found():
            return
        assert self.loaded is not None
        schema = self.loaded.declaration.input_schema
        args, kwargs = arguments_for(self.process.start, self.process.parameters, schema)
        await self.call(self.process.start, *args, **kwargs)

    async def _was_found(self) -> bool:
        if self.policy is not FINDABLE_START:
            raise OutcomeUnknownError(CUT_OFF)
        assert self.loaded is not None and self.plugin is not None
        what, look_up = (
            f"the find_started of process '{self.loaded.name}'",
            self.process.find_started,
        )
        parameters = self.process.parameters
        found = await call_in_turn(self.engine, self.plugin, what, look_up, parameters)
        if not isinstance(found, bool):
            raise PluginCodeError(f"{what} returned {found!r:.80}; allowed are True and False")
        log.info("start looked up", process=self.process_id, found=found)
        return found

    def next_try(self, error: EngineError) -> float | None:
        """Tried again if nothing was done, or if the next try can look for what this one did."""
        tries = activity.info().attempt
        if error.nothing_done or not self._is_unknown(error):
            return START.next_try(error, tries)
        return self.policy.next_try(error, tries)

    async def set_back(self) -> None:
        """Note that ``start`` did nothing."""
        await processes.STARTS.set_back(self.engine.database, self.process_id)

    async def store_failure(
        self, session: AsyncSession, row: GovernanceProcess, error: EngineError
    ) -> FollowUp:
        """End the process as not started, or as one of which that is not known."""
        if row.status == COMPLETED or isinstance(error, WorkerLostError):
            return await super().store_failure(session, row, error)
        # A platform that failed the only try is named by the request's own answer.
        unknown = self._is_unknown(error) and not (
            isinstance(error, PlatformDownError) and not self.begun_before
        )
        code = "start_outcome_unknown" if unknown else "start_failed"
        row.complete({"code": code, "kind": error.kind, "message": error.detail})
        if error.status == UnavailableError.status:
            await accepted.forget_key(session, row.id)
        # A start that failed is a request's answer; a child has no request.
        is_reported = unknown or row.parent_id is not None
        return FollowUp(await append_record(session, row) if is_reported else [])

    def _is_unknown(self, error: EngineError) -> bool:
        """Whether ``start`` may have made something on the platform, though it failed."""
        return self.begun_before or (isinstance(error, UNKNOWN) and not error.nothing_done)

    async def follow_up(self, done: Done[InvocationOutcome]) -> None:
        """Have a class that is polled together polled, too."""
        await super().follow_up(done)
        if done.result.failure is not None or self.loaded is None:
            return
        if not self.loaded.declaration.polls_together:
            return
        row = self.loaded.row
        poll = PollTogether(
            row.community,
            row.plugin,
            row.slug,
            row.instance_id,
            notes_ends=True,
            instance=row.instance,
        )
        try:
            await self.engine.temporal.background.poll_together(poll)
        except UnavailableError:
            # The start is marked as done, so no further try of it would come here.
            self.engine.schedules.reconcile_when_reachable()


class CloseCall(ProcessCall):
    """The close of a process, asked for by a driver or due at its closing time."""

    method = "close"
    alone = True

    def __init__(self, engine: Engine, invocation: InvokeProcess) -> None:
        super().__init__(engine, invocation.process_id, invocation.invocation_id, CLOSE)
        self._request_id = invocation.request_id
        self._webhooks_left_out = invocation.webhooks_left_out

    async def begin(self) -> Done[InvocationOutcome] | None:
        """Note that the driver's request is being served, unless it was withdrawn."""
        assert self.loaded is not None
        if self._request_id is None:
            return None
        async with self.engine.database.read() as session:
            request = await invocations.get_invocation(session, self._request_id)
        if request is None or await invocations.CALLS.begin(self.engine.database, request):
            return None
        async with self.engine.database.read() as session:
            now = await invocations.get_invocation(session, self._request_id)
        # To close twice is the same wish again.
        may_close = now is not None and now.status != DONE
        return None if may_close else _done(self.loaded.row)

    async def store_beside(self, session: AsyncSession, row: GovernanceProcess) -> None:
        """Store how many webhooks were not waited for."""
        row.webhooks_left_out += self._webhooks_left_out


class WebhookCall(ProcessCall):
    """A webhook, handled by one process."""

    method = "receive_webhook"

    def __init__(self, engine: Engine, invocation: InvokeProcess) -> None:
        super().__init__(engine, invocation.process_id, invocation.invocation_id, PROCESS_WEBHOOK)
        self._webhook_id = webhook_id_of(invocation.webhook_id)
        self._webhook: ReceivedWebhook | None = None

    async def load(self) -> Done[InvocationOutcome] | None:
        """Load the process and the webhook."""
        done = await super().load()
        if done is not None:
            return done
        async with self.engine.database.read() as session:
            self._webhook = await webhooks.get_webhook(session, self._webhook_id)
        if self._webhook is None:
            log.warning("no such webhook", webhook=self._webhook_id)
            assert self.loaded is not None
            return _done(self.loaded.row)
        return None

    async def call_method(self) -> None:
        """Call ``receive_webhook``, unless the platform wants no calls now."""
        assert self.plugin is not None and self._webhook is not None
        method = getattr(self.process, self.method, None)
        if method is None:
            raise PluginCodeError(f"This worker knows no {self.what}")
        paused_until = self.plugin.paused_until
        if paused_until is not None and paused_until > utc_now():
            left = (paused_until - utc_now()).total_seconds()
            raise RateLimitError("The platform wants no calls now", retry_after_seconds=left)
        await self.call(method, request_of(self._webhook))

    async def store_beside(self, session: AsyncSession, row: GovernanceProcess) -> None:
        """Note that the workflow holds one webhook less."""
        row.webhooks_signalled = max(0, row.webhooks_signalled - 1)

    async def store_failure(
        self, session: AsyncSession, row: GovernanceProcess, error: EngineError
    ) -> FollowUp:
        """Show in the journal that a process could not handle the webhook."""
        await self.store_beside(session, row)
        webhook = await webhooks.get_webhook(session, self._webhook_id)
        if webhook is not None:
            webhook.status, webhook.handled_at = FAILED, utc_now()
            webhook.error = describe(error) | {"process": self.process_id}
        return await super().store_failure(session, row, error)


class ChildCompletedCall(ProcessCall):
    """The end of a process that a process started, handled by that one."""

    method = "child_completed"
    alone = True

    def __init__(self, engine: Engine, invocation: InvokeProcess) -> None:
        super().__init__(engine, invocation.process_id, invocation.invocation_id, CHILD_COMPLETED)
        self._child_id = invocation.child_id or ""
        self._child: Child | None = None

    async def load(self) -> Done[InvocationOutcome] | None:
        """Load the process and its child."""
        done = await super().load()
        if done is not None:
            return done
        assert self.loaded is not None
        async with self.engine.database.read() as session:
            row = await processes.get_process(session, self._child_id)
        ours = row is not None and row.parent_id == self.process_id and row.reported_at is None
        if row is None or not ours or row.completed_at is None:
            log.warning("no such child", process=self.process_id, child=self._child_id)
            return _done(self.loaded.row)
        if not self.loaded.declaration.handles_children:
            log.warning("this worker knows no such method", call=self.what)
            return _done(self.loaded.row)
        self._child = Child(
            id=row.id,
            name=row.name,
            status=row.status,
            outcome=row.outcome,
            errors=row.errors,
            url=row.url,
            created_at=row.created_at,
            completed_at=row.completed_at,
        )
        return None

    async def call_method(self) -> None:
        """Call ``child_completed``."""
        await self.call(self.process.child_completed, self._child)

    async def store_beside(self, session: AsyncSession, row: GovernanceProcess) -> None:
        """Note that the child's end was handled."""
        await processes.report(session, self._child_id)

    async def store_failure(
        self, session: AsyncSession, row: GovernanceProcess, error: EngineError
    ) -> FollowUp:
        """End the process: nothing would call it again because of that child."""
        await self.store_beside(session, row)
        if row.status == COMPLETED or isinstance(error, WorkerLostError):
            return await super().store_failure(session, row, error)
        failed = {"code": CHILD_NOT_HANDLED, "kind": error.kind, "message": error.detail}
        return await complete(session, row, failed)


class PollCall(ProcessCall):
    """A poll of a process: ends with news, and is tried again until there is any.

    Args:
        engine: What all activities share.
        poll: Which process.
    """

    method = "update"
    alone = True

    def __init__(self, engine: Engine, poll: PollProcess) -> None:
        super().__init__(engine, poll.process_id, poll.invocation_id, POLL)
        self.counts_losses = poll.notes_ends
        self._polled_seconds = poll.polled_seconds
        self._news = True
        self._chosen: datetime | None = None

    async def begin(self) -> None:
        """Wait for the poll's turn, without holding a worker's slot meanwhile."""
        assert self.plugin is not None and self.loaded is not None
        self._chosen = self.loaded.row.poll_again_at
        if activity.info().attempt == 1:
            # Polls that were stopped have waited for a part, so that none is put off for ever.
            raise again_in("no_news", self._until_next(self._polled_seconds))
        turn = await wait_for_poll(self.engine, self.plugin)
        if turn > timedelta(0):
            raise again_in("no_news", turn.total_seconds())

    async def make(self) -> ChangeProcess:
        """Call ``update``."""
        made = await super().make()
        await clear(self.engine, self.lost_as)
        self._news = made.loaded.is_news(made.snapshot)
        if not self._news:
            if not made.loaded.had_effects(made.snapshot):
                raise again_in("no_news", self._until_next())
            self._chosen = again_at(made.snapshot)
            # It goes on polling, so it must not be marked as done.
            self.id = f"{self.id}#{activity.info().attempt}"
        return made

    async def follow_up(self, done: Done[InvocationOutcome]) -> None:
        """Go on polling if there was no news."""
        await super().follow_up(done)
        if not self._news:
            raise again_in("no_news", self._until_next())

    def next_try(self, error: EngineError) -> float | None:
        """The next poll is the next try."""
        asked: float = getattr(error, "retry_after_seconds", None) or 0
        if isinstance(error, WorkerLostError):
            return None
        if isinstance(error, PluginPausedError):
            return asked
        if not isinstance(error, StateConflictError):
            facts = {"kind": error.kind, "detail": error.detail}
            log.warning("poll failed", process=self.process_id, **facts)
        return max(self._until_next(), asked)

    async def fail(self, error: EngineError) -> InvocationOutcome:
        """End the process if its polls took workers down; else go on polling."""
        if not isinstance(error, WorkerLostError):
            raise again_in("no_news", self._until_next())
        record = await end_process(self.engine, self.process_id, error.kind, error.detail)
        return InvocationOutcome(record)

    def _until_next(self, waited: float = 0.0) -> float:
        """Seconds until the next poll, spread: those that began together part company."""
        every = self.engine.settings.poll_interval_seconds
        if self.loaded is not None:
            own = self.loaded.row.poll_every_seconds
            every = own or self.loaded.declaration.poll_every_seconds or every
        if self._chosen is not None and self._chosen > utc_now():
            return (self._chosen - utc_now()).total_seconds()
        return (every - waited % every) * random.uniform(1 - JITTER, 1)  # noqa: S311


CALLS: dict[
    str, type[StartCall] | type[CloseCall] | type[WebhookCall] | type[ChildCompletedCall]
] = {call.method: call for call in (StartCall, CloseCall, WebhookCall, ChildCompletedCall)}
