"""The workers' sandbox refuses what no replay can give again, in our workflows as in any other."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from importlib.util import cache_from_source
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

import worker
from tests.asking_workflow import Asking

OURS = [workflow.__module__ for workflow in worker.WORKFLOWS]


@pytest.fixture
async def task_queue(temporal: Client) -> AsyncIterator[str]:
    """Where a worker with the workers' sandbox runs the workflow that asks."""
    task_queue = f"test-{uuid4().hex}"
    async with Worker(
        temporal,
        task_queue=task_queue,
        workflows=[Asking],
        workflow_runner=SandboxedWorkflowRunner(restrictions=worker.SANDBOX),
        workflow_failure_exception_types=[NondeterminismError],
    ):
        yield task_queue


async def ask(temporal: Client, task_queue: str, question: str) -> str:
    return await temporal.execute_workflow(
        Asking.run, question, id=uuid4().hex, task_queue=task_queue
    )


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("the clock", "datetime.datetime.now"),
        ("dice", "random.random"),
        ("a new id", "uuid.uuid4"),
    ],
)
async def test_the_clock_dice_and_ids_are_refused(
    temporal: Client, task_queue: str, question: str, name: str
) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await ask(temporal, task_queue, question)
    assert f"Cannot access {name}" in str(failed.value.cause)


async def test_the_workflow_that_asks_runs_otherwise(temporal: Client, task_queue: str) -> None:
    assert await ask(temporal, task_queue, "nothing") == "nothing"


@pytest.mark.parametrize("module", OURS)
def test_our_workflows_are_loaded_inside(module: str) -> None:
    """A module that is passed through keeps the real clock and the real dice."""
    names = module.split(".")
    packages = {".".join(names[: length + 1]) for length in range(len(names))}
    assert not packages & worker.SANDBOX.passthrough_modules


@pytest.mark.parametrize("module", OURS)
def test_a_worker_keeps_their_bytecode(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    worker.compile_workflows()
    file = sys.modules[module].__file__
    assert file is not None
    assert Path(cache_from_source(file)).exists()
