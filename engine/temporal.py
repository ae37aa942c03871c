"""The one holder of a Temporal client: what the engine asks of Temporal, as verbs."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator
from datetime import timedelta

from temporalio.client import (
    ActivityFailureError,
    Client,
    WithStartWorkflowOperation,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import (
    ActivityIDConflictPolicy,
    RetryPolicy,
    SearchAttributeKey,
    WorkflowIDConflictPolicy,
)
from temporalio.exceptions import (
    ActivityAlreadyStartedError,
    TimeoutError,
    TimeoutType,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError, RPCStatusCode

from engine.errors import PluginTimeoutError, UnavailableError
from engine.messages import (
    ApplyChange,
    Capabilities,
    Deliver,
    InvocationOutcome,
    PerformAction,
    ProcessProgress,
    ProcessRecord,
    ReceiveWebhook,
    RunCommunity,
    RunGovernanceProcess,
    deliver,
    instance_attributes,
    perform_action,
    process_attributes,
    process_workflow_id,
    receive_webhook,
)
from engine.settings import Settings
from engine.workflows.community import CommunityChanges
from engine.workflows.governance_process import GovernanceProcess

HEARTBEAT_TIMEOUT = timedelta(seconds=15)
WEBHOOK_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=10),
)


async def connect(settings: Settings, *, lazy: bool = False) -> Client:
    """Connect to the Temporal server of the settings.

    Args:
        settings: The settings.
        lazy: Whether to connect at the first call only.

    Returns:
        The client.

    Raises:
        RuntimeError: The server does not answer.
    """
    api_key = settings.temporal_api_key
    return await Client.connect(
        settings.temporal_target,
        namespace=settings.temporal_namespace,
        api_key=api_key.get_secret_value() if api_key else None,
        tls=settings.temporal_tls or api_key is not None,
        lazy=lazy,
    )


class Temporal:
    """What the engine asks of Temporal.

    Args:
        client: A connected client.
        settings: The settings.
    """

    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        self._settings = settings
        self._invocation = timedelta(seconds=settings.invocation_timeout_seconds + 5)
        self._wait = timedelta(seconds=settings.worker_wait_seconds)

    async def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return await self.client.service_client.check_health(timeout=timedelta(seconds=3))
        except RPCError:
            return False

    async def perform_action(self, community: str, name: str, invocation_id: str) -> bool:
        """Run an accepted action and wait for its end; its result lies in the database.

        Args:
            community: The community's name.
            name: ``{plugin}.{slug}``.
            invocation_id: The accepted invocation.

        Returns:
            True if it succeeded.

        Raises:
            UnavailableError: No worker took it up in time; nothing was done.
            PluginTimeoutError: It did not end in time.
        """
        try:
            await self.client.execute_activity(
                perform_action,
                PerformAction(invocation_id),
                id=f"action/{community}/{name}/{invocation_id}",
                task_queue=self._settings.task_queue,
                id_conflict_policy=ActivityIDConflictPolicy.USE_EXISTING,
                schedule_to_start_timeout=self._wait,
                start_to_close_timeout=self._invocation,
                schedule_to_close_timeout=self._wait + 3 * self._invocation,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=RetryPolicy(
                    initial_interval=timedelta(milliseconds=500), maximum_attempts=3
                ),
                search_attributes=instance_attributes(community, name),
            )
        except ActivityFailureError as error:
            if isinstance(error.cause, TimeoutError):
                raise self._timeout(error.cause) from None
            return False
        except RPCError as error:
            raise _unavailable(error) from error
        return True

    async def start_process(
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
        """
        operation = WithStartWorkflowOperation(
            GovernanceProcess.run,
            self._process_input(record, capabilities),
            id=process_workflow_id(record.community, record.name, record.id),
            task_queue=self._settings.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=process_attributes(record),
            static_summary=f"{record.name}: {title}" if title else record.name,
        )
        try:
            async with asyncio.timeout((self._wait + self._invocation).total_seconds()):
                return await self.client.execute_update_with_start_workflow(
                    GovernanceProcess.started,
                    id=f"started-{record.id}",
                    start_workflow_operation=operation,
                )
        except (builtins.TimeoutError, RPCError) as error:
            raise _slow_or_unavailable(error) from error

    async def ensure_process(self, record: ProcessRecord, capabilities: Capabilities) -> bool:
        """Start a process' workflow if it does not run, without waiting for ``start``.

        Args:
            record: The stored record.
            capabilities: What the class defines.

        Returns:
            True if it had to be started.
        """
        try:
            await self.client.start_workflow(
                GovernanceProcess.run,
                self._process_input(record, capabilities),
                id=process_workflow_id(record.community, record.name, record.id),
                task_queue=self._settings.task_queue,
                search_attributes=process_attributes(record),
                static_summary=record.name,
            )
        except WorkflowAlreadyStartedError:
            return False
        return True

    async def running_processes(self) -> AsyncIterator[str]:
        """The ids of all processes whose workflows run.

        Yields:
            Each process' id.
        """
        query = "WorkflowType = 'GovernanceProcess' AND ExecutionStatus = 'Running'"
        async for execution in self.client.list_workflows(query):
            yield execution.id.rpartition("/")[2]

    def _process_input(
        self, record: ProcessRecord, capabilities: Capabilities
    ) -> RunGovernanceProcess:
        # A row that is past its start must not be started again by a new workflow.
        started = None if record.status == "created" else record
        return RunGovernanceProcess(
            process_id=record.id,
            community=record.community,
            name=record.name,
            capabilities=capabilities,
            invocation_timeout_seconds=self._settings.invocation_timeout_seconds,
            progress=ProcessProgress(record=started),
        )

    async def close_process(self, record: ProcessRecord) -> InvocationOutcome:
        """Close a process and wait for what ``close`` leaves.

        Args:
            record: The stored record.

        Returns:
            What ``close`` left.

        Raises:
            PluginTimeoutError: ``close`` did not end in time; it may still end.
            UnavailableError: Temporal does not answer.
        """
        handle = self._process_handle(record)
        try:
            async with asyncio.timeout((self._wait + 2 * self._invocation).total_seconds()):
                return await handle.execute_update(GovernanceProcess.close)
        except WorkflowUpdateFailedError:
            # The process completed at the same moment: its result is the answer.
            return InvocationOutcome(await handle.result())
        except (builtins.TimeoutError, RPCError) as error:
            if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
                return InvocationOutcome(await handle.result())
            raise _slow_or_unavailable(error) from error

    async def await_process(self, record: ProcessRecord, seconds: float) -> None:
        """Wait until a process completes.

        Args:
            record: The stored record.
            seconds: How long to wait at most.
        """
        handle = self._process_handle(record)
        try:
            async with asyncio.timeout(seconds):
                await handle.result()
        except builtins.TimeoutError:
            return
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise _unavailable(error) from error

    async def tell_process_of_webhook(
        self, community: str, name: str, process_id: str, webhook_id: str
    ) -> None:
        """Signal a process that a stored webhook concerns it; one that has ended needs none.

        Args:
            community: The community's name.
            name: ``{plugin}.{slug}``.
            process_id: The process.
            webhook_id: The webhook.
        """
        handle = self._handle(process_workflow_id(community, name, process_id))
        try:
            await handle.signal(GovernanceProcess.receive_webhook, webhook_id)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise

    async def tell_process_to_reload(self, record: ProcessRecord) -> None:
        """Signal a process that its record was changed; one that has ended needs none.

        Args:
            record: The record.
        """
        try:
            await self._process_handle(record).signal(GovernanceProcess.reload)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise

    async def receive_webhook(self, community: str, plugin: str, webhook_id: str) -> None:
        """Have a stored webhook handled; a second time for one webhook does nothing.

        Args:
            community: The community's name.
            plugin: The plugin's name.
            webhook_id: The stored webhook.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        try:
            await self.client.start_activity(
                receive_webhook,
                ReceiveWebhook(webhook_id),
                id=f"webhook/{community}/{plugin}/{webhook_id}",
                task_queue=self._settings.task_queue,
                start_to_close_timeout=self._invocation + timedelta(seconds=30),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=WEBHOOK_RETRY,
                search_attributes=instance_attributes(community, plugin),
            )
        except ActivityAlreadyStartedError:
            return
        except RPCError as error:
            raise _unavailable(error) from error

    async def deliver(self, community: str, item_id: str) -> bool:
        """Have an outbox item delivered; a second time for one item does nothing.

        Args:
            community: The community's name.
            item_id: The item.

        Returns:
            True if nobody was at it yet.
        """
        settings = self._settings
        try:
            await self.client.start_activity(
                deliver,
                Deliver(item_id),
                id=f"delivery/{community}/{item_id}",
                task_queue=settings.deliveries_task_queue,
                start_to_close_timeout=timedelta(seconds=settings.delivery_timeout_seconds + 10),
                retry_policy=RetryPolicy(
                    initial_interval=timedelta(seconds=settings.delivery_first_retry_seconds),
                    maximum_interval=timedelta(seconds=settings.delivery_longest_retry_seconds),
                ),
                search_attributes=instance_attributes(community, None),
            )
        except ActivityAlreadyStartedError:
            return False
        return True

    async def apply_change(self, community: str, change_id: str, timeout: timedelta) -> None:
        """Have a change of a community applied, after those before it; wait for its end.

        Args:
            community: The community's name.
            change_id: The change; its result lies in the database.
            timeout: How long applying it may take.

        Raises:
            PluginTimeoutError: It did not end in time; it may still end.
            UnavailableError: Temporal does not answer.
        """
        for _ in range(5):
            operation = WithStartWorkflowOperation(
                CommunityChanges.run,
                RunCommunity(community, timeout.total_seconds()),
                id=f"community/{community}",
                task_queue=self._settings.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"changes of {community}",
                search_attributes=instance_attributes(community, None),
            )
            try:
                async with asyncio.timeout((self._wait + timeout).total_seconds()):
                    await self.client.execute_update_with_start_workflow(
                        CommunityChanges.apply,
                        ApplyChange(change_id),
                        id=change_id,
                        start_workflow_operation=operation,
                    )
                return
            except WorkflowUpdateFailedError:
                # The workflow ended between two changes: the next try starts a new one.
                continue
            except (builtins.TimeoutError, RPCError) as error:
                if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
                    continue
                raise _slow_or_unavailable(error) from error
        raise UnavailableError("The community is being changed by others; try again")

    def _process_handle(
        self, record: ProcessRecord
    ) -> WorkflowHandle[GovernanceProcess, ProcessRecord]:
        return self._handle(process_workflow_id(record.community, record.name, record.id))

    def _handle(self, workflow_id: str) -> WorkflowHandle[GovernanceProcess, ProcessRecord]:
        return self.client.get_workflow_handle_for(GovernanceProcess.run, workflow_id)

    def _timeout(self, error: TimeoutError) -> PluginTimeoutError | UnavailableError:
        if error.type == TimeoutType.SCHEDULE_TO_START:
            return UnavailableError("No worker is free; nothing was done, try again")
        return PluginTimeoutError(
            f"The plugin did not end within {self._settings.invocation_timeout_seconds:g} s; "
            "whether it had an effect on the platform is not known"
        )


def _slow_or_unavailable(error: Exception) -> PluginTimeoutError | UnavailableError:
    # The SDK tells of its own time-outs as an error of the RPC.
    slow = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
    if isinstance(error, RPCError) and error.status not in slow:
        return _unavailable(error)
    return PluginTimeoutError("No answer in time; what was asked for may still be done")


def _unavailable(error: RPCError) -> UnavailableError:
    return UnavailableError(f"The Temporal server does not answer ({error.status.name.lower()})")


async def ensure_search_attributes(
    client: Client, attributes: tuple[SearchAttributeKey[str], ...]
) -> None:
    """Make the engine's search attributes known to the server.

    Args:
        client: A connected client.
        attributes: The attributes, all of them keywords.
    """
    from temporalio.api.enums.v1 import IndexedValueType
    from temporalio.api.operatorservice.v1 import (
        AddSearchAttributesRequest,
        ListSearchAttributesRequest,
    )

    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    missing = [key.name for key in attributes if key.name not in known.custom_attributes]
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace,
                search_attributes={
                    name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD for name in missing
                },
            )
        )
