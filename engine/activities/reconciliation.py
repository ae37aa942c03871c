"""Puts right what a crash left half-way between the database and Temporal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity

from engine.activities.batched_polls import poll_together
from engine.activities.communities import tasks_of, withdraw_abandoned_changes
from engine.activities.heartbeat import with_heartbeat
from engine.messages import COMPLETED
from engine.resources import Engine, capabilities_of
from engine.sdk.registry import Registry
from engine.store import communities, invocations, outbox, processes, webhooks
from engine.store.database import utc_now

log = structlog.get_logger()


class ReconciliationActivities:
    """The activities that compare the database with Temporal.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="reconcile")
    async def reconcile(self) -> None:
        """Put right what a crash left half-way, and delete what is past its retention."""
        await with_heartbeat(self._reconcile())

    @activity.defn(name="hand_out_pending")
    async def hand_out_pending(self) -> None:
        """Have webhooks handled and deliveries made that wait in the database."""
        await with_heartbeat(self._hand_out_pending())

    async def _reconcile(self) -> None:
        repaired = {
            "webhooks": await self._webhooks(),
            "deliveries": await self._deliveries(),
            "processes_without_workflow": await self._processes_without_workflow(),
            "workflows_without_process": await self._workflows_without_process(),
            "schedules": await self._schedules(),
            "batched_polls": await poll_together(self._engine),
            "changes": await withdraw_abandoned_changes(self._engine),
        }
        await self._forget()
        log.info("reconciled", **repaired)

    async def _hand_out_pending(self) -> None:
        started = {"webhooks": await self._webhooks(), "deliveries": await self._deliveries()}
        log.info("handed out what was pending", **started)

    async def _schedules(self) -> int:
        """Make schedules as the plugins want them, and delete those without a plugin."""
        schedules = self._engine.schedules
        wanted = {task.id: task for task in await tasks_of(self._engine)}
        repaired = 0
        for task in wanted.values():
            if await schedules.schedule_task(task):
                log.warning("schedule put right", schedule=task.id)
                repaired += 1
        async for schedule_id in schedules.task_schedules():
            if schedule_id not in wanted:
                await schedules.unschedule_task(schedule_id)
                log.warning("schedule without plugin deleted", schedule=schedule_id)
                repaired += 1
        return repaired

    async def _processes_without_workflow(self) -> int:
        """Start workflows that are missing."""
        temporal = self._engine.temporal
        running = {process_id async for _, process_id in temporal.processes.running()}
        async with self._engine.database.read() as session:
            rows = await processes.all_unfinished(session)
        repaired = 0
        for row in rows:
            plugin = Registry.plugins.get(row.plugin)
            declaration = plugin.processes.get(row.slug) if plugin else None
            if row.id in running or declaration is None:
                continue
            # What is running is listed with some delay; starting a running one changes nothing.
            title = row.parameters.get("title")
            if not await temporal.processes.ensure(
                row.record(), capabilities_of(declaration), str(title)[:100] if title else None
            ):
                continue
            log.warning("workflow of a process started again", process=row.id, name=row.name)
            repaired += 1
            if (await self._status(row.id)) == COMPLETED:
                await temporal.processes.tell_to_reload(row.record())
        return repaired

    async def _workflows_without_process(self) -> int:
        """End workflows whose process has ended, or was never or is no longer there."""
        repaired = 0
        async for workflow_id, process_id in self._engine.temporal.processes.running():
            async with self._engine.database.read() as session:
                process = await processes.get_process(session, process_id)
            if process is None:
                await self._engine.temporal.processes.end_without_row(workflow_id)
            elif process.status == COMPLETED:
                await self._engine.temporal.processes.tell_to_reload(process.record())
            else:
                continue
            log.warning("workflow without pending process ended", workflow=workflow_id)
            repaired += 1
        return repaired

    async def _status(self, process_id: str) -> str | None:
        async with self._engine.database.read() as session:
            process = await processes.get_process(session, process_id)
        return process.status if process is not None else None

    async def _webhooks(self) -> int:
        """Have stored webhooks handled that nobody is at."""
        temporal = self._engine.temporal
        async with self._engine.database.read() as session:
            waiting = await webhooks.unhandled(session)
        if not waiting:
            return 0
        running = {
            webhook_id async for webhook_id in temporal.background.running("receive_webhook")
        }
        repaired = 0
        for community, plugin, webhook_id in waiting:
            if webhook_id not in running:
                repaired += await temporal.background.receive_webhook(community, plugin, webhook_id)
        return repaired

    async def _deliveries(self) -> int:
        """Have pending items delivered that nobody is at."""
        temporal = self._engine.temporal
        async with self._engine.database.read() as session:
            waiting = await outbox.pending_items(session)
        if not waiting:
            return 0
        running = {item_id async for item_id in temporal.background.running("deliver")}
        repaired = 0
        for community, item_id in waiting:
            if item_id not in running:
                repaired += await temporal.background.deliver(community, item_id)
        return repaired

    async def _forget(self) -> None:
        """Delete what is past its retention, a little at a time, so that others can write."""
        settings, now = self._engine.settings, utc_now()
        keys = now - timedelta(hours=settings.idempotency_hours)
        done = now - timedelta(days=settings.invocation_retention_days)
        handled = now - timedelta(days=settings.webhook_retention_days)
        told = now - timedelta(days=settings.delivery_retention_days)
        async with self._engine.database.write() as session:
            await invocations.forget_before(session, done, keys)
            await communities.forget_changes_before(session, done)
        await self._repeat(lambda session: webhooks.forget_webhooks_before(session, handled))
        await self._repeat(lambda session: outbox.forget_items_before(session, told))

    async def _repeat(self, forget: Callable[[AsyncSession], Awaitable[int]]) -> None:
        while True:
            async with self._engine.database.write() as session:
                if not await forget(session):
                    return
