"""Exits with 0 if the worker of this container asks Temporal for work."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.service import RPCError

from engine.errors import EngineError
from engine.settings import load_settings
from engine.temporal import connect


async def polling(host: str) -> bool:
    """Whether a worker on a host polls all task queues of the engine.

    Args:
        host: The host's name, which Temporal's SDK puts into a worker's identity.

    Returns:
        True if Temporal has seen it on both.

    Raises:
        RuntimeError: Temporal does not answer.
        RPCError: Temporal refuses the question.
        SettingsError: The environment is not valid.
    """
    settings = load_settings()
    client = await connect(settings)
    for name in (
        settings.task_queue,
        settings.webhooks_task_queue,
        settings.deliveries_task_queue,
    ):
        queue = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=settings.temporal_namespace,
                task_queue=TaskQueue(name=name),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            )
        )
        if not any(poller.identity.endswith(f"@{host}") for poller in queue.pollers):
            print(f"no worker of {host} polls {name}", file=sys.stderr)
            return False
    return True


if __name__ == "__main__":
    try:
        healthy = asyncio.run(polling(socket.gethostname()))
    except (EngineError, RPCError, RuntimeError) as error:
        print(error, file=sys.stderr)
        healthy = False
    sys.stderr.flush()
    # The SDK's threads may still run: Python's own way out would at times abort because of them.
    os._exit(0 if healthy else 1)
