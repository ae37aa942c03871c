"""Effects whose result is not known: repeated only where that is safe, else told as unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    path = tmp_path / "platform"
    path.touch()
    return path


@pytest.fixture
async def community(running: RunningEngine, platform: Path) -> str:
    return await running.community({"name": "durable", "config": {"platform": str(platform)}})


async def test_an_idempotent_action_is_tried_again_when_the_platform_fails(
    running: RunningEngine, community: str, platform: Path
) -> None:
    answer = await running.act(community, "durable.again", id="a", down=2)
    assert (answer.status_code, answer.json()) == (200, {"made": 3})
    failed = await running.act(community, "durable.again", id="b", down=9)
    assert failed.status_code == 502
    assert platform.read_text().split("\n").count("action b") == 3


async def test_another_action_is_not(
    running: RunningEngine, community: str, platform: Path
) -> None:
    answer = await running.act(community, "durable.once", id="a", down=1)
    assert answer.status_code == 502
    assert platform.read_text() == "action a\n"


@one_database
async def test_a_start_whose_answer_was_lost_is_looked_up(
    running: RunningEngine, community: str, platform: Path
) -> None:
    """The poll was made, the answer to it lost: the process goes on with that very poll."""
    started = await running.start(community, "durable.vote", id="v", down=True)
    assert started.status_code == 202, started.text
    assert started.json()["status"] == "pending"
    assert started.json()["url"].startswith("https://platform.test/")
    assert platform.read_text().count("poll ") == 1


async def test_without_a_look_up_the_platforms_failure_is_told(
    running: RunningEngine, community: str, platform: Path
) -> None:
    started = await running.start(community, "durable.blind", id="v", down=True)
    assert started.status_code == 502
    assert platform.read_text().count("poll ") == 1
    listed = await running.http.get("/api/internal/process", params={"community": community})
    record = listed.json()["processes"][0]
    assert (record["status"], record["errors"]["code"]) == ("completed", "start_failed")


@one_database
async def test_a_start_that_times_out_is_looked_up(
    running: RunningEngine, community: str, platform: Path
) -> None:
    """It ends too late for its own call, and in time for the look-up."""
    started = await running.start(community, "durable.vote", id="v", after=3.5)
    assert started.status_code in (202, 504), started.text

    async def pending() -> bool:
        listed = await running.http.get("/api/internal/process", params={"community": community})
        return bool(listed.json()["processes"][0]["status"] == "pending")

    await eventually(pending, 20)
    assert platform.read_text().count("poll ") == 1
