"""Actions: standalone activities whose end is waited for."""

from __future__ import annotations

import asyncio
import builtins
from datetime import timedelta

from temporalio.client import ActivityFailureError, ActivityHandle
from temporalio.common import ActivityIDConflictPolicy, RetryPolicy
from temporalio.exceptions import TimeoutError, TimeoutType

from engine.errors import PluginTimeoutError, UnavailableError
from engine.messages import PerformAction, instance_attributes, perform_action
from engine.temporal.rpc import (
    HEARTBEAT_TIMEOUT,
    OUT_OF_REACH,
    PAUSE_SECONDS,
    Rpc,
    is_cancelled,
    timeout_or_cancelled,
    unavailable,
)

# How often is the activity's own decision; this is the pace.
ACTION_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(seconds=10)
)


class Actions:
    """Actions on platforms.

    Args:
        rpc: How workers are reached.
    """

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def perform(self, community: str, name: str, instance: str, invocation_id: str) -> bool:
        """Run an accepted action and wait for its end; its result lies in the database.

        Args:
            community: The community's name.
            name: ``{plugin}.{slug}``.
            instance: The plugin instance's name.
            invocation_id: The accepted invocation.

        Returns:
            True if it succeeded.

        Raises:
            UnavailableError: No worker took it up in time; nothing was done.
            PluginTimeoutError: It did not end in time.
        """
        activity_id = f"action/{community}/{name}/{invocation_id}"

        async def start() -> ActivityHandle[None]:
            return await self._rpc.client.start_activity(
                perform_action,
                PerformAction(invocation_id),
                id=activity_id,
                task_queue=self._rpc.settings.task_queue,
                id_conflict_policy=ActivityIDConflictPolicy.USE_EXISTING,
                schedule_to_start_timeout=self._rpc.wait,
                start_to_close_timeout=self._rpc.invocation,
                schedule_to_close_timeout=self._rpc.wait + 3 * self._rpc.invocation,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=ACTION_RETRY,
                search_attributes=instance_attributes(community, name, instance),
                rpc_timeout=self._rpc.wait,
            )

        try:
            # A client that is not connected yet takes a time of its own to find that it cannot be.
            async with asyncio.timeout(2 * self._rpc.wait.total_seconds()):
                handle = await self._rpc.reach(start)
        except (builtins.TimeoutError, *OUT_OF_REACH) as error:
            raise unavailable(error) from error
        try:
            # It runs whether the server is within reach or not: from here on only its end counts.
            async with asyncio.timeout((self._rpc.wait + 3 * self._rpc.call).total_seconds()):
                while True:
                    try:
                        with timeout_or_cancelled():
                            await handle.result()
                        return True
                    except (builtins.TimeoutError, *OUT_OF_REACH):
                        if is_cancelled():
                            raise self._slow() from None
                        await asyncio.sleep(PAUSE_SECONDS)
        except ActivityFailureError as error:
            if isinstance(error.cause, TimeoutError):
                raise self._timeout(error.cause) from None
            return False
        except builtins.TimeoutError:
            raise self._slow() from None

    def _timeout(self, error: TimeoutError) -> PluginTimeoutError | UnavailableError:
        if error.type == TimeoutType.SCHEDULE_TO_START:
            return UnavailableError("No worker is free; nothing was done, try again")
        return self._slow()

    def _slow(self) -> PluginTimeoutError:
        longest = self._rpc.settings.invocation_timeout_seconds
        return PluginTimeoutError(
            f"The plugin did not end within {longest:g} s; "
            "whether it had an effect on the platform is not known"
        )
