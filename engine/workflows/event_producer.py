"""One scheduled run of a plugin's event producer task."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from engine.messages import RunEventProducer, RunTask, run_task


@workflow.defn
class EventProducer:
    """Runs the task once; its events lie in the outbox when it completes."""

    @workflow.run
    async def run(self, producer: RunEventProducer) -> None:
        """Run the task.

        Args:
            producer: Which instance and task.
        """
        await workflow.execute_activity(
            run_task,
            RunTask(producer.instance_id, producer.task),
            # A call may have to wait for the database twice: for its turn, and to store its work.
            start_to_close_timeout=timedelta(
                seconds=producer.invocation_timeout_seconds + 2 * producer.storing_seconds
            ),
            heartbeat_timeout=timedelta(seconds=15),
            retry_policy=RetryPolicy(maximum_attempts=3),
        )
