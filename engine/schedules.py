"""Temporal schedules: one for each event producer task, and one for the reconciliation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from engine.messages import RunEventProducer, instance_attributes
from engine.settings import Settings
from engine.workflows.event_producer import EventProducer
from engine.workflows.reconciliation import Reconciliation

RECONCILIATION_PREFIX = "reconciliation/"
TASK_PREFIX = "task/"
RECONCILE_PAUSE_SECONDS = 2.0
NOTE_SECONDS = 3.0

log = structlog.get_logger()


def task_schedule_id(community: str, instance: str, task: str) -> str:
    """The id of a task's schedule.

    Args:
        community: The community's name.
        instance: The plugin instance's name.
        task: The task's slug.

    Returns:
        ``task/{community}/{instance}.{task}``.
    """
    return f"{TASK_PREFIX}{community}/{instance}.{task}"


@dataclass(frozen=True)
class TaskSchedule:
    """The schedule of one task of one plugin instance.

    Attributes:
        community: The community's name.
        plugin: The plugin's name.
        instance: The instance's name.
        task: The task's slug.
        instance_id: The plugin instance.
        every_seconds: Time between two runs.
    """

    community: str
    plugin: str
    instance: str
    task: str
    instance_id: str
    every_seconds: float

    @property
    def id(self) -> str:
        """The schedule's id: ``task/{community}/{instance}.{task}``."""
        return task_schedule_id(self.community, self.instance, self.task)


class Schedules:
    """What the engine asks of Temporal's schedules.

    Args:
        client: A connected client.
        settings: The settings.

    Attributes:
        waits_for_server: Whether the server has not answered since a reconciliation was wished for.
    """

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._reconciling: asyncio.Task[None] | None = None
        self._wishes = 0
        self.waits_for_server = False

    async def schedule_task(self, task: TaskSchedule) -> bool:
        """Make the schedule of a task, or bring it up to date.

        Args:
            task: The task.

        Returns:
            True if something had to be changed.
        """
        schedule = Schedule(
            action=ScheduleActionStartWorkflow(
                EventProducer.run,
                RunEventProducer(
                    task.instance_id,
                    task.task,
                    self._settings.invocation_timeout_seconds,
                    self._settings.storing_seconds,
                ),
                id=task.id,
                task_queue=self._settings.task_queue,
                static_summary=f"{task.instance}.{task.task} for {task.community}",
                typed_search_attributes=instance_attributes(
                    task.community, task.plugin, task.instance
                ),
            ),
            spec=ScheduleSpec(
                intervals=[ScheduleIntervalSpec(every=timedelta(seconds=task.every_seconds))],
                jitter=timedelta(seconds=min(task.every_seconds / 10, 30)),
            ),
            policy=SchedulePolicy(
                overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(seconds=60)
            ),
        )
        try:
            await self._client.create_schedule(
                task.id, schedule, memo={"task_queue": self._settings.task_queue}
            )
            return True
        except ScheduleAlreadyRunningError:
            pass
        handle = self._client.get_schedule_handle(task.id)
        now = (await handle.describe()).schedule
        argument = None
        if isinstance(now.action, ScheduleActionStartWorkflow):
            decoded = await self._client.data_converter.decode(
                now.action.args,
                [RunEventProducer],
            )
            argument = decoded[0]
        if argument == schedule.action.args[0] and now.spec.intervals == schedule.spec.intervals:  # type: ignore[attr-defined]
            return False

        def replace(_: ScheduleUpdateInput) -> ScheduleUpdate:
            return ScheduleUpdate(schedule)

        await handle.update(replace)
        return True

    async def unschedule_task(self, schedule_id: str) -> None:
        """Delete a task's schedule, if it is there.

        Args:
            schedule_id: The schedule's id.
        """
        try:
            await self._client.get_schedule_handle(schedule_id).delete()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise

    async def task_schedules(self) -> AsyncIterator[str]:
        """The ids of all task schedules of this engine; others may share the namespace.

        Yields:
            Each id.
        """
        ours = self._settings.task_queue
        async for schedule in await self._client.list_schedules():
            if not schedule.id.startswith(TASK_PREFIX):
                continue
            if (await schedule.memo()).get("task_queue", ours) == ours:
                yield schedule.id

    async def start_reconciliation(self) -> None:
        """Compare the database with Temporal now, and every hour from now on."""
        schedule_id = RECONCILIATION_PREFIX + self._settings.task_queue
        schedule = Schedule(
            action=ScheduleActionStartWorkflow(
                Reconciliation.run, id=schedule_id, task_queue=self._settings.task_queue
            ),
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(hours=1))]),
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
        )
        try:
            await self._client.create_schedule(schedule_id, schedule, trigger_immediately=True)
        except ScheduleAlreadyRunningError:
            # One that runs now may have looked already at what this one is for.
            await self._client.get_schedule_handle(schedule_id).trigger(
                overlap=ScheduleOverlapPolicy.BUFFER_ONE
            )

    async def noted(self) -> str | None:
        """What was noted on the reconciliation's schedule; None if nothing is known."""
        try:
            async with asyncio.timeout(NOTE_SECONDS):
                found = await self._reconciliation().describe()
        except (RPCError, RuntimeError, TimeoutError):
            return None
        return found.schedule.state.note

    async def note(self, text: str) -> None:
        """Note something on the reconciliation's schedule, which an older database has not.

        Args:
            text: What is noted; it is shown in the Temporal UI.
        """

        def write(found: ScheduleUpdateInput) -> ScheduleUpdate:
            schedule = found.description.schedule
            return ScheduleUpdate(replace(schedule, state=replace(schedule.state, note=text)))

        try:
            await self._reconciliation().update(write)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise

    def _reconciliation(self) -> ScheduleHandle:
        return self._client.get_schedule_handle(RECONCILIATION_PREFIX + self._settings.task_queue)

    def reconcile_when_reachable(self) -> None:
        """Compare the database with Temporal as soon as the server answers, in the background."""
        self._wishes += 1
        self.waits_for_server = True
        if self._reconciling is None or self._reconciling.done():
            self._reconciling = asyncio.create_task(self._reconcile_when_reachable())

    async def _reconcile_when_reachable(self) -> None:
        while True:
            wishes = self._wishes
            try:
                await self.start_reconciliation()
            except (RPCError, RuntimeError) as error:
                log.warning("temporal does not answer; reconciling later", error=str(error)[:200])
                await asyncio.sleep(RECONCILE_PAUSE_SECONDS)
                continue
            self.waits_for_server = False
            if wishes == self._wishes:
                return
            # What was wished for meanwhile may have come after this one looked.

    async def close(self) -> None:
        """Give up what waits for the server."""
        if self._reconciling is not None:
            self._reconciling.cancel()
            await asyncio.gather(self._reconciling, return_exceptions=True)
