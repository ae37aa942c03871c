"""Puts right what a crash left half-way between the database and Temporal."""

from __future__ import annotations

from datetime import timedelta

import structlog
from temporalio import activity

from engine.activities.communities import tasks_of
from engine.activities.heartbeat import with_heartbeat
from engine.messages import COMPLETED
from engine.resources import Engine, capabilities_of
from engine.sdk.registry import Registry
from engine.store import invocations, outbox, processes, webhooks
from engine.store.database import utc_now
from engine.store.outbox import OutboxItem

log = structlog.get_logger()

# What is younger than this may still be on its ordinary way.
SETTLED_AFTER = timedelta(seconds=30)


class ReconciliationActivities:
    """The activity that compares the database with Temporal.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="reconcile")
    async def reconcile(self) -> None:
        """Put right what a crash left half-way, and delete what is past its retention."""
        await with_heartbeat(self._reconcile())

    async def _reconcile(self) -> None:
        repaired = {
            "schedules": await self._schedules(),
            "processes": await self._processes(),
            "webhooks": await self._webhooks(),
            "deliveries": await self._deliveries(),
        }
        await self._forget()
        log.info("reconciled", **repaired)

    async def _schedules(self) -> int:
        schedules = self._engine.schedules
        wanted = {task.id: task for task in await tasks_of(self._engine)}
        repaired = 0
        for task in wanted.values():
            repaired += await schedules.schedule_task(task)
        async for schedule_id in schedules.task_schedules():
            if schedule_id not in wanted:
                await schedules.unschedule_task(schedule_id)
                repaired += 1
        return repaired

    async def _processes(self) -> int:
        """Start workflows that are missing, and end those whose process has ended."""
        repaired = 0
        async with self._engine.database.read() as session:
            rows = await processes.all_unfinished(session)
        for row in rows:
            plugin = Registry.plugins.get(row.plugin)
            declaration = plugin.processes.get(row.slug) if plugin else None
            if declaration is None or utc_now() - row.created_at < SETTLED_AFTER:
                continue
            repaired += await self._engine.temporal.ensure_process(
                row.record(), capabilities_of(declaration)
            )
        async for process_id in self._engine.temporal.running_processes():
            async with self._engine.database.read() as session:
                process = await processes.get_process(session, process_id)
            if process is not None and process.status == COMPLETED:
                await self._engine.temporal.tell_process_to_reload(process.record())
                repaired += 1
        return repaired

    async def _webhooks(self) -> int:
        async with self._engine.database.read() as session:
            rows = await webhooks.unhandled(session)
        for row in rows:
            await self._engine.temporal.receive_webhook(row.community, row.plugin, row.id)
        return len(rows)

    async def _deliveries(self) -> int:
        repaired = 0
        async with self._engine.database.read() as session:
            for item_id in await outbox.pending_items(session):
                item = await session.get_one(OutboxItem, item_id)
                repaired += await self._engine.temporal.deliver(item.community, item.id)
        return repaired

    async def _forget(self) -> None:
        settings = self._engine.settings
        kept_since = utc_now() - timedelta(days=settings.invocation_retention_days)
        keys_since = utc_now() - timedelta(hours=settings.idempotency_hours)
        async with self._engine.database.write() as session:
            await invocations.forget_before(session, kept_since, keys_since)
            await webhooks.forget_webhooks_before(session, kept_since)
            await outbox.forget_items_before(session, kept_since)
