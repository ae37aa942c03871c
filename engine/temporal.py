"""The one holder of a Temporal client: what the engine asks of Temporal, as verbs."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar
from uuid import uuid4

from temporalio.api.failure.v1 import Failure
from temporalio.client import (
    ActivityFailureError,
    ActivityHandle,
    Client,
    PendingActivityState,
    RPCTimeoutOrCancelledError,
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
from temporalio.converter import DataConverter, DefaultFailureConverter, PayloadConverter
from temporalio.exceptions import (
    ActivityAlreadyStartedError,
    ApplicationError,
    ApplicationErrorCategory,
    TimeoutError,
    TimeoutType,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError, RPCStatusCode

from engine.errors import PluginTimeoutError, UnavailableError
from engine.messages import (
    CREATED,
    ApplyChange,
    Capabilities,
    Deliver,
    InvocationOutcome,
    PerformAction,
    PollTogether,
    ProcessProgress,
    ProcessRecord,
    ReceiveWebhook,
    RunCommunity,
    RunGovernanceProcess,
    deliver,
    delivery_activity_id,
    hand_out_pending,
    instance_attributes,
    perform_action,
    poll_processes,
    process_attributes,
    process_workflow_id,
    receive_webhook,
    webhook_activity_id,
)
from engine.settings import Settings
from engine.workflows.community import CommunityChanges
from engine.workflows.governance_process import GovernanceProcess

HEARTBEAT_TIMEOUT = timedelta(seconds=15)
PAUSE_SECONDS = 0.2
OUT_OF_REACH = (RPCError, RuntimeError)
OUTAGES = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.UNKNOWN,
    RPCStatusCode.INTERNAL,
    # How a long poll ends whose server goes away.
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
)

Reply = TypeVar("Reply")

# The activity says when the next poll is due; this is the pace after a crash.
POLL_RETRY = RetryPolicy(initial_interval=timedelta(seconds=60), backoff_coefficient=1.0)
# A platform waits for its answer meanwhile, and the webhook is stored already.
WEBHOOK_HAND_OVER = timedelta(seconds=5)

# How often is the activity's own decision; this is the pace.
ACTION_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(seconds=10)
)
WEBHOOK_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=10),
)


class _BriefFailures(DefaultFailureConverter):
    """Leaves the traceback out of failures that are no fault, such as a poll without news.

    It would be formatted, sent and stored on every poll, and says nothing.
    """

    def to_failure(
        self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure
    ) -> None:
        """Write a failure down."""
        benign = ApplicationErrorCategory.BENIGN
        if isinstance(exception, ApplicationError) and exception.category == benign:
            exception = exception.with_traceback(None)
        super().to_failure(exception, payload_converter, failure)


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
        data_converter=replace(DataConverter.default, failure_converter_class=_BriefFailures),
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
        self._wait = timedelta(seconds=settings.worker_wait_seconds)
        self._call = timedelta(seconds=settings.invocation_timeout_seconds + 5)
        # What a call did may have to wait for the database before it is stored.
        storing = settings.database_outage_seconds + settings.database_timeout_seconds
        self._invocation = self._call + timedelta(seconds=storing)

    async def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return await self.client.service_client.check_health(timeout=timedelta(seconds=3))
        # A client that has not connected yet tells of that by a RuntimeError.
        except (RPCError, RuntimeError):
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
        activity_id = f"action/{community}/{name}/{invocation_id}"

        async def start() -> ActivityHandle[None]:
            return await self.client.start_activity(
                perform_action,
                PerformAction(invocation_id),
                id=activity_id,
                task_queue=self._settings.task_queue,
                id_conflict_policy=ActivityIDConflictPolicy.USE_EXISTING,
                schedule_to_start_timeout=self._wait,
                start_to_close_timeout=self._invocation,
                schedule_to_close_timeout=self._wait + 3 * self._invocation,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=ACTION_RETRY,
                search_attributes=instance_attributes(community, name),
                rpc_timeout=self._wait,
            )

        try:
            handle = await self._reach(start)
        except OUT_OF_REACH as error:
            raise _unavailable(error) from error
        try:
            # It runs whether the server is within reach or not: from here on only its end counts.
            async with asyncio.timeout((self._wait + 3 * self._call).total_seconds()):
                while True:
                    try:
                        await handle.result()
                        return True
                    except OUT_OF_REACH:
                        if _is_cancelled():
                            raise self._slow() from None
                        await asyncio.sleep(PAUSE_SECONDS)
        except ActivityFailureError as error:
            if isinstance(error.cause, TimeoutError):
                raise self._timeout(error.cause) from None
            return False
        except builtins.TimeoutError:
            raise self._slow() from None

    async def _reach(self, call: Callable[[], Awaitable[Reply]]) -> Reply:
        """Ask the server, and again while it is out of reach, as long as a request may wait.

        The call must be one that has no further effect when it is made twice.
        """
        loop, failing_since = asyncio.get_running_loop(), 0.0
        while True:
            try:
                return await call()
            except OUT_OF_REACH as error:
                failing_since = failing_since or loop.time()
                patient = loop.time() - failing_since < self._wait.total_seconds()
                if not (patient and _is_outage(error)) or _is_cancelled():
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

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

        async def start() -> InvocationOutcome:
            return await self.client.execute_update_with_start_workflow(
                GovernanceProcess.started,
                id=f"started-{record.id}",
                start_workflow_operation=WithStartWorkflowOperation(
                    GovernanceProcess.run,
                    self._process_input(record, capabilities),
                    id=process_workflow_id(record.community, record.name, record.id),
                    task_queue=self._settings.task_queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    search_attributes=process_attributes(record),
                    static_summary=f"{record.name}: {title}" if title else record.name,
                ),
            )

        try:
            async with asyncio.timeout((self._wait + self._call).total_seconds()):
                return await self._reach(start)
        except (builtins.TimeoutError, RPCTimeoutOrCancelledError, *OUT_OF_REACH) as error:
            raise _slow_or_unavailable(error) from error

    async def ensure_process(
        self, record: ProcessRecord, capabilities: Capabilities, title: str | None
    ) -> bool:
        """Start a process' workflow if it does not run, without waiting for ``start``.

        Args:
            record: The stored record.
            capabilities: What the class defines.
            title: The process' title, for the Temporal UI.

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
                static_summary=f"{record.name}: {title}" if title else record.name,
            )
        except WorkflowAlreadyStartedError:
            return False
        return True

    async def running_processes(self) -> AsyncIterator[tuple[str, str]]:
        """The processes whose workflows run.

        Yields:
            Workflow id and process id of each.
        """
        async for execution in self.client.list_workflows(
            f"WorkflowType = 'GovernanceProcess' AND {self._running()}"
        ):
            yield execution.id, execution.id.rpartition("/")[2]

    async def running_activities(self, name: str) -> AsyncIterator[str]:
        """The standalone activities of a type that run, or wait for their next try.

        Args:
            name: ``deliver`` or ``receive_webhook``.

        Yields:
            The last part of each one's id.
        """
        async for execution in self.client.list_activities(
            f"ActivityType = '{name}' AND ExecutionStatus = 'Running'"
        ):
            yield execution.activity_id.rpartition("/")[2]

    def _running(self) -> str:
        # Other engines may have their workflows in the same namespace.
        return f"ExecutionStatus = 'Running' AND TaskQueue = '{self._settings.task_queue}'"

    async def end_process_without_row(self, workflow_id: str) -> None:
        """Terminate the workflow of a process that the database does not have.

        Args:
            workflow_id: The workflow's id.
        """
        try:
            await self._handle(workflow_id).terminate("the database has no such process")
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise

    def _process_input(
        self, record: ProcessRecord, capabilities: Capabilities
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
            invocation_timeout_seconds=self._settings.invocation_timeout_seconds,
            progress=progress,
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
        # The same id on every try: the wish is passed on once.
        update_id = f"close-{uuid4()}"

        async def close() -> InvocationOutcome:
            return await handle.execute_update(GovernanceProcess.close, id=update_id)

        try:
            async with asyncio.timeout((self._wait + 2 * self._call).total_seconds()):
                return await self._reach(close)
        except WorkflowUpdateFailedError:
            # The process completed at the same moment: its result is the answer.
            return InvocationOutcome(await handle.result())
        except (builtins.TimeoutError, RPCTimeoutOrCancelledError, *OUT_OF_REACH) as error:
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
        except OUT_OF_REACH as error:
            if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
                return
            raise _unavailable(error) from error

    async def tell_process_of_webhook(
        self, community: str, name: str, process_id: str, reference: str
    ) -> None:
        """Signal a process that a stored webhook concerns it; one that has ended needs none.

        Args:
            community: The community's name.
            name: ``{plugin}.{slug}``.
            process_id: The process.
            reference: The webhook's reference.
        """
        handle = self._handle(process_workflow_id(community, name, process_id))
        try:
            await handle.signal(GovernanceProcess.receive_webhook, reference)
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

    async def receive_webhook(self, community: str, plugin: str, webhook_id: str) -> bool:
        """Have a stored webhook handled; a second time for one webhook does nothing.

        Args:
            community: The community's name.
            plugin: The plugin's name.
            webhook_id: The stored webhook.

        Returns:
            True if nobody was at it yet.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        try:
            await self.client.start_activity(
                receive_webhook,
                ReceiveWebhook(webhook_id),
                id=webhook_activity_id(community, plugin, webhook_id),
                task_queue=self._settings.webhooks_task_queue,
                start_to_close_timeout=self._invocation + timedelta(seconds=30),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=WEBHOOK_RETRY,
                search_attributes=instance_attributes(community, plugin),
                rpc_timeout=WEBHOOK_HAND_OVER,
            )
        except ActivityAlreadyStartedError:
            return False
        except OUT_OF_REACH as error:
            raise _unavailable(error) from error
        return True

    async def replay_webhook(self, community: str, plugin: str, webhook_id: str) -> bool:
        """Have a stored webhook handled now, even if its next try is not due yet.

        Args:
            community: The community's name.
            plugin: The plugin's name.
            webhook_id: The stored webhook.

        Returns:
            False if a try was under way, which is left alone.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        return await self._start_now(
            webhook_activity_id(community, plugin, webhook_id),
            lambda: self.receive_webhook(community, plugin, webhook_id),
        )

    async def deliver(self, community: str, item_id: str) -> bool:
        """Have an outbox item delivered; a second time for one item does nothing.

        Args:
            community: The community's name.
            item_id: The item.

        Returns:
            True if nobody was at it yet.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        settings = self._settings
        storing = settings.database_outage_seconds + settings.database_timeout_seconds
        try:
            await self.client.start_activity(
                deliver,
                Deliver(item_id),
                id=delivery_activity_id(community, item_id),
                task_queue=settings.deliveries_task_queue,
                start_to_close_timeout=timedelta(
                    seconds=settings.delivery_timeout_seconds + 2 * storing
                ),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=RetryPolicy(
                    initial_interval=timedelta(seconds=settings.delivery_first_retry_seconds),
                    maximum_interval=timedelta(seconds=settings.delivery_longest_retry_seconds),
                ),
                search_attributes=instance_attributes(community, None),
            )
        except ActivityAlreadyStartedError:
            return False
        except OUT_OF_REACH as error:
            raise _unavailable(error) from error
        return True

    async def redeliver(self, community: str, item_id: str) -> bool:
        """Have an outbox item delivered now, even if its next try is not due yet.

        Args:
            community: The community's name.
            item_id: The item.

        Returns:
            False if a try was under way, which is left alone.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        return await self._start_now(
            delivery_activity_id(community, item_id), lambda: self.deliver(community, item_id)
        )

    async def _start_now(self, activity_id: str, start: Callable[[], Awaitable[bool]]) -> bool:
        """Start an activity; one of this id that waits for its next try gives way to it.

        Two of one id never run at once: the server refuses the second.
        """
        cancelled = False
        longest = self._settings.delivery_timeout_seconds + self._wait.total_seconds()
        deadline = asyncio.get_running_loop().time() + longest
        while not await start():
            handle = self.client.get_activity_handle(activity_id)
            try:
                under_way = (await handle.describe()).run_state == PendingActivityState.STARTED
                if under_way and not cancelled:
                    return False
                if not under_way and not cancelled:
                    await handle.cancel(reason="it is to be tried now")
                    cancelled = True
            except RPCError as error:
                # It ended in this very moment: the next start will be taken.
                if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                    raise _unavailable(error) from error
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(PAUSE_SECONDS)
        return True

    async def poll_together(self, poll: PollTogether) -> bool:
        """Have the pending processes of a class and plugin instance polled; once is enough.

        Args:
            poll: Which ones.

        Returns:
            True if nobody was at it yet.
        """
        try:
            await self.client.start_activity(
                poll_processes,
                poll,
                id=poll.activity_id,
                task_queue=self._settings.task_queue,
                start_to_close_timeout=timedelta(hours=1),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=POLL_RETRY,
                search_attributes=instance_attributes(poll.community, poll.plugin),
            )
        except ActivityAlreadyStartedError:
            return False
        return True

    async def send_pending(self) -> None:
        """Have everything handed out that waits in the database, in the background.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        try:
            await self.client.start_activity(
                hand_out_pending,
                id=f"hand-out/{uuid4()}",
                task_queue=self._settings.task_queue,
                start_to_close_timeout=timedelta(minutes=30),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
            )
        except OUT_OF_REACH as error:
            raise _unavailable(error) from error

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

        async def apply() -> None:
            await self.client.execute_update_with_start_workflow(
                CommunityChanges.apply,
                ApplyChange(change_id),
                id=change_id,
                start_workflow_operation=WithStartWorkflowOperation(
                    CommunityChanges.run,
                    RunCommunity(community, timeout.total_seconds()),
                    id=f"community/{community}",
                    task_queue=self._settings.task_queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    static_summary=f"changes of {community}",
                    search_attributes=instance_attributes(community, None),
                ),
            )

        for _ in range(5):
            try:
                async with asyncio.timeout((self._wait + timeout).total_seconds()):
                    await self._reach(apply)
                return
            except WorkflowUpdateFailedError:
                # The workflow ended between two changes: the next try starts a new one.
                continue
            except (builtins.TimeoutError, *OUT_OF_REACH) as error:
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
        return self._slow()

    def _slow(self) -> PluginTimeoutError:
        return PluginTimeoutError(
            f"The plugin did not end within {self._settings.invocation_timeout_seconds:g} s; "
            "whether it had an effect on the platform is not known"
        )


def _is_outage(error: Exception) -> bool:
    # A lazy client tells by a RuntimeError that it could not connect.
    return not isinstance(error, RPCError) or error.status in OUTAGES


def _is_cancelled() -> bool:
    """Whether our own time is up; the SDK tells of that as an error of the RPC."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _slow_or_unavailable(error: Exception) -> PluginTimeoutError | UnavailableError:
    # The SDK tells of time-outs, its own and ours, in ways of its own.
    slow = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
    out_of_time = isinstance(error, builtins.TimeoutError | RPCTimeoutOrCancelledError)
    if out_of_time or (isinstance(error, RPCError) and error.status in slow):
        return PluginTimeoutError("No answer in time; what was asked for may still be done")
    return _unavailable(error)


def _unavailable(error: Exception) -> UnavailableError:
    reason = f" ({error.status.name.lower()})" if isinstance(error, RPCError) else ""
    return UnavailableError(f"The Temporal server does not answer{reason}")


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
