"""A process, loaded for one call of its class; and what the call made of it, stored."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import PluginCodeError, StateConflictError
from engine.invocations.effects import append_record, start_deliveries, store_effects
from engine.invocations.loading import LoadedPlugin, load_plugin, modules_of
from engine.invocations.lost_calls import clear, is_suspect
from engine.messages import COMPLETED, InvocationOutcome, ProcessRecord
from engine.resources import Engine
from engine.sdk.parameters import Parameters
from engine.sdk.process import GovernanceProcess as ProcessObject
from engine.sdk.process import ProcessContext, ProcessSnapshot
from engine.sdk.registry import ProcessDeclaration
from engine.sdk.state import State
from engine.store import invocations, processes
from engine.store.database import utc_now
from engine.store.invocations import DONE, Invocation
from engine.store.processes import GovernanceProcess


@dataclass
class LoadedProcess:
    """A process, ready for one call.

    Attributes:
        row: The process as it was stored.
        plugin: Its plugin instance.
        declaration: What its class declares.
        process: The object that stands for it during the call.
        state: Its own data during the call.
        begun: Whether its ``start`` was begun before.
    """

    row: GovernanceProcess
    plugin: LoadedPlugin
    declaration: ProcessDeclaration
    process: ProcessObject
    state: State
    begun: bool = True

    @property
    def name(self) -> str:
        """``{plugin}.{slug}``."""
        return self.declaration.name

    def is_news(self, snapshot: ProcessSnapshot) -> bool:
        """Whether the record that the workflow and drivers know has changed.

        Args:
            snapshot: What the call made of the process.
        """
        row = self.row
        return snapshot.status == COMPLETED or (
            (row.outcome, row.errors, row.url, row.closing_at)
            != (snapshot.outcome, snapshot.errors, snapshot.url, snapshot.closing_at)
        )

    def had_effects(self, snapshot: ProcessSnapshot) -> bool:
        """Whether there is anything else to store.

        Args:
            snapshot: What the call made of the process.
        """
        shared = self.plugin.context
        return self.had_own_effects(snapshot) or bool(shared.state.changes() or shared.events)

    def had_own_effects(self, snapshot: ProcessSnapshot) -> bool:
        """Whether there is anything else of the process itself to store.

        Args:
            snapshot: What the call made of the process.
        """
        kept = (self.row.title, self.row.correlation_key, self.row.poll_every_seconds)
        return bool(
            kept != (snapshot.title, snapshot.correlation_key, snapshot.poll_every_seconds)
            or snapshot.poll_again_seconds is not None
            or self.state.written()
        )


@dataclass(frozen=True)
class DoneBefore:
    """A call that is not needed.

    Attributes:
        outcome: What it led to, or the record as it stands.
        items: Ids of the outbox items that it left, to be handed out again.
    """

    outcome: InvocationOutcome
    items: list[str]


async def read_record(engine: Engine, process_id: str) -> ProcessRecord:
    """Read a process' record.

    Args:
        engine: What all activities share.
        process_id: The process.

    Returns:
        The record as it stands.
    """
    async with engine.database.read() as session:
        row = await processes.get_process(session, process_id)
    assert row is not None, "a process is stored before its workflow starts"
    return row.record()


async def load_process(
    engine: Engine, process_id: str, invocation_id: str, *, counts_losses: bool = True
) -> LoadedProcess | DoneBefore:
    """Load a process with its plugin instance, if a call of it is needed.

    Args:
        engine: What all activities share.
        process_id: The process.
        invocation_id: The call's mark, and its idempotency key.
        counts_losses: Whether a try that did not note its end was lost with its worker.

    Returns:
        The process, ready for one call; or what is known, if the call was made before or the
        process needs none any more.

    Raises:
        PluginCodeError: Its plugin is not enabled, or this worker does not know its class.
        WorkerLostError: The call was lost with its worker so often that it is not made again.
    """
    async with engine.database.read() as session:
        found = await processes.find_for_call(session, process_id, invocation_id)
        assert found is not None, "a process is stored before its workflow starts"
        row, mark, enabled = found
        if mark is not None:
            outcome = InvocationOutcome(row.record(), mark.id if mark.error else None)
            return DoneBefore(outcome, (mark.result or {}).get("items", []))
        if row.status == COMPLETED:
            return DoneBefore(InvocationOutcome(row.record()), [])
        if enabled is None:
            raise PluginCodeError(f"Plugin '{row.plugin}' is not enabled any more")
        suspect = counts_losses and await is_suspect(engine, invocation_id, enabled)
        plugin = await load_plugin(engine, session, enabled, invocation_id)
    declaration = plugin.declaration.processes.get(row.slug)
    if declaration is None:
        raise PluginCodeError(f"This worker knows no process '{row.name}'")
    plugin.isolated |= suspect
    plugin.context.log = plugin.context.log.bind(process=row.id)
    return as_loaded(plugin, row, declaration)


def as_loaded(
    plugin: LoadedPlugin, row: GovernanceProcess, declaration: ProcessDeclaration
) -> LoadedProcess:
    """Make the object that stands for a process during one call.

    Args:
        plugin: Its plugin instance, loaded.
        row: The process.
        declaration: What its class declares.

    Returns:
        The process, ready for one call.
    """
    context = ProcessContext(
        id=row.id,
        status=row.status,
        # Copies: what plugin code changes in place is found against what was read.
        parameters=Parameters(deepcopy(row.parameters), declaration.input_schema),
        outcome=deepcopy(row.outcome),
        errors=deepcopy(row.errors),
        url=row.url,
        title=row.title,
        correlation_key=row.correlation_key,
        closing_at=row.closing_at,
        poll_every_seconds=row.poll_every_seconds,
        created_at=row.created_at,
        state=State(row.state, modules_of(plugin.declaration)),
    )
    process = declaration.cls(context, plugin.plugin)
    plugin.processes.append(process)
    return LoadedProcess(row, plugin, declaration, process, context.state)


def snapshot_of(engine: Engine, loaded: LoadedProcess) -> ProcessSnapshot:
    """Read off and check what a call made of a process.

    Args:
        engine: What all activities share.
        loaded: The process after the call.

    Returns:
        Plain data.

    Raises:
        PluginCodeError: An attribute or a value of its state cannot be stored, or is too large.
    """
    snapshot = loaded.process.snapshot()
    size = len(json.dumps([snapshot.outcome, snapshot.errors]))
    most = engine.settings.record_max_bytes
    if size > most:
        raise PluginCodeError(
            f"outcome and errors of process '{loaded.name}' are {size} bytes of "
            f"JSON; allowed are {most}"
        )
    loaded.state.written()
    return snapshot


async def commit(
    engine: Engine,
    loaded: LoadedProcess,
    snapshot: ProcessSnapshot,
    mark: str,
    method: str,
    webhooks_left_out: int = 0,
) -> InvocationOutcome:
    """Store what a call did, with the mark that it is done, and hand out what drivers are told.

    Args:
        engine: What all activities share.
        loaded: The process after the call.
        snapshot: What the call made of it.
        mark: The call's mark.
        method: The method that was called.
        webhooks_left_out: How many webhooks it did not wait for.

    Returns:
        The record as it was stored; as it was before, if the process was ended meanwhile.

    Raises:
        StateConflictError: Another call changed the state that this one relied on.
    """

    async def store(session: AsyncSession) -> tuple[ProcessRecord, list[str]]:
        row = await lock(session, loaded.row.id)
        done = await invocations.get_invocation(session, mark)
        if done is not None:
            return row.record(), (done.result or {}).get("items", [])
        if row.status == COMPLETED:
            # It was ended meanwhile: nothing of this call may stand.
            return row.record(), []
        if row.updated_at != loaded.row.updated_at:
            raise StateConflictError("The process was changed by a poll of many meanwhile")
        row.webhooks_left_out += webhooks_left_out
        items = await store_effects(engine, session, loaded.plugin)
        items += await store_change(session, row, snapshot, loaded.state, method)
        session.add(marked(row, mark, method, result={"items": items}))
        return row.record(), items

    record, items = await engine.database.persist(store)
    await clear(engine, mark)
    await start_deliveries(engine, record.community, items)
    return InvocationOutcome(record)


async def end_process(
    engine: Engine, process_id: str, code: str, message: str, webhooks_left_out: int = 0
) -> ProcessRecord:
    """End a process, unless it has ended, and tell its driver why.

    Args:
        engine: What all activities share.
        process_id: The process.
        code: Its ``errors.code``.
        message: Its ``errors.message``.
        webhooks_left_out: How many webhooks waited to be handled by it.

    Returns:
        The record.
    """

    async def store(session: AsyncSession) -> tuple[ProcessRecord, list[str]]:
        row = await lock(session, process_id)
        if row.status == COMPLETED:
            return row.record(), []
        row.webhooks_left_out += webhooks_left_out
        row.complete({"code": code, "message": message})
        return row.record(), await append_record(session, row)

    record, items = await engine.database.persist(store)
    await start_deliveries(engine, record.community, items)
    return record


async def store_change(
    session: AsyncSession,
    row: GovernanceProcess,
    snapshot: ProcessSnapshot,
    state: State,
    method: str,
) -> list[str]:
    """Store what a call made of a process, and what its driver is told of it.

    Args:
        session: A session in a transaction that holds the process' lock.
        row: The process.
        snapshot: What the call made of it.
        state: Its own data after the call.
        method: The method that was called.

    Returns:
        Ids of the outbox items that are to be delivered.
    """
    told = _tells_driver(row, snapshot, method)
    _apply(row, snapshot, state)
    return await append_record(session, row) if told else []


async def lock(session: AsyncSession, process_id: str) -> GovernanceProcess:
    """Read a process, with other writers of it waiting.

    Args:
        session: A session in a transaction.
        process_id: The process.

    Returns:
        The process.
    """
    row = await processes.lock_process(session, process_id)
    assert row is not None, "processes are never deleted"
    return row


def marked(
    row: GovernanceProcess, invocation_id: str, method: str, *, result: Any, error: Any = None
) -> Invocation:
    """Make the mark that a call is done.

    Args:
        row: The process.
        invocation_id: The mark's id.
        method: The method that was called.
        result: What it led to.
        error: Its error, if it failed.

    Returns:
        The mark, to be stored with what the call did.
    """
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


def again_at(snapshot: ProcessSnapshot) -> datetime | None:
    """When a process chose to be polled next, if it did.

    Args:
        snapshot: What a call made of the process.
    """
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
    row.poll_again_at = again_at(snapshot)
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
