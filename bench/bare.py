"""Bare Temporal: what the engine rests on, without the engine; runs as a worker process."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker

with workflow.unsafe.imports_passed_through():
    import httpx

TASK_QUEUE = "bench-bare"
TIMEOUT = timedelta(seconds=60)


@activity.defn
async def nothing(value: str) -> None:
    """Do nothing."""


@activity.defn
async def post(url: str) -> None:
    """POST an empty object."""
    async with httpx.AsyncClient() as client:
        await client.post(url, json={})


@workflow.defn
class Started:
    """Runs one activity, says when it is through, and waits."""

    def __init__(self) -> None:
        self._through = False

    @workflow.run
    async def run(self) -> None:
        """Run one activity and wait to be cancelled."""
        await workflow.execute_activity(nothing, "x", start_to_close_timeout=TIMEOUT)
        self._through = True
        await workflow.wait_condition(lambda: False)

    @workflow.update
    async def started(self) -> None:
        """Wait until the activity is through."""
        await workflow.wait_condition(lambda: self._through)


@workflow.defn
class Signalled:
    """Waits for a signal, then has an activity POST."""

    def __init__(self) -> None:
        self._url = ""

    @workflow.run
    async def run(self) -> None:
        """Wait, then run the activity."""
        await workflow.wait_condition(lambda: bool(self._url))
        await workflow.execute_activity(post, self._url, start_to_close_timeout=TIMEOUT)

    @workflow.signal
    def go(self, url: str) -> None:
        """Give the URL to POST to."""
        self._url = url


async def main(target: str) -> None:
    """Work until the process is ended."""
    client = await Client.connect(target)
    async with Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[Started, Signalled],
        activities=[nothing, post],
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
