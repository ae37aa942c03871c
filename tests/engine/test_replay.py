"""Histories recorded by ``test_recording`` replay with the workflows of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import worker

FOLDER = Path(__file__).parent.parent / "histories"
HISTORIES = sorted(FOLDER.glob("*/*.json"))


def test_there_are_histories_of_every_workflow() -> None:
    recorded = {
        json.loads(path.read_text())["events"][0]["workflowExecutionStartedEventAttributes"][
            "workflowType"
        ]["name"]
        for path in HISTORIES
    }
    assert recorded == {workflow.__name__ for workflow in worker.WORKFLOWS}


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_history_replays(path: Path) -> None:
    replayer = Replayer(
        workflows=worker.WORKFLOWS,
        workflow_runner=SandboxedWorkflowRunner(restrictions=worker.SANDBOX),
    )
    await replayer.replay_workflow(WorkflowHistory.from_json(path.stem, path.read_text()))
