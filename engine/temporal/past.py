"""What Temporal knows of the time since a backup, which a restored database does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from engine.messages import ProcessRecord, process_workflow_id
from engine.temporal.rpc import OUT_OF_REACH, Rpc
from engine.workflows.governance_process import GovernanceProcess

# Two machines' clocks, and the time from a row to its workflow.
CLOCKS = timedelta(minutes=1)
QUERY_TIMEOUT = timedelta(seconds=5)


class Past:
    """What was done, and how it ended."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def result(self, community: str, name: str, process_id: str) -> ProcessRecord | None:
        """The record with which a process' workflow completed, if there is one."""
        handle = self._handle(process_workflow_id(community, name, process_id))
        try:
            if (await handle.describe()).status != WorkflowExecutionStatus.COMPLETED:
                return None
            return await handle.result()
        except WorkflowFailureError:
            return None
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return None

    async def last_record(self, workflow_id: str) -> ProcessRecord | None:
        """The record of a running process as a worker answers it; None without one or an answer."""
        handle = self._handle(workflow_id)
        try:
            return await handle.query(GovernanceProcess.record, rpc_timeout=QUERY_TIMEOUT)
        except OUT_OF_REACH:
            return None

    async def processes_since(self, moment: datetime) -> AsyncIterator[tuple[str, bool]]:
        """The workflow ids of processes that run, or ended after a moment, and whether they run."""
        running = "ExecutionStatus = 'Running'"
        ended = f"(ExecutionStatus = 'Completed' AND CloseTime >= '{_since(moment)}')"
        async for found in self._rpc.client.list_workflows(
            f"WorkflowType = 'GovernanceProcess' AND ({running} OR {ended})"
            f" AND TaskQueue = '{self._rpc.settings.task_queue}'"
        ):
            yield found.id, found.status == WorkflowExecutionStatus.RUNNING

    async def activities_since(self, name: str, moment: datetime) -> AsyncIterator[str]:
        """The last part of the ids of standalone activities of a type that began after a moment."""
        settings = self._rpc.settings
        ours = (settings.task_queue, settings.webhooks_task_queue, settings.deliveries_task_queue)
        async for found in self._rpc.client.list_activities(
            f"ActivityType = '{name}' AND StartTime >= '{_since(moment)}'"
        ):
            # Other engines may have theirs in the same namespace.
            if found.task_queue in ours:
                yield found.activity_id.rpartition("/")[2]

    def _handle(self, workflow_id: str) -> WorkflowHandle[GovernanceProcess, ProcessRecord]:
        return self._rpc.client.get_workflow_handle_for(GovernanceProcess.run, workflow_id)


def _since(moment: datetime) -> str:
    return (moment - CLOCKS).isoformat()
