"""Puts right what a crash left half-way between the database and Temporal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity

from engine.activities.batched_polls import poll_together
from engine.activities.communities import (
    note_platform_ids,
    tasks_of,
    withdraw_abandoned_changes,
)
from engine.activities.restored import (
    complete_from_result,
    notice_restored,
    put_right,
    remember_how_far,
)
from engine.activities.routing import route_accepted, route_again
from engine.invocations.children import signal_parent, start_workflow
from engine.invocations.heartbeat import again_in, with_heartbeat
from engine.invocations.process import end_process
from engine.messages import COMPLETED
from engine.resources import Engine
from engine.sdk.registry import ProcessDeclaration, Registry
from engine.store import accepted, communities, invocations, lost_calls, outbox, processes, webhooks
from engine.store.database import utc_now

log = structlog.get_logger()

# How far back ended workflows are searched for: longer than a worker is ever away for.
WATCHED = timedelta(minutes=30)
PAGE = 1000
AT_ONCE = 20

Item = TypeVar("Item")
Row = TypeVar("Row", bound=tuple[Any, ...])
ReadPage = Callable[[AsyncSession, Row | None, int], Awaitable[Sequence[Row]]]


class ReconciliationActivities:
    """The activities that compare the database with Temporal.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lost: dict[str, processes.GovernanceProcess] = {}

    @activity.defn(name="reconcile")
    async def reconcile(self) -> None:
        """Put right what a crash left half-way, and delete what is past its retention."""
        await with_heartbeat(self._reconcile())

    @activity.defn(name="hand_out_pending")
    async def start_pending(self) -> None:
        """Start an activity for each webhook and delivery that is pending in the database."""
        await with_heartbeat(self._start_pending())

    @activity.defn(name="watch_workflows")
    async def watch_workflows(self) -> None:
        """End processes whose workflow was cancelled or terminated; fails, to be retried."""
        await with_heartbeat(self._watch_workflows())

    async def _watch_workflows(self) -> None:
        ended = self._engine.temporal.processes.ended_from_outside(WATCHED)
        async for process_id in ended:
            await self._end_if_pending(process_id)
        raise again_in("watching", None)

    async def _end_if_pending(self, process_id: str) -> None:
        """End the record of a process whose workflow was ended from outside."""
        process = await self._process(process_id)
        if process is None or process.status == COMPLETED:
            return
        # A workflow that was reset goes on in another run.
        if not await self._engine.temporal.processes.was_ended(process.record()):
            return
        await end_process(
            self._engine, process_id, "cancelled", "The workflow of the process was ended"
        )
        log.warning("process ended, for its workflow was", process=process_id)

    async def _reconcile(self) -> None:
        await notice_restored(self._engine, at_once=False)
        await put_right(self._engine)
        await remember_how_far(self._engine)
        repaired = {
            "webhooks": await self._webhooks(),
            "deliveries": await self._deliveries(),
            "processes_without_workflow": await self._processes_without_workflow(),
            "workflows_without_process": await self._workflows_without_process(),
            "children": await self._children(),
            "schedules": await self._schedules(),
            "batched_polls": await poll_together(self._engine),
            "changes": await withdraw_abandoned_changes(self._engine),
            "platform_ids": await note_platform_ids(self._engine),
        }
        await self._forget()
        await self._engine.temporal.background.watch_workflows()
        log.info("reconciled", **repaired)

    async def _start_pending(self) -> None:
        started = {"webhooks": await self._webhooks(), "deliveries": await self._deliveries()}
        log.info("pending work started", **started)

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
        running = {process_id async for _, process_id in self._engine.temporal.processes.running()}
        repaired = 0
        async for page in self._pages(processes.unfinished_after):
            missing = [
                process_id
                for process_id, plugin, slug in page
                if process_id not in running and _declaration(plugin, slug) is not None
            ]
            repaired += await _start_each(missing, self._start_again)
        # Once for each instance, when all its workflows are there again.
        lost, self._lost = self._lost, {}
        for process in lost.values():
            await route_again(self._engine, process)
            await route_accepted(self._engine, process.id)
        return repaired

    async def _start_again(self, process_id: str) -> bool:
        temporal = self._engine.temporal
        row = await self._process(process_id)
        declaration = _declaration(row.plugin, row.slug) if row is not None else None
        if row is None or declaration is None or row.status == COMPLETED:
            return False
        if await complete_from_result(self._engine, row):
            return True
        # What is running is listed with some delay; starting a running one changes nothing.
        await self._end_if_pending(process_id)
        row = await self._process(process_id)
        if row is None or row.status == COMPLETED:
            return False
        if not await start_workflow(self._engine, row, declaration):
            return False
        log.warning("workflow of a process started again", process=row.id, name=row.name)
        oldest = self._lost.setdefault(row.instance_id, row)
        if row.created_at < oldest.created_at:
            self._lost[row.instance_id] = row
        now = await self._process(process_id)
        if now is not None and now.status == COMPLETED:
            await temporal.processes.reload(now.record())
        return True

    async def _workflows_without_process(self) -> int:
        """End workflows whose process has ended, or was never or is no longer there."""
        temporal = self._engine.temporal
        repaired = 0
        async for page in _paged(temporal.processes.running()):
            async with self._engine.database.read() as session:
                statuses = await processes.statuses_of(session, [id_ for _, id_ in page])
            for workflow_id, process_id in page:
                status = statuses.get(process_id)
                if status is not None and status != COMPLETED:
                    continue
                process = await self._process(process_id)
                if process is None:
                    await temporal.processes.end_without_row(workflow_id)
                else:
                    await temporal.processes.reload(process.record())
                log.warning("workflow without pending process ended", workflow=workflow_id)
                repaired += 1
        return repaired

    async def _children(self) -> int:
        """Signal parents that have not handled the end of a child."""

        async def signal(child: tuple[str, str]) -> bool:
            process = await self._process(child[0])
            return process is not None and await signal_parent(self._engine, process)

        signalled = 0
        async for page in self._pages(processes.unreported_after):
            signalled += await _start_each(page, signal)
        return signalled

    async def _process(self, process_id: str) -> processes.GovernanceProcess | None:
        async with self._engine.database.read() as session:
            return await processes.get_process(session, process_id)

    async def _webhooks(self) -> int:
        """Start an activity for each stored webhook that has none."""
        background = self._engine.temporal.background

        async def start(webhook: webhooks.Unhandled) -> bool:
            _, webhook_id, community, plugin, instance = webhook
            return await background.receive_webhook(community, plugin, instance, webhook_id)

        return await self._start_missing(webhooks.unhandled, "receive_webhook", start)

    async def _deliveries(self) -> int:
        """Start an activity for each pending delivery that has none."""
        background = self._engine.temporal.background

        async def start(item: outbox.Waiting) -> bool:
            _, item_id, community = item
            return await background.deliver(community, item_id)

        return await self._start_missing(outbox.pending_items, "deliver", start)

    async def _start_missing(
        self, read: ReadPage[Row], activity_type: str, start: Callable[[Row], Awaitable[bool]]
    ) -> int:
        """Start an activity for each row, whose second column is its id, unless one runs."""
        running: set[str] | None = None
        started = 0
        async for page in self._pages(read):
            if running is None:
                listed = self._engine.temporal.background.running(activity_type)
                running = {id_ async for id_ in listed}
            missing = [row for row in page if row[1] not in running]
            started += await _start_each(missing, start)
        return started

    async def _pages(self, read: ReadPage[Row]) -> AsyncIterator[Sequence[Row]]:
        """Read page after page; none is held, and no session is open, while one is worked on."""
        last: Row | None = None
        while True:
            async with self._engine.database.read() as session:
                page = await read(session, last, PAGE)
            if page:
                yield page
            if len(page) < PAGE:
                return
            last = page[-1]

    async def _forget(self) -> None:
        """Delete what is past its retention, a little at a time, so that others can write."""
        settings, now = self._engine.settings, utc_now()
        keys = now - timedelta(hours=settings.idempotency_hours)
        done = now - timedelta(days=settings.invocation_retention_days)
        handled = now - timedelta(days=settings.webhook_retention_days)
        delivered = now - timedelta(days=settings.delivery_retention_days)
        async with self._engine.database.write() as session:
            await invocations.forget_before(session, done)
            await accepted.forget_keys_before(session, keys)
            await communities.forget_changes_before(session, done)
            await lost_calls.forget_before(session, now - 2 * lost_calls.REMEMBERED)
        await self._repeat(lambda session: webhooks.forget_webhooks_before(session, handled))
        await self._repeat(lambda session: outbox.forget_items_before(session, delivered))

    async def _repeat(self, forget: Callable[[AsyncSession], Awaitable[int]]) -> None:
        while True:
            async with self._engine.database.write() as session:
                if not await forget(session):
                    return


def _declaration(plugin: str, slug: str) -> ProcessDeclaration | None:
    declared = Registry.plugins.get(plugin)
    return declared.processes.get(slug) if declared else None


async def _start_each(items: Sequence[Item], start: Callable[[Item], Awaitable[bool]]) -> int:
    """Start something for each, a few at a time, in order; gives for how many it was missing."""
    started = 0
    for first in range(0, len(items), AT_ONCE):
        started += sum(await asyncio.gather(*map(start, items[first : first + AT_ONCE])))
    return started


async def _paged(items: AsyncIterator[Item]) -> AsyncIterator[list[Item]]:
    page: list[Item] = []
    async for item in items:
        page.append(item)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page
