"""Runs the methods of governance processes."""

from __future__ import annotations

import structlog
from temporalio import activity

from engine.activities.routing import route_accepted
from engine.invocations.heartbeat import with_heartbeat
from engine.invocations.process import end_process, read_record
from engine.invocations.process_calls import CALLS, PollCall
from engine.invocations.run import run
from engine.messages import (
    EndProcess,
    InvocationOutcome,
    InvokeProcess,
    PollProcess,
    ReadProcess,
)
from engine.resources import Engine

log = structlog.get_logger()


class ProcessActivities:
    """The activities of a process' workflow.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="invoke_process")
    async def invoke_process(self, invocation: InvokeProcess) -> InvocationOutcome:
        """Call a method of a process and store what it did.

        Args:
            invocation: Which process and method.

        Returns:
            The record, and whether the method failed.

        Raises:
            ApplicationError: It is to be tried again.
        """
        call = CALLS[invocation.method](self._engine, invocation)
        return await with_heartbeat(run(self._engine, call))

    @activity.defn(name="poll_process")
    async def poll_process(self, poll: PollProcess) -> InvocationOutcome:
        """Call ``update`` now and then; fails, to be retried, as long as there is no news.

        Args:
            poll: Which process.

        Returns:
            The record, once it has changed.

        Raises:
            ApplicationError: There is no news yet.
        """
        return await with_heartbeat(run(self._engine, PollCall(self._engine, poll)))

    @activity.defn(name="read_process")
    async def read_process(self, read: ReadProcess) -> InvocationOutcome:
        """Give the record as it stands.

        Args:
            read: Which process.

        Returns:
            The record.
        """
        return InvocationOutcome(await read_record(self._engine, read.process_id))

    @activity.defn(name="route_webhooks")
    async def route_webhooks(self, read: ReadProcess) -> None:
        """Signal a process of the webhooks that were accepted so far.

        Args:
            read: Which process.
        """
        await with_heartbeat(route_accepted(self._engine, read.process_id))

    @activity.defn(name="end_process")
    async def end_process(self, end: EndProcess) -> InvocationOutcome:
        """End a process, and send its driver why.

        Args:
            end: Which process, and why.

        Returns:
            The record.
        """
        record = await end_process(
            self._engine, end.process_id, end.code, end.message, end.webhooks_left_out
        )
        log.warning("process ended by the engine", process=record.id, code=end.code)
        return InvocationOutcome(record)
