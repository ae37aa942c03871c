"""Runs event producer tasks."""

from __future__ import annotations

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from engine.errors import (
    EngineError,
    PluginPausedError,
    StateConflictError,
    WorkerLostError,
)
from engine.invocations.effects import start_deliveries, store_effects
from engine.invocations.heartbeat import give_up, try_again, with_heartbeat
from engine.invocations.loading import load_plugin
from engine.invocations.lost_calls import clear, is_suspect
from engine.invocations.pacing import paced_call
from engine.messages import RunTask
from engine.resources import Engine
from engine.store import communities, invocations
from engine.store.communities import PluginInstance
from engine.store.database import utc_now
from engine.store.invocations import DONE, Invocation

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
            instance = await communities.find_enabled(session, task.instance_id)
            if instance is None:
                return  # Disabled meanwhile; its schedule is going.
            key = f"task:{activity.info().workflow_run_id}"
            done = await invocations.get_invocation(session, key)
            if done is not None:
                items = (done.result or {}).get("items", [])
                await start_deliveries(self._engine, instance.community, items)
                return
            # Its runs are many, and each is lost once only.
            lost_as = f"task:{task.instance_id}:{task.task}"
            try:
                suspect = await is_suspect(self._engine, lost_as, instance)
                loaded = await load_plugin(self._engine, session, instance, key)
            except (PluginPausedError, WorkerLostError) as error:
                raise give_up(error) from None
            loaded.isolated |= suspect
            loaded.lost_as = lost_as
        declaration = loaded.declaration.tasks.get(task.task)
        name = f"{instance.plugin}.{task.task}"
        if declaration is None:
            raise ApplicationError(f"no task {name}", non_retryable=True)
        try:
            method = getattr(loaded.plugin, declaration.method)
            await paced_call(self._engine, loaded, f"the task '{name}'", method)
        except EngineError as error:
            log.warning(
                "task failed",
                community=instance.community,
                task=name,
                kind=error.kind,
                detail=error.detail,
            )
            raise give_up(error) from None

        async def store(session: AsyncSession) -> list[str]:
            done = await invocations.get_invocation(session, key)
            if done is not None:
                kept: list[str] = (done.result or {}).get("items", [])
                return kept
            if await session.get(PluginInstance, task.instance_id) is None:
                return []
            items = await store_effects(self._engine, session, loaded)
            if loaded.context.events or loaded.context.state.changes():
                session.add(
                    Invocation(
                        id=key,
                        community=instance.community,
                        instance_id=instance.id,
                        plugin=instance.plugin,
                        target=declaration.slug,
                        status=DONE,
                        result={"items": items},
                        finished_at=utc_now(),
                    )
                )
            return items

        try:
            items = await self._engine.database.persist(store)
        except StateConflictError as error:
            raise try_again(error) from None
        await clear(self._engine, lost_as)
        log.info(
            "task ran", community=instance.community, task=name, events=len(loaded.context.events)
        )
        await start_deliveries(self._engine, instance.community, items)
