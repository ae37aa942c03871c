"""The call of an event producer task."""

from __future__ import annotations

from typing import Any

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import EngineError, PluginCodeError
from engine.invocations.effects import FollowUp, effects_of
from engine.invocations.heartbeat import give_up
from engine.invocations.loading import load_plugin
from engine.invocations.lost_calls import is_suspect
from engine.invocations.policy import TASK
from engine.invocations.run import Call, Done
from engine.messages import RunTask
from engine.resources import Engine
from engine.store import communities, invocations
from engine.store.communities import EnabledInstance, PluginInstance
from engine.store.invocations import mark_of

log = structlog.get_logger()


class TaskCall(Call[None]):
    """One run of a task.

    Args:
        engine: What all activities share.
        task: Which instance and task.
        run_id: The run.
    """

    def __init__(self, engine: Engine, task: RunTask, run_id: str) -> None:
        super().__init__(engine, f"task:{run_id}", TASK)
        self.task = task
        self.instance: EnabledInstance | None = None
        # Its runs are many, and each is lost once only.
        self.lost_as = f"task:{task.instance_id}:{task.task}"

    @property
    def what(self) -> str:
        """``the task '{plugin}.{slug}'``."""
        plugin = f"{self.instance.plugin}." if self.instance is not None else ""
        return f"the task '{plugin}{self.task.task}'"

    async def load(self) -> Done[None] | None:
        """Find the instance, and load it."""
        async with self.engine.database.read() as session:
            enabled = await communities.find_enabled(session, self.task.instance_id)
            if enabled is None:
                return Done(None)  # Disabled meanwhile; its schedule is going.
            self.instance = enabled
            mark = await invocations.get_invocation(session, self.id)
            if mark is not None:
                return Done(None, enabled.community, FollowUp.of(mark))
            suspect = await is_suspect(self.engine, self.lost_as, enabled)
            self.plugin = await load_plugin(self.engine, session, enabled, self.id)
        self.plugin.isolated |= suspect
        self.plugin.lost_as = self.lost_as
        return None

    async def make(self) -> None:
        """Call the task."""
        assert self.plugin is not None
        declaration = self.plugin.declaration.tasks.get(self.task.task)
        if declaration is None:
            raise PluginCodeError(f"This worker knows not {self.what}")
        await self.call(getattr(self.plugin.plugin, declaration.method))

    async def store(self, session: AsyncSession, made: Any) -> Done[None]:
        """Store what it did, with a mark if there is anything."""
        enabled = self.instance
        assert self.plugin is not None and enabled is not None
        mark = await invocations.get_invocation(session, self.id)
        if mark is not None:
            return Done(None, enabled.community, FollowUp.of(mark))
        if await session.get(PluginInstance, enabled.id) is None:
            return Done(None)
        effects = effects_of(self.engine, self.plugin)
        follow_up = FollowUp(items=effects.items)
        if effects:
            await effects.store(session)
            session.add(
                mark_of(self.id, self.plugin.instance, self.task.task, follow_up.as_result())
            )
        events = len(self.plugin.context.events)
        log.info("task ran", community=enabled.community, task=self.task.task, events=events)
        return Done(None, enabled.community, follow_up)

    async def fail(self, error: EngineError) -> None:
        """End the run; the next one of the schedule is the next try."""
        log.warning(
            "task failed",
            community=self.instance.community if self.instance is not None else None,
            task=self.task.task,
            instance=self.task.instance_id,
            kind=error.kind,
            detail=error.detail,
        )
        raise give_up(error) from None
