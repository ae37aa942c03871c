"""Runs the methods of governance processes."""

from __future__ import annotations

from typing import Any

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from engine.activities.process_calls import (
    DoneBefore,
    LoadedProcess,
    commit,
    end_process,
    load_process,
    lock,
    marked,
    read_record,
    snapshot_of,
)
from engine.activities.routing import route_accepted
from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PlatformDownError,
    PluginCodeError,
    PluginPausedError,
    PluginTimeoutError,
    RateLimitError,
    StateConflictError,
    UnavailableError,
    WorkerLostError,
    describe,
)
from engine.invocations.effects import append_record, start_deliveries
from engine.invocations.heartbeat import (
    again_in,
    before_plugin_code,
    last_unforeseen_try,
    try_again,
    was_cut_off,
    with_heartbeat,
)
from engine.invocations.pacing import noting_limits, paced_call
from engine.invocations.plugin_code import beside_plugin_code
from engine.messages import (
    COMPLETED,
    EndProcess,
    InvocationOutcome,
    InvokeProcess,
    PollTogether,
    ReadProcess,
)
from engine.resources import Engine
from engine.sdk.arguments import arguments_for
from engine.sdk.webhook import WebhookRequest
from engine.store import invocations, processes, webhooks
from engine.store.database import is_outage, utc_now
from engine.store.invocations import DONE, Invocation
from engine.store.webhooks import FAILED, ReceivedWebhook, webhook_id_of

log = structlog.get_logger()

MOST_TRIES = 3
MOST_WEBHOOK_TRIES = 5
LONGEST_RETRY_SECONDS = 5.0
LONGEST_WEBHOOK_PAUSE_SECONDS = 15.0
MOST_LOOK_UPS = 4
LOOK_UP_AFTER_SECONDS = 5.0


class ProcessActivities:
    """The activities of a process' workflow.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="invoke_process")
    async def invoke_process(self, invocation: InvokeProcess) -> InvocationOutcome:
        """Call a method of a process and store what it did.

        Args:
            invocation: Which process and method.

        Returns:
            The record, and whether the method failed.

        Raises:
            ApplicationError: It is to be tried again.
        """
        return await with_heartbeat(self._invoke(invocation))

    @activity.defn(name="read_process")
    async def read_process(self, read: ReadProcess) -> InvocationOutcome:
        """Give the record as it stands.

        Args:
            read: Which process.

        Returns:
            The record.
        """
        return InvocationOutcome(await read_record(self._engine, read.process_id))

    @activity.defn(name="route_webhooks")
    async def route_webhooks(self, read: ReadProcess) -> None:
        """Signal a process of the webhooks that were accepted so far.

        Args:
            read: Which process.
        """
        await with_heartbeat(route_accepted(self._engine, read.process_id))

    @activity.defn(name="end_process")
    async def end_process(self, end: EndProcess) -> InvocationOutcome:
        """End a process, and tell its driver why.

        Args:
            end: Which process, and why.

        Returns:
            The record.
        """
        record = await end_process(
            self._engine, end.process_id, end.code, end.message, end.webhooks_left_out
        )
        log.warning("process ended by the engine", process=record.id, code=end.code)
        return InvocationOutcome(record)

    async def _invoke(self, invocation: InvokeProcess) -> InvocationOutcome:
        try:
            return await self._try(invocation)
        except ApplicationError:
            raise
        except Exception as error:
            if is_outage(error) or not last_unforeseen_try():
                raise
            log.exception("process invocation failed", process=invocation.process_id)
            unforeseen = EngineError("The engine failed; its log tells more")
            return await self._end_failed(invocation, unforeseen, unknown=True)

    async def _try(self, invocation: InvokeProcess) -> InvocationOutcome:
        try:
            with before_plugin_code():
                loaded = await load_process(
                    self._engine, invocation.process_id, invocation.invocation_id
                )
                webhook = await self._webhook(invocation)
                loaded = await self._begin(loaded, invocation)
        except EngineError as error:
            return await self._failed(invocation, error, None)
        if isinstance(loaded, DoneBefore):
            await start_deliveries(self._engine, loaded.outcome.record.community, loaded.items)
            return loaded.outcome
        if invocation.method == "receive_webhook" and webhook is None:
            log.warning("no such webhook", webhook=invocation.webhook_id)
            return InvocationOutcome(loaded.row.record())
        try:
            what = f"the {invocation.method} of process '{loaded.name}'"
            with beside_plugin_code(loaded.plugin, what):
                if loaded.begun and invocation.method == "start":
                    await self._start_again(loaded, invocation)
                else:
                    await self._call(loaded, invocation, webhook)
                snapshot = snapshot_of(self._engine, loaded)
            outcome = await commit(
                self._engine,
                loaded,
                snapshot,
                invocation.invocation_id,
                invocation.method,
                invocation.webhooks_left_out,
            )
        except EngineError as error:
            return await self._failed(invocation, error, loaded)
        if loaded.declaration.polls_together and invocation.method == "start":
            row = loaded.row
            poll = PollTogether(
                row.community, row.plugin, row.slug, row.instance_id, notes_ends=True
            )
            await self._have_polled(poll)
        log.info(
            "process invoked",
            process=invocation.process_id,
            community=outcome.record.community,
            name=outcome.record.name,
            method=invocation.method,
            status=outcome.record.status,
        )
        return outcome

    async def _have_polled(self, poll: PollTogether) -> None:
        try:
            await self._engine.temporal.background.poll_together(poll)
        except UnavailableError:
            # The start is marked as done, so no further try of it would come here.
            self._engine.schedules.reconcile_when_reachable()

    async def _webhook(self, invocation: InvokeProcess) -> ReceivedWebhook | None:
        if invocation.webhook_id is None:
            return None
        async with self._engine.database.read() as session:
            return await webhooks.get_webhook(session, webhook_id_of(invocation.webhook_id))

    async def _begin(
        self, loaded: LoadedProcess | DoneBefore, invocation: InvokeProcess
    ) -> LoadedProcess | DoneBefore:
        """Note that plugin code may run now, where it matters whether it may have before."""
        if isinstance(loaded, DoneBefore):
            return loaded
        if invocation.method == "start":
            loaded.begun = not await processes.begin_start(self._engine.database, loaded.row)
            if loaded.begun:
                # Whoever withdrew the start in this moment has completed the process.
                record = await read_record(self._engine, invocation.process_id)
                return DoneBefore(InvocationOutcome(record), []) if record.completed else loaded
        elif invocation.request_id is not None:
            async with self._engine.database.read() as session:
                request = await invocations.get_invocation(session, invocation.request_id)
            if request is not None and not await self._may_close(request):
                return DoneBefore(InvocationOutcome(loaded.row.record()), [])
        return loaded

    async def _may_close(self, request: Invocation) -> bool:
        """Whether a request for a close was not withdrawn; closing twice is the same wish again."""
        if await invocations.begin(self._engine.database, request):
            return True
        async with self._engine.database.read() as session:
            now = await invocations.get_invocation(session, request.id)
        return now is not None and now.status != DONE

    async def _start_again(self, loaded: LoadedProcess, invocation: InvokeProcess) -> None:
        """Look for what a first try of ``start`` made, and start only if there is nothing."""
        if not loaded.declaration.can_find_started:
            raise OutcomeUnknownError(
                "A first try to start the process was cut off; "
                "whether it had an effect on the platform is not known"
            )
        process: Any = loaded.process
        what = f"the find_started of process '{loaded.name}'"
        found = await paced_call(
            self._engine,
            loaded.plugin,
            what,
            process.find_started,
            process.parameters,
        )
        if not isinstance(found, bool):
            raise PluginCodeError(f"{what} returned {found!r:.80}; allowed are True and False")
        log.info("start looked up", process=invocation.process_id, found=found)
        if not found:
            await self._call(loaded, invocation, None)

    async def _call(
        self, loaded: LoadedProcess, invocation: InvokeProcess, webhook: ReceivedWebhook | None
    ) -> None:
        method = getattr(loaded.process, invocation.method, None)
        if method is None:
            raise PluginCodeError(f"Process '{loaded.name}' has no {invocation.method}")
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if invocation.method == "start":
            schema = loaded.declaration.input_schema
            args, kwargs = arguments_for(method, loaded.process.parameters, schema)
        elif webhook is not None:
            request = WebhookRequest(
                body=webhook.body, headers=webhook.headers, query=webhook.query, path=webhook.path
            )
            args = (request,)
        what = f"the {invocation.method} of process '{loaded.name}'"
        paused_until = loaded.plugin.paused_until
        if webhook is not None and paused_until is not None and paused_until > utc_now():
            left = (paused_until - utc_now()).total_seconds()
            raise RateLimitError("The platform wants no calls now", retry_after_seconds=left)
        # A webhook tells of what has happened already: it waits for no turn.
        paced = noting_limits if invocation.method == "receive_webhook" else paced_call
        await paced(self._engine, loaded.plugin, what, method, *args, **kwargs)

    async def _failed(
        self, invocation: InvokeProcess, error: EngineError, loaded: LoadedProcess | None
    ) -> InvocationOutcome:
        """Have a failed call tried again where that is safe, else tell of it."""
        start = invocation.method == "start"
        # Of an earlier try that was cut off it is not known what it did, whatever this one did.
        first = not (loaded.begun if loaded is not None else await self._was_begun(invocation))
        unknown = start and (not first or _unknown(error))
        cut_off = activity.info().attempt == 1 or was_cut_off()
        misleads = cut_off or error.nothing_done
        known = isinstance(error, OutcomeUnknownError | WorkerLostError)
        if start and not first and misleads and not known:
            log.warning("start not looked up", process=invocation.process_id, kind=error.kind)
            unless: EngineError = OutcomeUnknownError(
                "A first try to start the process was cut off; "
                "whether it had an effect on the platform is not known"
            )
        else:
            unless = error
        if not isinstance(error, WorkerLostError):
            delay = self._again(invocation, error, loaded, unknown=unknown)
            if delay is not None:
                if start and first and error.nothing_done:
                    await processes.set_start_back(self._engine.database, invocation.process_id)
                raise again_in(error.kind, delay) if delay else try_again(error)
        told_at_once = first and isinstance(error, PlatformDownError)
        return await self._end_failed(invocation, unless, unknown=unknown and not told_at_once)

    async def _was_begun(self, invocation: InvokeProcess) -> bool:
        async with self._engine.database.read() as session:
            row = await processes.get_process(session, invocation.process_id)
        return row is not None and row.began_at is not None

    def _again(
        self,
        invocation: InvokeProcess,
        error: EngineError,
        loaded: LoadedProcess | None,
        *,
        unknown: bool,
    ) -> float | None:
        """In how many seconds to try again, 0 for the usual pace; None: not at all."""
        retry_after: float = getattr(error, "retry_after_seconds", None) or 0
        tries = activity.info().attempt
        if invocation.method == "receive_webhook":
            # A close does not wait for longer, and looks anew whether it is due.
            pause = min(retry_after, LONGEST_WEBHOOK_PAUSE_SECONDS)
            waits = isinstance(
                error, PluginPausedError | RateLimitError | StateConflictError | UnavailableError
            )
            return pause if waits or tries < MOST_WEBHOOK_TRIES else None
        if isinstance(error, PluginPausedError):
            return None
        if invocation.method == "close" and isinstance(error, StateConflictError):
            return 0
        patient = retry_after <= LONGEST_RETRY_SECONDS
        if error.nothing_done and tries < MOST_TRIES and patient:
            return retry_after
        looks_up = loaded is not None and loaded.declaration.can_find_started
        if unknown and looks_up and tries < MOST_LOOK_UPS:
            # The next try looks for what this one made.
            return LOOK_UP_AFTER_SECONDS
        return None

    async def _end_failed(
        self, invocation: InvokeProcess, error: EngineError, *, unknown: bool
    ) -> InvocationOutcome:
        outcome, items = await self._engine.database.persist(
            lambda session: self._store_failure(session, invocation, error, unknown=unknown)
        )
        record = outcome.record
        if outcome.failure is None:
            log.info("another try has ended well", process=record.id, method=invocation.method)
            await start_deliveries(self._engine, record.community, items)
            return outcome
        log.warning(
            "process invocation failed",
            process=record.id,
            name=record.name,
            method=invocation.method,
            kind=error.kind,
            detail=error.detail,
        )
        await start_deliveries(self._engine, record.community, items)
        return outcome

    async def _store_failure(
        self, session: AsyncSession, invocation: InvokeProcess, error: EngineError, *, unknown: bool
    ) -> tuple[InvocationOutcome, list[str]]:
        row = await lock(session, invocation.process_id)
        done = await invocations.get_invocation(session, invocation.invocation_id)
        if done is not None:
            # A worker that was only stopped has gone on, and was faster.
            outcome = InvocationOutcome(row.record(), done.id if done.error else None)
            return outcome, (done.result or {}).get("items", [])
        items: list[str] = []
        if row.status != COMPLETED and isinstance(error, WorkerLostError):
            row.complete({"code": error.kind, "message": error.detail})
            items = await append_record(session, row)
        elif row.status != COMPLETED and invocation.method == "start":
            row.complete(
                {
                    "code": "start_outcome_unknown" if unknown else "start_failed",
                    "kind": error.kind,
                    "message": error.detail,
                }
            )
            # A start that failed is told by the request's own answer.
            items = await append_record(session, row) if unknown else []
            if error.status == UnavailableError.status:
                await invocations.forget_key(session, row.id)
        if invocation.method == "receive_webhook":
            await self._fail_webhook(session, invocation, error)
        session.add(
            marked(
                row,
                invocation.invocation_id,
                invocation.method,
                result={"items": items},
                error=describe(error),
            )
        )
        return InvocationOutcome(row.record(), invocation.invocation_id), items

    async def _fail_webhook(
        self, session: AsyncSession, invocation: InvokeProcess, error: EngineError
    ) -> None:
        """Show in the journal that a process could not handle a webhook."""
        webhook = await webhooks.get_webhook(session, webhook_id_of(invocation.webhook_id))
        if webhook is not None:
            webhook.status, webhook.handled_at = FAILED, utc_now()
            webhook.error = describe(error) | {"process": invocation.process_id}


def _unknown(error: EngineError) -> bool:
    """Whether ``start`` may have made something on the platform, though it failed."""
    unknown = (OutcomeUnknownError, PlatformDownError, PluginTimeoutError, StateConflictError)
    return isinstance(error, unknown) and not error.nothing_done
