"""The worker process: connect, register workflows and activities, stop gracefully."""

from __future__ import annotations

import asyncio
import compileall
import gc
import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import structlog
import uvloop
from temporalio.worker import PollerBehaviorAutoscaling, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from engine.activities.actions import ActionActivities
from engine.activities.batched_polls import BatchedPollActivities
from engine.activities.communities import CommunityActivities
from engine.activities.deliveries import DeliveryActivities
from engine.activities.processes import ProcessActivities
from engine.activities.producers import ProducerActivities
from engine.activities.reconciliation import ReconciliationActivities
from engine.activities.restored import notice_restored
from engine.activities.webhooks import WebhookActivities
from engine.discovery import load_plugins
from engine.logs import configure_logs
from engine.resources import Engine, check_settings, open_engine
from engine.sdk.registry import Registry
from engine.settings import Settings, load_settings, unknown_settings
from engine.store import communities
from engine.watchdog import watched_loop
from engine.workflows.community import CommunityChanges
from engine.workflows.event_producer import EventProducer
from engine.workflows.governance_process import GovernanceProcess
from engine.workflows.reconciliation import Reconciliation

log = structlog.get_logger()

WORKFLOWS = [GovernanceProcess, CommunityChanges, EventProducer, Reconciliation]
# Workflow modules are loaded inside of it, so that a clock or dice in them is refused.
SANDBOX = SandboxRestrictions.default.with_passthrough_modules(
    "engine.messages", "pydantic", "pydantic_core"
)


def make_workers(engine: Engine, deliveries: DeliveryActivities) -> list[Worker]:
    """Make the workers of this process: for plugin calls, for received webhooks, for deliveries."""
    settings = engine.settings
    actions, processes = ActionActivities(engine), ProcessActivities(engine)
    webhooks = WebhookActivities(engine)
    reconciliation = ReconciliationActivities(engine)
    grace = timedelta(seconds=settings.worker_grace_seconds)
    invocations = Worker(
        engine.temporal.client,
        task_queue=settings.task_queue,
        workflows=WORKFLOWS,
        activities=[
            actions.perform_action,
            processes.invoke_process,
            processes.poll_process,
            BatchedPollActivities(engine).poll_processes,
            processes.read_process,
            processes.route_webhooks,
            processes.end_process,
            # Those that were accepted before webhooks had a task queue of their own.
            webhooks.receive_webhook,
            ProducerActivities(engine).run_task,
            CommunityActivities(engine).apply_change,
            reconciliation.reconcile,
            reconciliation.start_pending,
            reconciliation.watch_workflows,
        ],
        workflow_runner=SandboxedWorkflowRunner(restrictions=SANDBOX),
        workflow_task_executor=ThreadPoolExecutor(4, thread_name_prefix="workflow"),
        max_concurrent_activities=settings.max_concurrent_invocations,
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        graceful_shutdown_timeout=grace,
    )
    receivers = Worker(
        engine.temporal.client,
        task_queue=settings.webhooks_task_queue,
        activities=[webhooks.receive_webhook],
        max_concurrent_activities=settings.max_concurrent_webhook_handlers,
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        graceful_shutdown_timeout=grace,
    )
    senders = Worker(
        engine.temporal.client,
        task_queue=settings.deliveries_task_queue,
        activities=[deliveries.deliver],
        max_concurrent_activities=settings.max_concurrent_deliveries,
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        graceful_shutdown_timeout=grace,
    )
    return [invocations, receivers, senders]


async def run(settings: Settings, beats: int | None = None) -> None:
    """Run the workers until the process is signalled to stop.

    Args:
        settings: The settings.
        beats: A file descriptor for heartbeats to the parent process.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        watch = await stack.enter_async_context(watched_loop(settings.stall_seconds, beats))
        engine = await stack.enter_async_context(open_engine(settings, lazy=False))
        await engine.temporal.prepare()
        # Before this process delivers anything.
        await notice_restored(engine, at_once=True)
        for plugin, times in await _missing_plugins(engine):
            log.warning("communities use a plugin that is not loaded", plugin=plugin, times=times)
        deliveries = DeliveryActivities(engine)
        stack.push_async_callback(deliveries.close)
        for worker in make_workers(engine, deliveries):
            await stack.enter_async_context(worker)
        await engine.schedules.start_reconciliation()
        watch.ready()
        log.info("worker ready", task_queue=settings.task_queue)
        await stop.wait()
        log.info("worker stopping", grace_seconds=settings.worker_grace_seconds)


async def _missing_plugins(engine: Engine) -> list[tuple[str, int]]:
    """The plugins that communities have enabled and this worker has not, and how often."""
    async with engine.database.read() as session:
        used = Counter(one.plugin for one in await communities.all_instances(session))
    return [(name, times) for name, times in used.items() if name not in Registry.plugins]


def compile_workflows() -> None:
    """Keep the workflows' bytecode: the sandbox loads their modules anew for each that starts."""
    compileall.compile_dir(Path(__file__).parent / "engine" / "workflows", quiet=2)


def collect_rarely() -> None:
    """Exempt what is loaded from garbage collection, and collect the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def main(beats: int | None = None) -> None:
    """Run a worker with the settings of the environment.

    Args:
        beats: A file descriptor for heartbeats to the parent process.
    """
    settings = load_settings()
    configure_logs(settings)
    check_settings(settings)
    for warning in unknown_settings(os.environ):
        log.warning("settings", warning=warning)
    for warning in load_plugins(settings.plugin_path, settings.disabled_plugins):
        log.warning("plugins", warning=warning)
    compile_workflows()
    collect_rarely()
    uvloop.run(run(settings, beats))


if __name__ == "__main__":
    main()
