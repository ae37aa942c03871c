"""Calls that were under way when their worker died: counted, and after some not made again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity

from engine.errors import WorkerLostError
from engine.invocations.effects import start_deliveries
from engine.invocations.heartbeat import remember, remembered, was_just_lost
from engine.invocations.loading import LoadedPlugin
from engine.resources import Engine
from engine.sdk.plugin import platform_id
from engine.sdk.registry import Registry
from engine.store import lost_calls, outbox, pacing
from engine.store.communities import EnabledInstance
from engine.store.database import utc_now

log = structlog.get_logger()

SUSPECT = "suspect"
ALONE = timedelta(minutes=10)
# A call in a process of its own is hardly to blame for the worker beside it: one whose workers die
# so often, each within ten minutes of the one before, is.
MOST_BESIDE = 10


async def is_suspect(engine: Engine, call_id: str, instance: EnabledInstance) -> bool:
    """Whether a call took a worker down, or was under way when one died.

    Args:
        engine: What all activities share.
        call_id: The call; the same on every try.
        instance: The plugin instance that is called.

    Returns:
        True if it is better made in a process of its own.

    Raises:
        WorkerLostError: It was lost so often that it is not made again.
    """
    if not was_just_lost():
        return remembered(SUSPECT) is True
    alone = instance.alone_until is not None and instance.alone_until > utc_now()
    beside = alone or await _was_suspect(engine, call_id)
    declaration = Registry.plugins.get(instance.plugin)
    config = engine.secrets.decrypt(instance.config_encrypted)
    source = {
        "community": instance.community,
        "source": instance.plugin,
        "instance": instance.instance,
        "community_platform_id": platform_id(declaration.cls, config) if declaration else None,
    }
    await _count(engine, call_id, instance.id, source, beside=beside)
    return True


async def _was_suspect(engine: Engine, call_id: str) -> bool:
    """Whether the try that was lost was made in a process of its own: each is, after a loss."""
    if activity.info().attempt == 2:
        return False
    async with engine.database.read() as session:
        return await lost_calls.was_lost(session, call_id)


def _beside(call_id: str) -> str:
    return f"beside:{call_id}"


async def isolate_after_losses(engine: Engine, instance: EnabledInstance, what: str) -> None:
    """Count a call, never repeated, that was lost with its worker; after some, isolate others."""
    # Most that run when a worker dies are innocent, and an isolated call is slow.
    if not was_just_lost():
        return
    most = engine.settings.most_lost_actions

    async def count(session: AsyncSession) -> int:
        key = f"lost:{instance.id}:{what}"
        lost = await lost_calls.count_loss(session, key, instance.id, within=ALONE)
        if lost >= most:
            await pacing.isolate(session, instance.id, utc_now() + ALONE)
        return lost

    lost = await engine.database.persist(count)
    facts = {"community": instance.community, "plugin": instance.plugin, "action": what}
    log.warning("an action was lost with its worker", times=lost, **facts)


async def count_loss(engine: Engine, loaded: LoadedPlugin) -> None:
    """Count that a call was lost with its process; WorkerLostError if it was so too often."""
    source = {
        "community": loaded.community,
        "source": loaded.declaration.name,
        "instance": loaded.plugin.instance_name,
        "community_platform_id": loaded.plugin.community_platform_id,
    }
    await _count(engine, loaded.lost_as, loaded.instance_id, source)


async def _count(
    engine: Engine,
    call_id: str,
    instance_id: str,
    source: dict[str, Any],
    *,
    beside: bool = False,
) -> None:
    """Count a loss; ``source`` is where an event of it comes from, as its driver reads it."""
    community, plugin = source["community"], source["source"]
    key, most, within = call_id, engine.settings.most_lost_calls, lost_calls.REMEMBERED
    if beside:
        key, most, within = _beside(call_id), MOST_BESIDE, ALONE
    remember(SUSPECT, True)
    until = utc_now() + timedelta(seconds=engine.settings.lost_calls_pause_seconds)

    async def count(session: AsyncSession) -> tuple[int, str | None]:
        lost = await lost_calls.count_loss(session, key, instance_id, within)
        if lost < most:
            return lost, None
        await pacing.stop(session, instance_id, until)
        item = await outbox.append(
            session,
            community=community,
            kind=outbox.EVENT,
            body={
                **source,
                "event_type": "plugin_paused",
                "timestamp": str(utc_now().timestamp()),
                "data": {"reason": WorkerLostError.kind, "until": until.isoformat()},
                "initiator": {},
            },
            url=engine.settings.driver_event_receiver_url,
        )
        return lost, item.id if item.url else None

    lost, item = await engine.database.persist(count)
    facts = {"community": community, "plugin": plugin, "call": call_id, "times": lost}
    log.error("a worker died beside a call" if beside else "a call was lost", **facts)
    if lost < most:
        return
    log.error("plugin paused: its calls take workers down", until=until.isoformat(), **facts)
    if item is not None:
        await start_deliveries(engine, community, [item])
    raise WorkerLostError(
        f"A call of the plugin '{plugin}' took its worker down {lost} times; it is not made again"
    )


async def clear(engine: Engine, call_id: str) -> None:
    """Note that a suspect's call has ended well.

    Args:
        engine: What all activities share.
        call_id: The call.
    """
    if remembered(SUSPECT):
        remember(SUSPECT, None)
        await forgive(engine, call_id)


async def forgive(engine: Engine, call_id: str) -> None:
    """Count the losses of a call anew; it stays a suspect.

    Args:
        engine: What all activities share.
        call_id: The call.
    """
    await engine.database.persist(
        lambda session: lost_calls.forget(session, call_id, _beside(call_id))
    )
