"""Runs the methods of governance processes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from engine.activities.heartbeat import (
    before_plugin_code,
    first_try,
    try_again,
    with_heartbeat,
)
from engine.activities.invocation import hand_out, tell_of_process
from engine.activities.pacing import noting_limits, paced_call
from engine.activities.process_calls import (
    DoneBefore,
    LoadedProcess,
    commit,
    load_process,
    lock,
    marked,
    read_record,
    snapshot_of,
)
from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PlatformDownError,
    PluginCodeError,
    PluginTimeoutError,
    StateConflictError,
    describe,
)
from engine.messages import (
    COMPLETED,
    InvocationOutcome,
    InvokeProcess,
    PollTogether,
    ProcessRecord,
    ReadProcess,
)
from engine.resources import Engine
from engine.sdk.arguments import arguments_for
from engine.sdk.registry import ProcessDeclaration
from engine.sdk.webhook import WebhookRequest
from engine.store import invocations, webhooks
from engine.store.database import utc_now
from engine.store.webhooks import FAILED, webhook_id_of

log = structlog.get_logger()

MOST_TRIES = 3
MOST_WEBHOOK_TRIES = 5
LONGEST_RETRY_SECONDS = 5.0
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

    async def _invoke(self, invocation: InvokeProcess) -> InvocationOutcome:
        try:
            with before_plugin_code():
                loaded = await load_process(
                    self._engine, invocation.process_id, invocation.invocation_id
                )
        except EngineError as error:
            return await self._failed(invocation, error, None)
        if isinstance(loaded, DoneBefore):
            await hand_out(self._engine, loaded.outcome.record.community, loaded.items)
            return loaded.outcome
        try:
            if invocation.method == "start" and not first_try():
                await self._start_again(loaded, invocation)
            else:
                await self._call(loaded, invocation)
            snapshot = snapshot_of(self._engine, loaded)
            outcome = await commit(
                self._engine, loaded, snapshot, invocation.invocation_id, invocation.method
            )
        except EngineError as error:
            return await self._failed(invocation, error, loaded.declaration)
        if loaded.declaration.polls_together and invocation.method == "start":
            row = loaded.row
            poll = PollTogether(row.community, row.plugin, row.slug, row.instance_id)
            await self._engine.temporal.background.poll_together(poll)
        log.info(
            "process invoked",
            process=invocation.process_id,
            community=outcome.record.community,
            name=outcome.record.name,
            method=invocation.method,
            status=outcome.record.status,
        )
        return outcome

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
            self._engine, loaded.plugin, what, process.find_started, process.parameters
        )
        if not isinstance(found, bool):
            raise PluginCodeError(f"{what} returned {found!r:.80}; allowed are True and False")
        log.info("start looked up", process=invocation.process_id, found=found)
        if not found:
            await self._call(loaded, invocation)

    async def _call(self, loaded: LoadedProcess, invocation: InvokeProcess) -> None:
        method = getattr(loaded.process, invocation.method)
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if invocation.method == "start":
            schema = loaded.declaration.input_schema
            args, kwargs = arguments_for(method, loaded.process.parameters, schema)
        elif invocation.method == "receive_webhook":
            args = (await self._webhook(invocation.webhook_id),)
        what = f"the {invocation.method} of process '{loaded.name}'"
        # A webhook tells of what has happened already: it waits for no turn.
        paced = noting_limits if invocation.method == "receive_webhook" else paced_call
        await paced(self._engine, loaded.plugin, what, method, *args, **kwargs)

    async def _webhook(self, webhook_id: str | None) -> WebhookRequest:
        async with self._engine.database.read() as session:
            row = await webhooks.get_webhook(session, webhook_id_of(webhook_id))
        if row is None:
            raise PluginCodeError("The webhook is past its retention")
        return WebhookRequest(body=row.body, headers=row.headers, query=row.query, path=row.path)

    async def _failed(
        self,
        invocation: InvokeProcess,
        error: EngineError,
        declaration: ProcessDeclaration | None,
    ) -> InvocationOutcome:
        retry_after: float | None = getattr(error, "retry_after_seconds", None)
        tries = activity.info().attempt
        if invocation.method == "receive_webhook" and tries < MOST_WEBHOOK_TRIES:
            raise try_again(error, retry_after)
        if invocation.method == "close" and isinstance(error, StateConflictError):
            raise try_again(error)
        patient = (retry_after or 0) <= LONGEST_RETRY_SECONDS
        if error.nothing_done and tries < MOST_TRIES and patient:
            raise try_again(error, retry_after)
        looks_up = declaration is not None and declaration.can_find_started
        if invocation.method == "start" and looks_up and tries < MOST_LOOK_UPS and _unknown(error):
            # Not marked as "nothing done": the next try looks for what this one made.
            raise ApplicationError(
                error.kind,
                type=error.kind,
                category=ApplicationErrorCategory.BENIGN,
                next_retry_delay=timedelta(seconds=LOOK_UP_AFTER_SECONDS),
            )
        record, items = await self._engine.database.persist(
            lambda session: self._store_failure(session, invocation, error)
        )
        log.warning(
            "process invocation failed",
            process=record.id,
            name=record.name,
            method=invocation.method,
            kind=error.kind,
            detail=error.detail,
        )
        await hand_out(self._engine, record.community, items)
        return InvocationOutcome(record, invocation.invocation_id)

    async def _store_failure(
        self, session: AsyncSession, invocation: InvokeProcess, error: EngineError
    ) -> tuple[ProcessRecord, list[str]]:
        row = await lock(session, invocation.process_id)
        done = await invocations.get_invocation(session, invocation.invocation_id)
        if done is not None:
            return row.record(), (done.result or {}).get("items", [])
        items: list[str] = []
        if invocation.method == "start" and row.status != COMPLETED:
            told_at_once = first_try() and isinstance(error, PlatformDownError)
            unknown = _unknown(error) and not told_at_once
            row.complete(
                {
                    "code": "start_outcome_unknown" if unknown else "start_failed",
                    "kind": error.kind,
                    "message": error.detail,
                }
            )
            # A start that failed is told by the request's own answer.
            items = await tell_of_process(session, row) if unknown else []
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
        return row.record(), items

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
    return not first_try() or (isinstance(error, unknown) and not error.nothing_done)
