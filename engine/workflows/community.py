"""Applies a community's changes, one at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from engine.messages import ApplyChange, RunCommunity, apply_change


@workflow.defn
class CommunityChanges:
    """Lives as long as there are changes to apply.

    - update ``apply``: applies one change; its result lies in the database. An update, for the
      request waits for it. A lock keeps a second change waiting until the first is through.
    """

    @workflow.init
    def __init__(self, community: RunCommunity) -> None:
        self._community = community
        self._turn = asyncio.Lock()
        self._applied = 0

    @workflow.run
    async def run(self, community: RunCommunity) -> int:
        """Wait until all changes are applied.

        Args:
            community: Which community.

        Returns:
            How many changes were applied.
        """
        await workflow.wait_condition(
            lambda: self._applied > 0 and workflow.all_handlers_finished()
        )
        return self._applied

    @workflow.update
    async def apply(self, change: ApplyChange) -> None:
        """Apply a change.

        Args:
            change: Which change.
        """
        async with self._turn:
            try:
                await workflow.execute_activity(
                    apply_change,
                    change,
                    start_to_close_timeout=timedelta(
                        seconds=change.timeout_seconds or self._community.change_timeout_seconds
                    ),
                    heartbeat_timeout=timedelta(seconds=15),
                    retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=30)),
                )
            finally:
                self._applied += 1
