"""Runs the methods of governance processes."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
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
from engine.activities.invocation import (
    LoadedPlugin,
    hand_out,
    load_plugin,
    modules_of,
    store_effects,
    tell_of_process,
)
from engine.activities.pacing import noting_limits, paced_call, wait_for_poll
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
    PollProcess,
    ProcessRecord,
    ReadProcess,
)
from engine.resources import Engine
from engine.sdk.arguments import arguments_for
from engine.sdk.parameters import Parameters
from engine.sdk.process import GovernanceProcess as ProcessObject
from engine.sdk.process import ProcessContext, ProcessSnapshot
from engine.sdk.registry import ProcessDeclaration
from engine.sdk.state import State
from engine.sdk.webhook import WebhookRequest
from engine.store import invocations, processes, webhooks
from engine.store.database import utc_now
from engine.store.invocations import DONE, Invocation
from engine.store.processes import GovernanceProcess
from engine.store.webhooks import FAILED, webhook_id_of

log = structlog.get_logger()

MOST_TRIES = 3
MOST_WEBHOOK_TRIES = 5
LONGEST_RETRY_SECONDS = 5.0
MOST_LOOK_UPS = 4
LOOK_UP_AFTER_SECONDS = 5.0
POLL_JITTER = 0.1


@dataclass
class _Loaded:
    """A process, ready for one call."""

    row: GovernanceProcess
    plugin: LoadedPlugin
    declaration: ProcessDeclaration
    process: ProcessObject
    state: State


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

    @activity.defn(name="poll_process")
    async def poll_process(self, poll: PollProcess) -> InvocationOutcome:
        """Call ``update`` now and then; fails, to be retried, as long as there is no news.

        Args:
            poll: Which process.

        Returns:
            The record, once it has changed.

        Raises:
            ApplicationError: There is no news yet.
        """
        return await with_heartbeat(self._poll(poll))

    @activity.defn(name="read_process")
    async def read_process(self, read: ReadProcess) -> InvocationOutcome:
        """Give the record as it stands.

        Args:
            read: Which process.

        Returns:
            The record.
        """
        async with self._engine.database.read() as session:
            return InvocationOutcome((await _get(session, read.process_id)).record())

    async def _invoke(self, invocation: InvokeProcess) -> InvocationOutcome:
        with before_plugin_code():
            done = await self._done_before(invocation.process_id, invocation.invocation_id)
        if done is not None:
            return done
        declaration = None
        try:
            with before_plugin_code():
                loaded = await self._load(invocation.process_id, invocation.invocation_id)
            declaration = loaded.declaration
            if invocation.method == "start" and not first_try():
                await self._start_again(loaded, invocation)
            else:
                await self._call(loaded, invocation)
            snapshot = self._snapshot(loaded)
            outcome = await self._commit(
                loaded, snapshot, invocation.invocation_id, invocation.method
            )
        except EngineError as error:
            return await self._failed(invocation, error, declaration)
        log.info(
            "process invoked",
            process=invocation.process_id,
            community=outcome.record.community,
            name=outcome.record.name,
            method=invocation.method,
            status=outcome.record.status,
        )
        return outcome

    async def _start_again(self, loaded: _Loaded, invocation: InvokeProcess) -> None:
        """Look for what a first try of ``start`` made, and start only if there is nothing."""
        if not loaded.declaration.can_find_started:
            raise OutcomeUnknownError(
                "A first try to start the process was cut off; "
                "whether it had an effect on the platform is not known"
            )
        process: Any = loaded.process
        what = f"the find_started of process '{loaded.declaration.name}'"
        found = await paced_call(
            self._engine, loaded.plugin, what, process.find_started, process.parameters
        )
        if not isinstance(found, bool):
            raise PluginCodeError(f"{what} returned {found!r:.80}; allowed are True and False")
        log.info("start looked up", process=invocation.process_id, found=found)
        if not found:
            await self._call(loaded, invocation)

    async def _poll(self, poll: PollProcess) -> InvocationOutcome:
        done = await self._done_before(poll.process_id, poll.invocation_id)
        if done is not None:
            return done
        loaded = await self._load(poll.process_id, poll.invocation_id)
        if activity.info().attempt == 1:
            raise self._no_news(loaded)
        turn = await wait_for_poll(self._engine, loaded.plugin)
        if turn > timedelta(0):
            raise _poll_again(turn.total_seconds())
        before = loaded.row.record()
        try:
            what = f"the update of process '{loaded.declaration.name}'"
            process: Any = loaded.process
            await noting_limits(self._engine, loaded.plugin, what, process.update)
            snapshot = self._snapshot(loaded)
        except EngineError as error:
            log.warning(
                "poll failed",
                process=poll.process_id,
                name=before.name,
                kind=error.kind,
                detail=error.detail,
            )
            raise self._no_news(loaded, getattr(error, "retry_after_seconds", None)) from None
        news = _is_news(loaded.row, snapshot)
        if not news and not _had_effects(loaded, snapshot):
            raise self._no_news(loaded)
        # Without news the activity goes on polling, so it must not be marked as done.
        mark = poll.invocation_id
        if not news:
            mark = f"{mark}#{activity.info().attempt}"
        try:
            outcome = await self._commit(loaded, snapshot, mark, "update")
        except StateConflictError:
            raise self._no_news(loaded) from None
        if not news:
            loaded.row.poll_again_at = _again_at(snapshot)
            raise self._no_news(loaded)
        log.info(
            "poll brought news",
            process=poll.process_id,
            community=before.community,
            name=before.name,
            status=outcome.record.status,
        )
        return outcome

    async def _done_before(self, process_id: str, invocation_id: str) -> InvocationOutcome | None:
        """The outcome, if this invocation is done or the process needs none any more."""
        async with self._engine.database.read() as session:
            row = await _get(session, process_id)
            mark = await invocations.get_invocation(session, invocation_id)
        if mark is not None:
            await hand_out(self._engine, row.community, (mark.result or {}).get("items", []))
            return InvocationOutcome(row.record(), mark.id if mark.error else None)
        return InvocationOutcome(row.record()) if row.status == COMPLETED else None

    async def _load(self, process_id: str, invocation_id: str) -> _Loaded:
        async with self._engine.database.read() as session:
            row = await _get(session, process_id)
            plugin = await load_plugin(
                self._engine, session, row.community, row.plugin, invocation_id
            )
            if plugin is None:
                raise PluginCodeError(f"Plugin '{row.plugin}' is not enabled any more")
        declaration = plugin.declaration.processes.get(row.slug)
        if declaration is None:
            raise PluginCodeError(f"This worker knows no process '{row.name}'")
        context = ProcessContext(
            id=row.id,
            status=row.status,
            parameters=Parameters(row.parameters, declaration.input_schema),
            outcome=row.outcome,
            errors=row.errors,
            url=row.url,
            title=row.title,
            correlation_key=row.correlation_key,
            closing_at=row.closing_at,
            poll_every_seconds=row.poll_every_seconds,
            created_at=row.created_at,
            state=State(row.state, modules_of(plugin.declaration)),
        )
        plugin.context.log = plugin.context.log.bind(process=row.id)
        process = declaration.cls(context, plugin.plugin)
        return _Loaded(row, plugin, declaration, process, context.state)

    async def _call(self, loaded: _Loaded, invocation: InvokeProcess) -> None:
        method = getattr(loaded.process, invocation.method)
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if invocation.method == "start":
            schema = loaded.declaration.input_schema
            args, kwargs = arguments_for(method, loaded.process.parameters, schema)
        elif invocation.method == "receive_webhook":
            args = (await self._webhook(invocation.webhook_id),)
        what = f"the {invocation.method} of process '{loaded.declaration.name}'"
        # A webhook tells of what has happened already: it waits for no turn.
        paced = noting_limits if invocation.method == "receive_webhook" else paced_call
        await paced(self._engine, loaded.plugin, what, method, *args, **kwargs)

    async def _webhook(self, webhook_id: str | None) -> WebhookRequest:
        async with self._engine.database.read() as session:
            row = await webhooks.get_webhook(session, webhook_id_of(webhook_id))
        if row is None:
            raise PluginCodeError("The webhook is past its retention")
        return WebhookRequest(body=row.body, headers=row.headers, query=row.query, path=row.path)

    def _snapshot(self, loaded: _Loaded) -> ProcessSnapshot:
        snapshot = loaded.process.snapshot()
        size = len(json.dumps([snapshot.outcome, snapshot.errors]))
        most = self._engine.settings.record_max_bytes
        if size > most:
            raise PluginCodeError(
                f"outcome and errors of process '{loaded.declaration.name}' are {size} bytes of "
                f"JSON; allowed are {most}"
            )
        loaded.state.written()
        return snapshot

    async def _commit(
        self, loaded: _Loaded, snapshot: ProcessSnapshot, mark: str, method: str
    ) -> InvocationOutcome:
        async def store(session: AsyncSession) -> tuple[ProcessRecord, list[str]]:
            row = await _lock(session, loaded.row.id)
            done = await invocations.get_invocation(session, mark)
            if done is not None:
                return row.record(), (done.result or {}).get("items", [])
            if row.status == COMPLETED and method == "start":
                return await self._store_withdrawn(session, row, snapshot, mark)
            if row.status == COMPLETED:
                # It was ended meanwhile, its plugin disabled: nothing of this call may stand.
                return row.record(), []
            told = _tells_driver(row, snapshot, method)
            _apply(row, snapshot, loaded.state)
            items = await store_effects(self._engine, session, loaded.plugin)
            if told:
                items += await tell_of_process(session, row)
            session.add(_mark(row, mark, method, result={"items": items}))
            return row.record(), items

        record, items = await self._engine.database.persist(store)
        await hand_out(self._engine, record.community, items)
        return InvocationOutcome(record)

    async def _store_withdrawn(
        self, session: AsyncSession, row: GovernanceProcess, snapshot: ProcessSnapshot, mark: str
    ) -> tuple[ProcessRecord, list[str]]:
        """Tell of a start that ended after its request was given up, or its plugin disabled."""
        row.url = snapshot.url
        row.errors = {
            "code": "start_outcome_unknown",
            "message": "The process was ended while its start was under way; "
            "what it made on the platform may still be there",
        }
        row.updated_at = utc_now()
        items = await tell_of_process(session, row)
        session.add(_mark(row, mark, "start", result={"items": items}))
        return row.record(), items

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
        row = await _lock(session, invocation.process_id)
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
            _mark(
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

    def _no_news(self, loaded: _Loaded, at_least: float | None = None) -> ApplicationError:
        """The failure that has Temporal poll again when the next poll is due."""
        every = (
            loaded.row.poll_every_seconds
            or loaded.declaration.poll_every_seconds
            or self._engine.settings.poll_interval_seconds
        )
        # Spread, so that processes started together are not polled together.
        seconds = every * random.uniform(1 - POLL_JITTER, 1)  # noqa: S311
        chosen = loaded.row.poll_again_at
        if chosen is not None and chosen > utc_now():
            seconds = (chosen - utc_now()).total_seconds()
        return _poll_again(max(seconds, at_least or 0))


def _poll_again(seconds: float) -> ApplicationError:
    return ApplicationError(
        "no news",
        type="no_news",
        category=ApplicationErrorCategory.BENIGN,
        next_retry_delay=timedelta(seconds=seconds),
    )


def _unknown(error: EngineError) -> bool:
    """Whether ``start`` may have made something on the platform, though it failed."""
    unknown = (OutcomeUnknownError, PlatformDownError, PluginTimeoutError, StateConflictError)
    return not first_try() or (isinstance(error, unknown) and not error.nothing_done)


async def _lock(session: AsyncSession, process_id: str) -> GovernanceProcess:
    row = await processes.lock_process(session, process_id)
    assert row is not None, "processes are never deleted"
    return row


async def _get(session: AsyncSession, process_id: str) -> GovernanceProcess:
    row = await processes.get_process(session, process_id)
    assert row is not None, "a process is stored before its workflow starts"
    return row


def _mark(
    row: GovernanceProcess, invocation_id: str, method: str, *, result: Any, error: Any = None
) -> Invocation:
    return Invocation(
        id=invocation_id,
        community=row.community,
        instance_id=row.instance_id,
        plugin=row.plugin,
        target=f"{row.slug}#{method}",
        status=DONE,
        result=result,
        error=error,
        finished_at=utc_now(),
    )


def _again_at(snapshot: ProcessSnapshot) -> datetime | None:
    if snapshot.poll_again_seconds is None:
        return None
    return utc_now() + timedelta(seconds=snapshot.poll_again_seconds)


def _apply(row: GovernanceProcess, snapshot: ProcessSnapshot, state: State) -> None:
    row.outcome = snapshot.outcome
    row.errors = snapshot.errors
    row.url = snapshot.url
    row.title = snapshot.title
    row.correlation_key = snapshot.correlation_key
    row.closing_at = snapshot.closing_at
    row.poll_every_seconds = snapshot.poll_every_seconds
    row.poll_again_at = _again_at(snapshot)
    changes = state.written()
    if changes:
        kept = {key: value for key, value in row.state.items() if changes.get(key, "") is not None}
        row.state = kept | {key: value for key, value in changes.items() if value is not None}
    row.updated_at = utc_now()
    if snapshot.status == COMPLETED:
        row.complete()
    else:
        row.status = "pending"


def _tells_driver(row: GovernanceProcess, snapshot: ProcessSnapshot, method: str) -> bool:
    """Whether the driver is called back: on completion, and on a new outcome after ``start``."""
    if snapshot.status == COMPLETED:
        return True
    return method != "start" and snapshot.outcome != row.outcome


def _is_news(row: GovernanceProcess, snapshot: ProcessSnapshot) -> bool:
    """Whether the record that the workflow and drivers know has changed."""
    return snapshot.status == COMPLETED or (
        (row.outcome, row.errors, row.url, row.closing_at)
        != (snapshot.outcome, snapshot.errors, snapshot.url, snapshot.closing_at)
    )


def _had_effects(loaded: _Loaded, snapshot: ProcessSnapshot) -> bool:
    """Whether there is anything else to store."""
    row = loaded.row
    kept = (row.title, row.correlation_key, row.poll_every_seconds)
    return bool(
        kept != (snapshot.title, snapshot.correlation_key, snapshot.poll_every_seconds)
        or snapshot.poll_again_seconds is not None
        or loaded.state.written()
        or loaded.plugin.context.state.changes()
        or loaded.plugin.context.events
    )
