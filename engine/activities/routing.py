"""Routing: the processes that a webhook concerns are signalled, in order of acceptance.

Before a webhook is signalled, those accepted before it are, where they are not yet.
So an earlier one reaches a process earlier, whichever worker has it and however long its receiver
takes. A webhook that is signalled twice is handled once, by its mark.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from weakref import WeakValueDictionary

import structlog
from temporalio import activity

from engine.errors import (
    EngineError,
    PluginPausedError,
    UnavailableError,
    is_storable,
    plain_text,
)
from engine.invocations.children import start_workflow
from engine.invocations.heartbeat import again_in, try_again, was_cut_off
from engine.invocations.in_place import follow_up_again, handle_in_place
from engine.invocations.loading import LoadedPlugin, load_plugin
from engine.invocations.pacing import call_at_once
from engine.invocations.receiver import request_of
from engine.messages import COMPLETED
from engine.resources import Engine
from engine.sdk.registry import PluginDeclaration, Registry
from engine.store import communities, pacing, processes, webhooks
from engine.store.database import utc_now
from engine.store.processes import Concerned, GovernanceProcess
from engine.store.webhooks import ReceivedWebhook

log = structlog.get_logger()

MOST_SIGNALS_AT_ONCE = 20
# So long the calls of an instance are made in processes of their own when a worker died in one.
ALONE_AFTER_A_DEATH = timedelta(minutes=1)
# So far back webhooks may be that were signalled to a workflow and not handled when it was lost.
LOST_WITH_WORKFLOW = timedelta(days=1)

# A call for keys that has not ended by then hangs, or died with its worker.
ASKING = timedelta(seconds=20)
ASK_AGAIN_SECONDS = 0.3

# One at a time for each plugin instance, so that those of one process are not signalled twice.
_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


def turn(instance_id: str) -> asyncio.Lock:
    """The lock, one in this process, under which webhooks of a plugin instance are routed."""
    lock = _turns.get(instance_id)
    if lock is None:
        lock = _turns[instance_id] = asyncio.Lock()
    return lock


async def route_accepted(engine: Engine, process_id: str) -> None:
    """Signal a process of all webhooks that its plugin instance has accepted by now."""
    async with engine.database.read() as session:
        process = await processes.get_process(session, process_id)
        if process is None:
            return
        newest = await webhooks.newest_of(session, process.instance_id)
    async with turn(process.instance_id):
        await route_up_to(engine, process.instance_id, newest)


async def route_up_to(engine: Engine, instance_id: str, last: int, but: str | None = None) -> bool:
    """Route an instance's webhooks up to one; whether that one, if it is ``but``, still waits."""
    while True:
        async with engine.database.read() as session:
            waiting = await webhooks.not_routed(session, instance_id, last)
        for row in waiting:
            if row.id == but:
                return True
            await _route_alone(engine, row)
        if not waiting:
            return False


async def route_again(engine: Engine, process: GovernanceProcess) -> None:
    """Have the signals repeated that a lost workflow took with it."""
    since = max(process.created_at, utc_now() - LOST_WITH_WORKFLOW)
    await webhooks.forget_routed(engine.database, process.instance_id, since)


async def _route_alone(engine: Engine, row: ReceivedWebhook) -> None:
    """Route a webhook that is not handled here."""
    loaded = None
    try:
        async with engine.database.read() as session:
            enabled = await communities.find_enabled(session, row.instance_id)
            if enabled is not None:
                mark = f"webhook:{row.reference}"
                loaded = await load_plugin(engine, session, enabled, mark)
    except PluginPausedError as error:
        # Nothing of the instance is called meanwhile, a close neither.
        raise try_again(error, error.retry_after_seconds) from None
    except EngineError as error:
        # Without its keys it may concern any process.
        log.warning("webhook routed without its plugin", webhook=row.id, kind=error.kind)
    if loaded is not None and hasattr(loaded.plugin, "webhook_key"):
        if row.keys_asked_at is not None:
            if utc_now() - row.keys_asked_at < ASKING:
                raise again_in("another one asks for its keys", ASK_AGAIN_SECONDS)
            # That call has not ended: perhaps its worker died of it.
            loaded.isolated = True
        await webhooks.mark_keys_asked(engine.database, row.id)
    await route(engine, row, loaded)
    await webhooks.mark_routed(engine.database, row.id)


async def route(engine: Engine, row: ReceivedWebhook, loaded: LoadedPlugin | None) -> int:
    """Signal the processes that a webhook concerns, and give how many there are."""
    declaration = loaded.declaration if loaded else Registry.plugins.get(row.plugin)
    if declaration is None:
        return 0
    slugs = [p.slug for p in declaration.processes.values() if p.receives_webhooks]
    if not slugs:
        return 0
    keys = await _keys(engine, loaded, row) if loaded else None
    async with engine.database.read() as session:
        concerned = await processes.concerned_by(session, row.id, slugs, keys)
    # A worker that stops ends its activities too, and is no death.
    if activity.in_activity() and activity.info().attempt > 1:
        await follow_up_again(engine, row)
    free = [process for process in concerned if process.in_place]
    # What took its worker down is found out one by one, by the workflows.
    if free and was_cut_off():
        until = utc_now() + ALONE_AFTER_A_DEATH
        await engine.database.persist(lambda s: pacing.isolate(s, row.instance_id, until))
    if free and loaded is not None and not loaded.isolated and not was_cut_off():
        left = await handle_in_place(engine, row, loaded.instance_id, free)
        handled = {process.id for process in free}.difference(left)
    else:
        handled = set()
    signalled = [process for process in concerned if process.id not in handled]
    keyless = [process.id for process in signalled if process.keyless]
    if keyless:
        await processes.count_signalled(engine.database, keyless)
    signals = asyncio.Semaphore(MOST_SIGNALS_AT_ONCE)

    async def signal(process: Concerned) -> None:
        async with signals:
            facts = (process.community, process.name, process.id, row.reference)
            if await engine.temporal.processes.receive_webhook(*facts):
                return
            if await _start_lost(engine, declaration, process.id):
                await engine.temporal.processes.receive_webhook(*facts)

    await asyncio.gather(*map(signal, signalled))
    return len(concerned)


async def _start_lost(engine: Engine, declaration: PluginDeclaration, process_id: str) -> bool:
    """Start the workflow of a process again if it is lost; False if the process has ended."""
    async with engine.database.read() as session:
        process = await processes.get_process(session, process_id)
    declared = declaration.processes.get(process.slug) if process is not None else None
    if process is None or declared is None or process.status == COMPLETED:
        return False
    if await engine.temporal.processes.was_ended(process.record()):
        return False
    if await start_workflow(engine, process, declared):
        await route_again(engine, process)
    return True


async def _keys(engine: Engine, loaded: LoadedPlugin, row: ReceivedWebhook) -> list[str] | None:
    """The correlation keys that a plugin reads in a webhook; None: it may concern any process."""
    reader = getattr(loaded.plugin, "webhook_key", None)
    if reader is None:
        return None
    what = f"the webhook_key of '{loaded.declaration.name}'"
    try:
        keys = await call_at_once(engine, loaded, what, reader, request_of(row))
    except UnavailableError:
        raise
    except EngineError:
        return None
    if isinstance(keys, str):
        keys = [keys]
    if keys is not None and not isinstance(keys, list | tuple | set | frozenset):
        log.warning("webhook_key gave no keys", plugin=row.plugin, webhook=row.id, gave=type(keys))
        return None
    # No process has a key that cannot be stored.
    return None if keys is None else list(filter(is_storable, map(plain_text, keys)))
