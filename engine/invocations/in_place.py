"""Webhooks without a key, handled in place: by each pending process that they may concern.

The tutorial's own pattern has no key, so a webhook goes to every pending process of its instance,
and concerns one of them at most. Their ``receive_webhook`` is called one after the other in one
thread, many to a transaction; a call that changes nothing is not stored, and costs nothing more.
Whatever stands in the way of that (another call changed the process meanwhile, or it raised) leaves
the process to its workflow, which handles the webhook as any other.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from cachetools import LRUCache
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import EngineError, PluginCodeError
from engine.invocations.effects import Effects, FollowUp, effects_of, hand_over
from engine.invocations.loading import LoadedPlugin, load_plugin, modules_of
from engine.invocations.pacing import call_at_once
from engine.invocations.process import (
    ChangeProcess,
    LoadedProcess,
    children_of,
    lock,
    snapshot_of,
)
from engine.invocations.receiver import request_of
from engine.messages import COMPLETED, ProcessRecord
from engine.resources import Engine
from engine.sdk.parameters import Parameters, fill_defaults
from engine.sdk.process import ProcessContext
from engine.sdk.registry import ProcessDeclaration, Registry
from engine.sdk.state import State
from engine.sdk.webhook import WebhookRequest
from engine.store import communities, invocations, processes
from engine.store.database import utc_now
from engine.store.invocations import mark_of
from engine.store.processes import Concerned, GovernanceProcess
from engine.store.webhooks import ReceivedWebhook

log = structlog.get_logger()

# Characters of what processes hold, kept from one webhook to the next.
MOST_KNOWN = 16_000_000
AT_ONCE = 500
STORED_AT_ONCE = 100
# What is left when this part of a call's time is over goes to the workflows.
MOST_OF_THE_TIME = 0.5


@dataclass(frozen=True)
class _Known:
    """A process as it was last read, ready to be made into objects."""

    row: GovernanceProcess
    parameters: str
    outcome: str
    errors: str

    @classmethod
    def of(cls, row: GovernanceProcess) -> _Known:
        """Keep a process that was read."""
        declared = Registry.plugins[row.plugin].processes[row.slug]
        parameters = fill_defaults(row.parameters, declared.input_schema or {})
        return cls(row, *map(json.dumps, (parameters, row.outcome, row.errors)))

    @property
    def size(self) -> int:
        """About how many characters it holds."""
        kept = sum(map(len, self.row.state.values()))
        return 500 + len(self.parameters) + len(self.outcome) + len(self.errors) + kept


_known: LRUCache[str, _Known] = LRUCache(MOST_KNOWN, getsizeof=lambda known: known.size)


@dataclass
class _Batch:
    """Calls in one thread, and how far they came; read also while a call hangs."""

    plugin: LoadedPlugin
    # Which modules' classes its state may hold.
    allowed: Callable[[str], bool]
    request: WebhookRequest
    reference: str
    # When to stop, on the monotonic clock.
    until: float
    # How many calls have ended.
    handled: int = 0
    changed: list[LoadedProcess] = field(default_factory=list)
    # Whether the last call changed what the instance's calls share.
    shared: bool = False
    # Set when nobody waits for the batch any more.
    over: bool = False

    def next(self, known: _Known) -> LoadedProcess | None:
        """Make the next process' object; None when it is time to stop."""
        if self.over or self.shared or time.monotonic() > self.until:
            return None
        self.plugin.context.idempotency_key = f"{known.row.id}:{self.reference}"
        return _object_of(self, known)

    def note(self, loaded: LoadedProcess) -> None:
        """Note that a call has come to its end."""
        context = self.plugin.context
        self.shared = bool(context.events or context.state.changes())
        if self.shared or not _is_unchanged(loaded):
            self.changed.append(loaded)
        self.handled += 1

    def run(self, some: Sequence[_Known]) -> None:
        """Call ``receive_webhook`` of each."""
        for known in some:
            loaded = self.next(known)
            if loaded is None:
                return
            process: Any = loaded.process
            process.receive_webhook(self.request)
            self.note(loaded)

    async def run_async(self, some: Sequence[_Known]) -> None:
        """Call ``async def receive_webhook`` of each."""
        for known in some:
            loaded = self.next(known)
            if loaded is None:
                return
            process: Any = loaded.process
            await process.receive_webhook(self.request)
            self.note(loaded)


def _object_of(batch: _Batch, known: _Known) -> LoadedProcess:
    """The object that stands for a process during the call."""
    plugin, row = batch.plugin, known.row
    declaration = plugin.declaration.processes[row.slug]
    context = ProcessContext(
        id=row.id,
        status=row.status,
        parameters=Parameters.stored(json.loads(known.parameters), declaration.input_schema),
        outcome=json.loads(known.outcome),
        errors=json.loads(known.errors),
        url=row.url,
        title=row.title,
        correlation_key=row.correlation_key,
        closing_at=row.closing_at,
        poll_every_seconds=row.poll_every_seconds,
        created_at=row.created_at,
        state=State(row.state, batch.allowed),
        children=children_of(plugin, row),
    )
    process = declaration.cls(context, plugin.plugin)
    return LoadedProcess(row, plugin, declaration, process, context.state)


def _is_unchanged(loaded: LoadedProcess) -> bool:
    """Whether a call left its process unchanged, without the cost of a snapshot."""
    process, row = loaded.process, loaded.row
    return (
        process.status == row.status
        and process.outcome == row.outcome
        and process.errors == row.errors
        and process.url == row.url
        and process.title == row.title
        and process.correlation_key is None
        and process.closing_at == row.closing_at
        and process.__dict__.get("poll_every") == row.poll_every_seconds
        and process.poll_again_in is None
        and not loaded.state.written()
        and not loaded.starts_processes
    )


async def handle_in_place(
    engine: Engine, webhook: ReceivedWebhook, instance_id: str, free: Sequence[Concerned]
) -> list[str]:
    """Have a webhook handled by processes between whose calls and it nothing stands.

    Args:
        engine: What all activities share.
        webhook: The webhook.
        instance_id: The plugin instance.
        free: The processes, of any classes that receive webhooks.

    Returns:
        Ids of those that are left to their workflows.
    """
    left: list[str] = []
    for first in range(0, len(free), AT_ONCE):
        some = free[first : first + AT_ONCE]
        known = await _read(engine, some)
        left += [process.id for process in some if process.id not in known]
        by_class: dict[str, list[_Known]] = {}
        for item in known.values():
            by_class.setdefault(item.row.slug, []).append(item)
        for one_class in by_class.values():
            left += await _handle_class(engine, webhook, instance_id, one_class)
    return left


async def _read(engine: Engine, some: Sequence[Concerned]) -> dict[str, _Known]:
    """The processes as they are; those that have not changed since they were read are known."""
    found, unknown = {}, []
    for process in some:
        known = _known.get(process.id)
        if known is not None and known.row.updated_at == process.updated_at:
            found[process.id] = known
        else:
            unknown.append(process.id)
    if unknown:
        async with engine.database.read() as session:
            rows = await processes.get_processes(session, unknown)
        for row in rows:
            known = found[row.id] = _Known.of(row)
            if known.size <= MOST_KNOWN // AT_ONCE:
                _known[row.id] = known
    return found


async def _handle_class(
    engine: Engine, webhook: ReceivedWebhook, instance_id: str, some: Sequence[_Known]
) -> list[str]:
    """Handle a webhook by processes of one class; gives the ids of those that are left."""
    began, seconds = time.monotonic(), engine.settings.invocation_timeout_seconds
    until = began + seconds * MOST_OF_THE_TIME
    left: list[str] = []
    position = 0
    while position < len(some) and time.monotonic() <= until:
        batch = await _loaded(engine, webhook, instance_id, until)
        if batch is None:
            break
        rest = some[position:]
        declaration = batch.plugin.declaration.processes[rest[0].row.slug]
        failed = not await _call(engine, batch, declaration, rest)
        left += await _store(engine, batch, webhook)
        position += batch.handled
        if failed and position < len(some):
            # Its workflow says what went wrong, and tries again.
            left.append(some[position].row.id)
            position += 1
    return left + [known.row.id for known in some[position:]]


async def _loaded(
    engine: Engine, webhook: ReceivedWebhook, instance_id: str, until: float
) -> _Batch | None:
    key = f"webhook:{webhook.reference}"
    async with engine.database.read() as session:
        enabled = await communities.find_enabled(session, instance_id)
        if enabled is None:
            return None
        try:
            plugin = await load_plugin(engine, session, enabled, key)
        except EngineError:
            return None
    if plugin.isolated or (plugin.paused_until is not None and plugin.paused_until > utc_now()):
        return None
    allowed = modules_of(plugin.declaration)
    return _Batch(plugin, allowed, request_of(webhook), webhook.reference, until)


async def _call(
    engine: Engine, batch: _Batch, declaration: ProcessDeclaration, some: Sequence[_Known]
) -> bool:
    """Make the calls; False if one of them failed, which is the one after those handled."""
    method = declaration.cls.receive_webhook  # type: ignore[attr-defined]
    run = batch.run_async if inspect.iscoroutinefunction(method) else batch.run
    what = f"the receive_webhook of processes '{declaration.name}'"
    try:
        await call_at_once(engine, batch.plugin, what, run, some)
    except EngineError as error:
        log.info("webhook left to a workflow", call=what, kind=error.kind)
        return False
    finally:
        batch.over = True
    return True


async def _store(engine: Engine, batch: _Batch, webhook: ReceivedWebhook) -> list[str]:
    """Store what changed; gives the ids of the processes that another call changed meanwhile."""
    left: list[str] = []
    changed = list(batch.changed)
    alone = [changed.pop()] if batch.shared and changed else []
    # What one of them starts may be refused, which must not hold up the others.
    starting = [[loaded] for loaded in changed if loaded.starts_processes]
    changed = [loaded for loaded in changed if not loaded.starts_processes]
    parts = [changed[n : n + STORED_AT_ONCE] for n in range(0, len(changed), STORED_AT_ONCE)]
    for part in [*parts, *starting, alone]:
        changes = []
        for loaded in part:
            try:
                changes.append(ChangeProcess(loaded, snapshot_of(engine, loaded)))
            except EngineError:
                left.append(loaded.row.id)
        if not changes:
            continue
        effects = effects_of(engine, batch.plugin) if part is alone else None
        try:
            left += await _store_part(engine, webhook, changes, effects)
        except PluginCodeError as error:
            # Its workflow says so, in the journal.
            log.info("webhook left to a workflow", webhook=webhook.id, kind=error.kind)
            left += [change.loaded.row.id for change in changes]
    return left


async def _store_part(
    engine: Engine,
    webhook: ReceivedWebhook,
    changes: Sequence[ChangeProcess],
    effects: Effects | None,
) -> list[str]:
    """Store changes in one transaction; gives the ids of those that cannot stand."""

    async def store(session: AsyncSession) -> tuple[list[ProcessRecord], FollowUp, list[str]]:
        records, follow_up, left = [], FollowUp(), []
        for change in sorted(changes, key=lambda change: change.loaded.row.id):
            before = change.loaded.row
            row = await lock(session, before.id)
            call_id = f"{row.id}:{webhook.reference}"
            mark = await invocations.get_invocation(session, call_id)
            if mark is not None:
                follow_up += FollowUp.of(mark)
                records.append(row.record())
                continue
            if row.status == COMPLETED:
                continue
            if row.updated_at != before.updated_at or not _is_free(row):
                left.append(row.id)
                continue
            own = FollowUp()
            if effects is not None:
                await effects.store(session)
                own += FollowUp(effects.items)
            own += await change.store(session, row)
            instance = (row.community, row.plugin, row.instance_id)
            method = f"{row.slug}#receive_webhook"
            session.add(mark_of(call_id, instance, method, own.as_result()))
            follow_up += own
            records.append(row.record())
        return records, follow_up, left

    records, follow_up, left = await engine.database.persist(store)
    await _follow_up(engine, webhook, records, follow_up)
    if records:
        log.info("webhook handled in place", webhook=webhook.id, processes=len(records))
    return left


async def _follow_up(
    engine: Engine,
    webhook: ReceivedWebhook,
    records: Sequence[ProcessRecord],
    follow_up: FollowUp,
) -> None:
    """Hand to Temporal what is left to do, and have the workflows concerned read the change."""
    await hand_over(engine, webhook.community, follow_up)
    for record in records:
        await engine.temporal.processes.reload(record)


async def follow_up_again(engine: Engine, webhook: ReceivedWebhook) -> None:
    """Do what a try that was cut off may have left undone of what it stored.

    Args:
        engine: What all activities share.
        webhook: The webhook.
    """
    async with engine.database.read() as session:
        marks = await invocations.marks_of_webhook(
            session, webhook.instance_id, webhook.reference, webhook.received_at
        )
        ids = [mark.id.partition(":")[0] for mark in marks]
        rows = await processes.get_processes(session, ids) if ids else []
    left = sum(map(FollowUp.of, marks), FollowUp())
    await _follow_up(engine, webhook, [row.record() for row in rows], left)


def _is_free(row: GovernanceProcess) -> bool:
    """Whether still nothing stands between a process and a webhook without a key."""
    called: datetime | None = row.called_until
    return not row.webhooks_signalled and (called is None or called < utc_now())
