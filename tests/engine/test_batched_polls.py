"""Processes whose class asks for many with one request: the instance is polled, not each one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually

CROWD = "durable.crowd"


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    path = tmp_path / "platform"
    path.touch()
    return path


@pytest.fixture
async def community(running: RunningEngine, platform: Path) -> str:
    return await running.community({"name": "durable", "config": {"platform": str(platform)}})


def note(platform: Path, line: str) -> None:
    with platform.open("a") as file:
        file.write(f"{line}\n")


def asked(platform: Path) -> list[int]:
    lines = platform.read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("asked ")]


async def start_many(running: RunningEngine, community: str, count: int) -> list[dict[str, Any]]:
    callback = f"{running.driver.url}/{community}"
    started = await asyncio.gather(
        *(running.start(community, CROWD, callback_url=callback) for _ in range(count))
    )
    return [answer.json() for answer in started]


def location(record: dict[str, Any]) -> str:
    return f"/api/internal/process/{CROWD}/{record['id']}"


async def test_one_request_for_many(running: RunningEngine, community: str, platform: Path) -> None:
    records = await start_many(running, community, 25)
    await eventually(lambda: len(asked(platform)) >= 4)
    polls = asked(platform)
    # 25 in twos: twenty and five, once a second, not twenty-five a second.
    assert set(polls[-2:]) <= {20, 5, 25}
    assert len(polls) < 25
    for record in records[:3]:
        note(platform, f"end {record['id']}")
    for record in records[:3]:
        done = await running.completed(location(record))
        assert done["outcome"] == {"ended": True}
    told = await eventually(
        lambda: [b for b in running.driver.to(community) if b["status"] == "completed"]
    )
    await eventually(
        lambda: len([b for b in running.driver.to(community) if b["status"] == "completed"]) == 3
    )
    assert {body["id"] for body in told} <= {record["id"] for record in records[:3]}
    workflow = running.client.get_workflow_handle(f"process/{community}/{CROWD}/{records[0]['id']}")
    assert (await workflow.result())["status"] == "completed"


async def test_other_ways_go_on_beside(
    running: RunningEngine, community: str, platform: Path
) -> None:
    """A webhook and a close while the platform is being asked: neither is lost or overwritten."""
    note(platform, "slow")
    heard, closed = await start_many(running, community, 2)
    await eventually(lambda: len(asked(platform)) >= 1)
    note(platform, f"end {heard['id']}")
    answers = await asyncio.gather(
        running.http.post(
            f"/api/hooks/{community}/durable",
            content="word",
            headers={"X-Concerns": heard["id"]},
        ),
        running.http.delete(location(closed)),
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].json()["outcome"] == {"closed": True}
    record = await running.completed(location(heard))
    assert record["outcome"]["heard"] == ["word"]


@one_database
async def test_a_platform_that_fails_is_asked_again(
    running: RunningEngine, community: str, platform: Path
) -> None:
    note(platform, "broken")
    (record,) = await start_many(running, community, 1)
    note(platform, f"end {record['id']}")
    await eventually(lambda: len(asked(platform)) >= 2)
    note(platform, "mended broken")
    assert (await running.completed(location(record)))["outcome"] == {"ended": True}


@one_database
async def test_a_new_config_polls_on_and_a_disabled_plugin_does_not(
    running: RunningEngine, community: str, platform: Path
) -> None:
    (record,) = await start_many(running, community, 1)
    config = {"platform": str(platform), "n": 1}
    await running.community({"name": "durable", "config": config}, name=community)
    before = len(asked(platform))
    await eventually(lambda: len(asked(platform)) > before + 1)
    assert (await running.http.get(location(record))).json()["status"] == "pending"
    await running.community(name=community)
    assert (await running.http.get(location(record))).json()["status"] == "completed"
    query = f"ActivityType = 'poll_processes' AND MetagovCommunity = '{community}'"

    async def nobody_polls() -> bool:
        return not [
            execution
            async for execution in running.client.list_activities(
                f"{query} AND ExecutionStatus = 'Running'"
            )
        ]

    await eventually(nobody_polls)
