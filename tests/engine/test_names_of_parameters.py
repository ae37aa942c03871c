"""Parameters may be called anything; a fault beside plugin code is reported as one."""

from __future__ import annotations

import pytest

from tests.engine.conftest import RunningEngine, one_database

NAMES = (
    "method", "what", "loaded", "engine", "args", "kwargs", "function", "name", "session", "error",
)  # fmt: skip
COLLIDING = {"name": "colliding", "config": {}}
VALUES = {name: f"the {name}" for name in NAMES}

pytestmark = one_database


@pytest.mark.parametrize("action", ["echo", "echo-async", "echo-any"])
async def test_actions(running: RunningEngine, action: str) -> None:
    community = await running.community(COLLIDING)
    url = f"/api/internal/action/colliding.{action}"
    header = {"X-Metagov-Community": community}
    answer = await running.http.post(url, json={"parameters": VALUES}, headers=header)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"given": [*VALUES.values()]}


@pytest.mark.parametrize("process", ["echo", "echo-async"])
async def test_processes(running: RunningEngine, process: str) -> None:
    community = await running.community(COLLIDING)
    url = f"/api/internal/process/colliding.{process}"
    started = await running.http.post(url, json=VALUES, headers={"X-Metagov-Community": community})
    assert started.status_code == 202, started.text
    record = await running.completed(started.headers["location"])
    assert record["outcome"] == {"given": [*VALUES.values()]}


async def test_a_result_that_cannot_be_read_is_reported_as_a_fault_and_logged(
    running: RunningEngine, caplog: pytest.LogCaptureFixture
) -> None:
    community = await running.community(COLLIDING)
    answer = await running.act(community, "colliding.unreadable")
    assert answer.status_code == 500, answer.text
    assert answer.json()["type"] == "urn:metagov:problem:internal"
    assert "action 'colliding.unreadable'" in answer.json()["detail"]
    assert "not readable" not in answer.text
    assert "LookupError: not readable" in caplog.text
    assert (await running.act(community, "colliding.done")).json() == {"done": False}


async def test_an_outcome_that_cannot_be_read_is_reported_as_a_fault_and_logged(
    running: RunningEngine, caplog: pytest.LogCaptureFixture
) -> None:
    community = await running.community(COLLIDING)
    answer = await running.start(community, "colliding.unreadable")
    assert answer.status_code == 500, answer.text
    assert answer.json()["type"] == "urn:metagov:problem:internal"
    assert "process 'colliding.unreadable'" in answer.json()["detail"]
    assert "LookupError: not readable" in caplog.text
    assert (await running.act(community, "colliding.done")).json() == {"done": False}
