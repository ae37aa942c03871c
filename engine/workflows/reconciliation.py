"""Puts right, hourly, what a crash left half-way."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from engine.messages import reconcile


@workflow.defn
class Reconciliation:
    """Compares the database with Temporal once."""

    @workflow.run
    async def run(self) -> None:
        """Run the comparison."""
        await workflow.execute_activity(
            reconcile,
            start_to_close_timeout=timedelta(minutes=30),
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_attempts=5),
        )
