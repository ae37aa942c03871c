"""Performs actions."""

from __future__ import annotations

from temporalio import activity

from engine.invocations.action import ActionCall
from engine.invocations.heartbeat import with_heartbeat
from engine.invocations.run import run
from engine.messages import PerformAction
from engine.resources import Engine


class ActionActivities:
    """The activity that performs an action.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="perform_action")
    async def perform_action(self, action: PerformAction) -> None:
        """Call an action and store its result.

        Args:
            action: The accepted invocation.

        Raises:
            ApplicationError: It failed; the error is recorded with the invocation.
        """
        await with_heartbeat(run(self._engine, ActionCall(self._engine, action.invocation_id)))
