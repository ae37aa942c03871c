"""Runs event producer tasks."""

from __future__ import annotations

from temporalio import activity

from engine.invocations.heartbeat import with_heartbeat
from engine.invocations.run import run
from engine.invocations.task import TaskCall
from engine.messages import RunTask
from engine.resources import Engine


class ProducerActivities:
    """The activity that runs an event producer task.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="run_task")
    async def run_task(self, task: RunTask) -> None:
        """Run an event producer task.

        Args:
            task: Which instance and task.

        Raises:
            ApplicationError: It failed; the next run of the schedule is the next try.
        """
        run_id = activity.info().workflow_run_id or ""
        await with_heartbeat(run(self._engine, TaskCall(self._engine, task, run_id)))
