"""Runs event producer tasks."""

from __future__ import annotations

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from engine.activities.heartbeat import give_up, with_heartbeat
from engine.activities.invocation import call, hand_out, load_plugin, store_effects
from engine.errors import EngineError
from engine.messages import RunTask
from engine.resources import Engine
from engine.store.communities import PluginInstance

log = structlog.get_logger()


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
            ApplicationError: It failed; the next run of the schedule is the next try, unless the
                platform proved to have done nothing.
        """
        await with_heartbeat(self._run(task))

    async def _run(self, task: RunTask) -> None:
        async with self._engine.database.read() as session:
            instance = await session.get(PluginInstance, task.instance_id)
            if instance is None:
                return  # Disabled meanwhile; its schedule is going.
            info = activity.info()
            key = f"{info.workflow_id}/{info.workflow_run_id}"
            loaded = await load_plugin(
                self._engine, session, instance.community, instance.plugin, key
            )
        if loaded is None:
            return
        declaration = loaded.declaration.tasks.get(task.task)
        name = f"{instance.plugin}.{task.task}"
        if declaration is None:
            raise ApplicationError(f"no task {name}", non_retryable=True)
        try:
            await call(loaded, f"the task '{name}'", getattr(loaded.plugin, declaration.method))
        except EngineError as error:
            log.warning(
                "task failed",
                community=instance.community,
                task=name,
                kind=error.kind,
                detail=error.detail,
            )
            raise give_up(error) from None
        async with self._engine.database.write() as session:
            if await session.get(PluginInstance, task.instance_id) is None:
                return
            items = await store_effects(self._engine, session, loaded)
        log.info(
            "task ran", community=instance.community, task=name, events=len(loaded.context.events)
        )
        await hand_out(self._engine, instance.community, items)
