"""A process, loaded for one call of its class; and what a call made of it, stored."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import PluginCodeError
from engine.invocations.children import signal_parent
from engine.invocations.effects import (
    FollowUp,
    append_record,
    end_children,
    hand_over,
    start_processes,
)
from engine.invocations.loading import LoadedPlugin, modules_of
from engine.messages import COMPLETED, ProcessRecord
from engine.resources import Engine
from engine.sdk.children import Children
from engine.sdk.parameters import Parameters, fill_defaults
from engine.sdk.process import GovernanceProcess as ProcessObject
from engine.sdk.process import ProcessContext, ProcessSnapshot
from engine.sdk.registry import ProcessDeclaration
from engine.sdk.state import State
from engine.store import processes
from engine.store.database import utc_now
from engine.store.processes import GovernanceProcess

log = structlog.get_logger()

# What the workflow and drivers know of a process; the rest of it is the engine's own.
NEWS = ("outcome", "errors", "url", "closing_at")
OWN = ("title", "correlation_key", "poll_every_seconds")


@dataclass
class LoadedProcess:
    """A process, ready for one call."""

    row: GovernanceProcess
    plugin: LoadedPlugin
    declaration: ProcessDeclaration
    process: ProcessObject
    state: State

    @property
    def name(self) -> str:
        """``{plugin}.{slug}``."""
        return self.declaration.name

    @property
    def starts_processes(self) -> bool:
        """Whether the call started other processes."""
        return bool(self.process._children.asked)

    def is_news(self, snapshot: ProcessSnapshot) -> bool:
        """Whether the record that the workflow and drivers know has changed."""
        return snapshot.status == COMPLETED or _differ(self.row, snapshot, NEWS)

    def had_effects(self, snapshot: ProcessSnapshot) -> bool:
        """Whether there is anything else to store."""
        shared = self.plugin.context
        return self.had_own_effects(snapshot) or bool(shared.state.changes() or shared.events)

    def had_own_effects(self, snapshot: ProcessSnapshot) -> bool:
        """Whether there is anything else of the process itself to store."""
        return bool(
            _differ(self.row, snapshot, OWN)
            or snapshot.poll_again_seconds is not None
            or self.state.written()
            or snapshot.children
        )


def _differ(row: GovernanceProcess, snapshot: ProcessSnapshot, names: tuple[str, ...]) -> bool:
    return any(getattr(row, name) != getattr(snapshot, name) for name in names)


def load_process(
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
    # Copies: what plugin code changes in place is found against what was read.
    stored = {f.name: deepcopy(getattr(row, f.name)) for f in fields(ProcessContext)}
    stored["children"] = children_of(plugin, row)
    # The class may have got new defaults since.
    schema = declaration.input_schema
    stored["parameters"] = Parameters.stored(fill_defaults(row.parameters, schema or {}), schema)
    stored["state"] = State(row.state, modules_of(plugin.declaration))
    context = ProcessContext(**stored)
    process = declaration.cls(context, plugin.plugin)
    plugin.processes.append(process)
    return LoadedProcess(row, plugin, declaration, process, context.state)


def children_of(plugin: LoadedPlugin, row: GovernanceProcess) -> Children:
    """The processes that a call of a process starts; none yet."""
    # Calls of many that are polled together have one name.
    call = f"{plugin.context.idempotency_key} {row.id}"
    return Children(call, row.level, row.children, plugin.context.child_limits)


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


@dataclass(frozen=True)
class ChangeProcess:
    """What a call made of a process.

    Attributes:
        loaded: The process after the call.
        snapshot: What the call made of it.
        starts: Whether the call was its ``start``, whose outcome the request's own answer gives.
    """

    loaded: LoadedProcess
    snapshot: ProcessSnapshot
    starts: bool = False

    @property
    def changes_anything(self) -> bool:
        """Whether there is anything of the process to store."""
        loaded, snapshot = self.loaded, self.snapshot
        return loaded.is_news(snapshot) or loaded.had_own_effects(snapshot)

    async def store(self, session: AsyncSession, row: GovernanceProcess) -> FollowUp:
        """Store it, with the record for the driver if that has changed.

        Args:
            session: A session in a transaction that holds the process' lock.
            row: The process.

        Returns:
            What is to be delivered, and the processes that this starts and ends.

        Raises:
            PluginCodeError: A process that it starts cannot be; nothing may be stored.
        """
        snapshot = self.snapshot
        completes = snapshot.status == COMPLETED
        # The start of a child is no request's answer.
        is_answered = self.starts and row.parent_id is None
        is_reported = completes or (not is_answered and snapshot.outcome != row.outcome)
        if row.correlation_key is not None and snapshot.correlation_key is None:
            # Signals by its old key may still wait in its workflow: it goes on by signals.
            row.webhooks_signalled += 1
        for name in (*NEWS, *OWN):
            setattr(row, name, getattr(snapshot, name))
        row.poll_again_at = again_at(snapshot)
        changes = self.loaded.state.written()
        if changes:
            kept = {key: value for key, value in row.state.items() if key not in changes}
            row.state = kept | {key: value for key, value in changes.items() if value is not None}
        row.updated_at = utc_now()
        most = self.loaded.plugin.context.child_limits.most
        follow_up = await start_processes(session, row, snapshot.children, most)
        if completes:
            row.complete()
            follow_up += await end_children(session, row)
        else:
            row.status = "pending"
        return FollowUp(await append_record(session, row) if is_reported else []) + follow_up


def again_at(snapshot: ProcessSnapshot) -> datetime | None:
    """When a process chose to be polled next, if it did."""
    if snapshot.poll_again_seconds is None:
        return None
    return utc_now() + timedelta(seconds=snapshot.poll_again_seconds)


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


async def end_process(
    engine: Engine, process_id: str, code: str, message: str, webhooks_left_out: int = 0
) -> ProcessRecord:
    """End a process, unless it has ended, and send its driver why.

    Args:
        engine: What all activities share.
        process_id: The process.
        code: Its ``errors.code``.
        message: Its ``errors.message``.
        webhooks_left_out: How many webhooks waited to be handled by it.

    Returns:
        The record.
    """

    async def store(session: AsyncSession) -> tuple[GovernanceProcess, FollowUp]:
        row = await lock(session, process_id)
        if row.status == COMPLETED:
            return row, FollowUp()
        row.webhooks_left_out += webhooks_left_out
        return row, await complete(session, row, {"code": code, "message": message})

    row, follow_up = await engine.database.persist(store)
    await hand_over(engine, row.community, follow_up)
    await signal_parent(engine, row)
    return row.record()


async def complete(
    session: AsyncSession, row: GovernanceProcess, errors: dict[str, str]
) -> FollowUp:
    """End a process that cannot go on, with the children that end with it.

    Args:
        session: A session in a transaction that holds the process' lock.
        row: The process.
        errors: What went wrong.

    Returns:
        What is to be delivered, and which processes were ended.
    """
    row.complete(errors)
    return FollowUp(await append_record(session, row)) + await end_children(session, row)
