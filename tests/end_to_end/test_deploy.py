"""The scripts of the containers, against a real Temporal server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from temporalio import activity
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.worker import Worker

from tests.servers import eventually

HOST = socket.gethostname()
DEPLOY = Path(__file__).parents[2] / "deploy"


@activity.defn
async def idle() -> None:
    """Something that a worker can be registered for."""


async def test_the_namespace_is_made_once(temporal: Client) -> None:
    """The script makes the namespace with its retention, and may be run again."""
    namespace = f"made-{uuid4().hex[:8]}"
    first = make_namespace(temporal, namespace)
    assert first.returncode == 0, first.stderr
    described = await temporal.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=namespace)
    )
    assert described.config.workflow_execution_retention_ttl.ToTimedelta() == timedelta(days=30)
    second = make_namespace(temporal, namespace)
    assert second.returncode == 0, second.stderr
    assert "is there" in second.stdout


def make_namespace(temporal: Client, namespace: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the temporal command that is installed with us."""
    commands = Path(sys.executable).parent
    return subprocess.run(
        ["sh", DEPLOY / "temporal-namespace.sh"],
        env={
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": os.environ.get("HOME", "/"),
            "TEMPORAL_ADDRESS": temporal.service_client.config.target_host,
            "TEMPORAL_NAMESPACE": namespace,
            "RETENTION": "720h",
        },
        capture_output=True,
        text=True,
    )


async def test_a_worker_is_healthy_while_it_polls_all_queues(temporal: Client) -> None:
    """A worker that polls some of its queues only is not healthy, and says which it misses."""
    queue = f"health-{uuid4().hex[:8]}"
    assert worker_health(temporal, queue) == (1, f"no worker of {HOST} polls {queue}")
    async with Worker(temporal, task_queue=queue, activities=[idle]):
        misses = (1, f"no worker of {HOST} polls {queue}-webhooks")
        await eventually(lambda: worker_health(temporal, queue) == misses)
        async with Worker(temporal, task_queue=f"{queue}-webhooks", activities=[idle]):
            misses = (1, f"no worker of {HOST} polls {queue}-deliveries")
            await eventually(lambda: worker_health(temporal, queue) == misses)
            async with Worker(temporal, task_queue=f"{queue}-deliveries", activities=[idle]):
                await eventually(lambda: worker_health(temporal, queue) == (0, ""))


def test_a_worker_without_temporal_is_not_healthy() -> None:
    """The check ends by itself, with one line."""
    code, output = worker_health("127.0.0.1:1", "any")
    assert code == 1
    assert "Traceback" not in output


def worker_health(temporal: Client | str, queue: str) -> tuple[int, str]:
    """Run the check as its container does; gives its exit code and what it says."""
    address = temporal if isinstance(temporal, str) else temporal.service_client.config.target_host
    done = subprocess.run(
        [sys.executable, DEPLOY / "worker_health.py"],
        env={"METAGOV_TEMPORAL_ADDRESS": address, "METAGOV_TASK_QUEUE": queue},
        cwd=DEPLOY.parent,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr.strip()
