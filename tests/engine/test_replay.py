"""Recorded histories, one per waiting point, replay with today's workflows."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import worker

HISTORIES = sorted((Path(__file__).parent.parent / "histories").glob("*.json"))


def test_there_are_histories() -> None:
    assert len(HISTORIES) >= 6


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_history_replays(path: Path) -> None:
    replayer = Replayer(
        workflows=worker.WORKFLOWS,
        workflow_runner=SandboxedWorkflowRunner(restrictions=worker.SANDBOX),
    )
    await replayer.replay_workflow(WorkflowHistory.from_json(path.stem, path.read_text()))
