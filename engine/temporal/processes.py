"""What the engine asks of the workflows of governance processes."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from temporalio.client import (
    RPCTimeoutOrCancelledError,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from engine.errors import NotSupportedError, OutcomeUnknownError
from engine.messages import (
    CREATED,
    Capabilities,
    CloseProcess,
    InvocationOutcome,
    ProcessProgress,
    ProcessRecord,
    RunGovernanceProcess,
    process_attributes,
    process_workflow_id,
    shown_status,
)
from engine.temporal.rpc import (
    OUT_OF_REACH,
    PAUSE_SECONDS,
    Rpc,
    is_cancelled,
    slow_or_unavailable,
    timeout_or_cancelled,
    unavailable,
)
from engine.workflows.governance_process import GovernanceProcess

ENDED_FROM_OUTSIDE = (
    WorkflowExecutionStatus.CANCELED,
    WorkflowExecutionStatus.TERMINATED,
    WorkflowExecutionStatus.FAILED,
)


class Processes:
    """The workflows of governance processes.

    Args:
        rpc: How they are reached.
    """

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def start(
        self, record: ProcessRecord, capabilities: Capabilities, title: str | None
    ) -> InvocationOutcome:
        """Start a process' workflow, unless it runs already, and wait until ``start`` has run.

        Args:
            record: The stored record.
            capabilities: What the class defines.
            title: The process' title, for the Temporal UI.

        Returns:
            What ``start`` left.

        Raises:
            PluginTimeoutError: ``start`` did not end in time; the process may still start.
            UnavailableError: Temporal does not answer.
            OutcomeUnknownError: The workflow was ended from outside meanwhile.
        """

        async def start() -> InvocationOutcome:
            return await self._rpc.client.execute_update_with_start_workflow(
                GovernanceProcess.started,
                id=f"started-{record.id}",
                start_workflow_operation=WithStartWorkflowOperation(
                    GovernanceProcess.run,
                    self._input(record, capabilities),
                    id=process_workflow_id(record.community, record.name, record.id),
                    task_queue=self._rpc.settings.task_queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    search_attributes=process_attributes(record),
                    static_summary=f"{record.name}: {title}" if title else record.name,
                ),
            )

        try:
            async with asyncio.timeout((self._rpc.wait + self._rpc.call).total_seconds()):
                return await self._rpc.reach(start)
        except WorkflowUpdateFailedError:
            raise OutcomeUnknownError(
                "The workflow of the process was ended before it returned what its start left"
            ) from None
        except (builtins.TimeoutError, RPCTimeoutOrCancelledError, *OUT_OF_REACH) as error:
            raise slow_or_unavailable(error) from error

    async def ensure(
        self,
        record: ProcessRecord,
        capabilities: Capabilities,
        title: str | None,
        parent: str | None = None,
    ) -> bool:
        """Start a process' workflow if it does not run, without waiting for ``start``.

        Args:
            record: The stored record.
            capabilities: What the class defines.
            title: The process' title, for the Temporal UI.
            parent: Id of the workflow that is signalled when this one ends, if any.

        Returns:
            True if it had to be started.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        try:
            await self._rpc.ask(
                self._rpc.client.start_workflow(
                    GovernanceProcess.run,
                    self._input(record, capabilities, parent),
                    id=process_workflow_id(record.community, record.name, record.id),
                    task_queue=self._rpc.settings.task_queue,
                    search_attributes=process_attributes(record),
                    static_summary=f"{record.name}: {title}" if title else record.name,
                ),
                self._rpc.wait,
            )
        except WorkflowAlreadyStartedError:
            return False
        return True

    async def running(self) -> AsyncIterator[tuple[str, str]]:
        """The processes whose workflows run.

        Yields:
            Workflow id and process id of each.
        """
        # Other engines may have their workflows in the same namespace.
        here = f"ExecutionStatus = 'Running' AND TaskQueue = '{self._rpc.settings.task_queue}'"
        async for execution in self._rpc.client.list_workflows(
            f"WorkflowType = 'GovernanceProcess' AND {here}"
        ):
            yield execution.id, execution.id.rpartition("/")[2]

    async def end_without_row(self, workflow_id: str) -> None:
        """Terminate the workflow of a process that the database does not have.

        Args:
            workflow_id: The workflow's id.
        """
        try:
            await self._handle(workflow_id).terminate("the database has no such process")
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise

    async def close(self, record: ProcessRecord, asked: CloseProcess) -> InvocationOutcome | None:
        """Close a process and wait for what ``close`` leaves.

        Args:
            record: The stored record.
            asked: The accepted request; asked twice, it is passed on once.

        Returns:
            What ``close`` left; None if there is no workflow any more that could close it.

        Raises:
            PluginTimeoutError: ``close`` did not end in time; it may still end.
            UnavailableError: Temporal does not answer.
            NotSupportedError: The class had no ``close`` when the process was started.
        """
        handle = self._handle_of(record)
        settings = self._rpc.settings

        async def close() -> InvocationOutcome:
            return await handle.execute_update(
                GovernanceProcess.close, asked, id=f"close-{asked.request_id}"
            )

        longest = (self._rpc.wait + 2 * self._rpc.call).total_seconds()
        longest += settings.close_wait_seconds if asked.after_webhooks else 0
        try:
            async with asyncio.timeout(longest):
                return await self._rpc.reach(close)
        except WorkflowUpdateFailedError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == "not_supported":
                raise NotSupportedError(error.cause.message) from None
            # The process ended at the same moment.
            return None
        except (builtins.TimeoutError, RPCTimeoutOrCancelledError, *OUT_OF_REACH) as error:
            if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
                return None
            raise slow_or_unavailable(error) from error

    async def wait(self, record: ProcessRecord, seconds: float) -> None:
        """Wait until a process completes; a server that is away meanwhile is waited for.

        Args:
            record: The stored record.
            seconds: How long to wait at most.
        """
        handle = self._handle_of(record)
        with suppress(builtins.TimeoutError, WorkflowFailureError):
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        with timeout_or_cancelled():
                            await handle.result()
                        return
                    except (builtins.TimeoutError, *OUT_OF_REACH) as error:
                        ended = getattr(error, "status", None) == RPCStatusCode.NOT_FOUND
                        if ended or is_cancelled():
                            return
                    await asyncio.sleep(PAUSE_SECONDS)

    async def ended_from_outside(self, since: timedelta) -> AsyncIterator[str]:
        """The processes whose workflow did not come to its own end, but was ended.

        Args:
            since: How far back to look.

        Yields:
            Each one's process id.
        """
        here = f"TaskQueue = '{self._rpc.settings.task_queue}'"
        names = {"CANCELED": "Canceled", "TERMINATED": "Terminated", "FAILED": "Failed"}
        listed = ", ".join(f"'{names[status.name]}'" for status in ENDED_FROM_OUTSIDE)
        ended = f"ExecutionStatus IN ({listed})"
        after = f"CloseTime > '{(datetime.now(UTC) - since).isoformat()}'"
        async for execution in self._rpc.client.list_workflows(
            f"WorkflowType = 'GovernanceProcess' AND {ended} AND {after} AND {here}"
        ):
            yield execution.id.rpartition("/")[2]

    async def was_ended(self, record: ProcessRecord) -> bool:
        """Whether a process' latest workflow is there, and did not come to its own end.

        Args:
            record: The stored record.
        """
        try:
            status = (await self._handle_of(record).describe()).status
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return False
            raise
        return status in ENDED_FROM_OUTSIDE

    async def receive_webhook(
        self, community: str, name: str, process_id: str, reference: str
    ) -> bool:
        """Signal a process that a stored webhook concerns it.

        Args:
            community: The community's name.
            name: ``{plugin}.{slug}``.
            process_id: The process.
            reference: The webhook's reference.

        Returns:
            False if no workflow of it runs.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        handle = self._handle(process_workflow_id(community, name, process_id))
        try:
            await self._rpc.reach(
                lambda: handle.signal(GovernanceProcess.receive_webhook, reference)
            )
        except OUT_OF_REACH as error:
            if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
                return False
            raise unavailable(error) from error
        return True

    async def reload(self, record: ProcessRecord) -> None:
        """Signal a process that its record was changed; one that has ended needs none.

        Args:
            record: The record.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        await self._signal(record, lambda handle: handle.signal(GovernanceProcess.reload))

    async def child_completed(self, parent: ProcessRecord, child_id: str) -> None:
        """Signal a process that one which it started has ended; one that is gone needs none.

        Args:
            parent: Its record.
            child_id: The process that has ended.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        await self._signal(
            parent, lambda handle: handle.signal(GovernanceProcess.child_completed, child_id)
        )

    async def _signal(
        self,
        record: ProcessRecord,
        send: Callable[[WorkflowHandle[GovernanceProcess, ProcessRecord]], Awaitable[None]],
    ) -> None:
        """Send a signal that comes to nothing if no workflow of the process runs."""
        handle = self._handle_of(record)
        try:
            await self._rpc.reach(lambda: send(handle))
        except (builtins.TimeoutError, *OUT_OF_REACH) as error:
            if not (isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND):
                raise unavailable(error) from error

    def _input(
        self, record: ProcessRecord, capabilities: Capabilities, parent: str | None = None
    ) -> RunGovernanceProcess:
        progress = ProcessProgress()
        if record.status != CREATED:
            # Past its start: a new workflow goes on where the lost one was. It numbers its
            # invocations from the present second on, for the lost one's numbers are marked as done.
            progress = ProcessProgress(record=record, invocations=int(time.time()))
        return RunGovernanceProcess(
            process_id=record.id,
            community=record.community,
            name=record.name,
            capabilities=capabilities,
            invocation_timeout_seconds=self._rpc.settings.invocation_timeout_seconds,
            close_wait_seconds=self._rpc.settings.close_wait_seconds,
            storing_seconds=self._rpc.settings.storing_seconds,
            progress=progress,
            shown_status=shown_status(record),
            parent=parent,
        )

    def _handle_of(self, record: ProcessRecord) -> WorkflowHandle[GovernanceProcess, ProcessRecord]:
        return self._handle(process_workflow_id(record.community, record.name, record.id))

    def _handle(self, workflow_id: str) -> WorkflowHandle[GovernanceProcess, ProcessRecord]:
        return self._rpc.client.get_workflow_handle_for(GovernanceProcess.run, workflow_id)
