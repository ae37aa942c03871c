"""Standalone activities in the background, whose end nobody waits for."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from uuid import uuid4

from temporalio.client import PendingActivityState
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from engine.messages import (
    Deliver,
    PollTogether,
    ReceiveWebhook,
    deliver,
    delivery_activity_id,
    instance_attributes,
    poll_processes,
    receive_webhook,
    start_pending,
    watch_workflows,
    webhook_activity_id,
)
from engine.temporal.rpc import (
    HEARTBEAT_TIMEOUT,
    OUT_OF_REACH,
    PAUSE_SECONDS,
    Rpc,
    unavailable,
)

# The activity says when the next poll is due; this is the pace after a crash.
POLL_RETRY = RetryPolicy(initial_interval=timedelta(seconds=60), backoff_coefficient=1.0)
WATCH_RETRY = RetryPolicy(initial_interval=timedelta(seconds=20), backoff_coefficient=1.0)
# A platform waits for its answer meanwhile, and the webhook is stored already.
WEBHOOK_HAND_OVER = timedelta(seconds=5)
WEBHOOK_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=10),
)
HAS_ENDED = (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION)


class Background:
    """Webhooks that are handled, deliveries that are sent, polls that are made.

    Args:
        rpc: How workers are reached.
    """

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def receive_webhook(
        self, community: str, plugin: str, instance: str, webhook_id: str
    ) -> bool:
        """Have a stored webhook handled; a second time for one webhook does nothing.

        Args:
            community: The community's name.
            plugin: The plugin's name.
            instance: The plugin instance's name.
            webhook_id: The stored webhook.

        Returns:
            True if it started; False if it was running already.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        try:
            await self._rpc.ask(
                self._rpc.client.start_activity(
                    receive_webhook,
                    ReceiveWebhook(webhook_id),
                    id=webhook_activity_id(community, plugin, webhook_id),
                    task_queue=self._rpc.settings.webhooks_task_queue,
                    start_to_close_timeout=self._rpc.invocation + timedelta(seconds=30),
                    heartbeat_timeout=HEARTBEAT_TIMEOUT,
                    retry_policy=WEBHOOK_RETRY,
                    search_attributes=instance_attributes(community, plugin, instance),
                    rpc_timeout=WEBHOOK_HAND_OVER,
                ),
                WEBHOOK_HAND_OVER,
            )
        except ActivityAlreadyStartedError:
            return False
        return True

    async def replay_webhook(
        self, community: str, plugin: str, instance: str, webhook_id: str
    ) -> bool:
        """Have a stored webhook handled now, even if its next try is not due yet.

        Args:
            community: The community's name.
            plugin: The plugin's name.
            instance: The plugin instance's name.
            webhook_id: The stored webhook.

        Returns:
            False if a try was under way, which is left alone.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        return await self._start_now(
            webhook_activity_id(community, plugin, webhook_id),
            lambda: self.receive_webhook(community, plugin, instance, webhook_id),
        )

    async def deliver(self, community: str, item_id: str) -> bool:
        """Have an outbox item delivered; a second time for one item does nothing.

        Args:
            community: The community's name.
            item_id: The item.

        Returns:
            True if it started; False if it was running already.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        settings = self._rpc.settings
        try:
            await self._rpc.ask(
                self._rpc.client.start_activity(
                    deliver,
                    Deliver(item_id),
                    id=delivery_activity_id(community, item_id),
                    task_queue=settings.deliveries_task_queue,
                    start_to_close_timeout=timedelta(seconds=settings.delivery_timeout_seconds)
                    + 2 * self._rpc.storing,
                    heartbeat_timeout=HEARTBEAT_TIMEOUT,
                    retry_policy=RetryPolicy(
                        initial_interval=timedelta(seconds=settings.delivery_first_retry_seconds),
                        maximum_interval=timedelta(seconds=settings.delivery_longest_retry_seconds),
                    ),
                    search_attributes=instance_attributes(community),
                ),
                self._rpc.wait,
            )
        except ActivityAlreadyStartedError:
            return False
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

    async def poll_together(self, poll: PollTogether) -> bool:
        """Have the pending processes of a class and plugin instance polled; once is enough.

        Args:
            poll: Which ones.

        Returns:
            True if it started; False if it was running already.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        try:
            await self._rpc.client.start_activity(
                poll_processes,
                poll,
                id=poll.activity_id,
                task_queue=self._rpc.settings.task_queue,
                start_to_close_timeout=timedelta(hours=1) + self._rpc.invocation,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=POLL_RETRY,
                search_attributes=instance_attributes(poll.community, poll.plugin, poll.instance),
            )
        except ActivityAlreadyStartedError:
            return False
        except OUT_OF_REACH as error:
            raise unavailable(error) from error
        return True

    async def watch_workflows(self) -> bool:
        """Have processes ended whose workflow was cancelled or terminated; once is enough.

        Returns:
            True if it started; False if it was running already.
        """
        try:
            await self._rpc.client.start_activity(
                watch_workflows,
                id=f"watch/{self._rpc.settings.task_queue}",
                task_queue=self._rpc.settings.task_queue,
                start_to_close_timeout=timedelta(minutes=5),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=WATCH_RETRY,
            )
        except ActivityAlreadyStartedError:
            return False
        return True

    async def send_pending(self) -> None:
        """Start, in the background, everything that is pending in the database.

        Raises:
            UnavailableError: Temporal does not answer.
        """
        await self._rpc.ask(
            self._rpc.client.start_activity(
                start_pending,
                id=f"hand-out/{uuid4()}",
                task_queue=self._rpc.settings.task_queue,
                start_to_close_timeout=timedelta(minutes=30),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
            ),
            self._rpc.wait,
        )

    async def running(self, name: str) -> AsyncIterator[str]:
        """The standalone activities of a type that run, or wait for their next try.

        Args:
            name: ``deliver`` or ``receive_webhook``.

        Yields:
            The last part of each one's id.
        """
        async for execution in self._rpc.client.list_activities(
            f"ActivityType = '{name}' AND ExecutionStatus = 'Running'"
        ):
            yield execution.activity_id.rpartition("/")[2]

    async def _start_now(self, activity_id: str, start: Callable[[], Awaitable[bool]]) -> bool:
        """Start an activity now; one of this id that waits for its next try is cancelled first."""
        longest = self._rpc.settings.delivery_timeout_seconds + self._rpc.wait.total_seconds()
        deadline = asyncio.get_running_loop().time() + longest
        handle, cancelled = self._rpc.client.get_activity_handle(activity_id), False
        while not await start():
            try:
                async with asyncio.timeout(self._rpc.wait.total_seconds()):
                    under_way = (await handle.describe()).run_state == PendingActivityState.STARTED
                    if under_way and not cancelled:
                        return False
                    if not under_way and not cancelled:
                        await handle.cancel(reason="it is to be tried now")
                        cancelled = True
            except (builtins.TimeoutError, *OUT_OF_REACH) as error:
                # It ended in this very moment: the next start will be taken.
                if not (isinstance(error, RPCError) and error.status in HAS_ENDED):
                    raise unavailable(error) from error
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(PAUSE_SECONDS)
        return True
