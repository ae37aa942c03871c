"""Processes whose class asks for many with one request: the instance is polled, not each one."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from engine.messages import poll_processes
from engine.sdk.registry import Registry
from engine.store import communities, pacing
from engine.store.database import utc_now
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
    # 25 in twos: twenty and five, once a second, not twenty-five a second.
    await eventually(lambda: sorted(asked(platform)[-2:]) == [5, 20])
    polls = asked(platform)
    assert max(polls) == 20
    assert len(polls) < 25
    for record in records[:3]:
        note(platform, f"end {record['id']}")
    for record in records[:3]:
        done = await running.completed(location(record))
        assert done["outcome"] == {"ended": True}
    delivered = await eventually(
        lambda: [b for b in running.driver.to(community) if b["status"] == "completed"]
    )
    await eventually(
        lambda: len([b for b in running.driver.to(community) if b["status"] == "completed"]) == 3
    )
    assert {body["id"] for body in delivered} <= {record["id"] for record in records[:3]}
    workflow = running.client.get_workflow_handle(f"process/{community}/{CROWD}/{records[0]['id']}")
    assert (await workflow.result())["status"] == "completed"


async def test_other_ways_go_on_beside(
    running: RunningEngine, community: str, platform: Path
) -> None:
    """A webhook and a close while the platform is being asked: neither is lost or overwritten."""
    heard, closed = await start_many(running, community, 2)
    before = len(asked(platform))
    note(platform, f"hold\nend {heard['id']}")
    await eventually(lambda: len(asked(platform)) > before)
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

    async def has_received() -> bool:
        record = (await running.http.get(location(heard))).json()
        return bool(record["outcome"] == {"heard": ["word"]})

    await eventually(has_received)
    note(platform, "go on")
    record = await running.completed(location(heard))
    assert record["outcome"] == {"heard": ["word"], "ended": True}


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


@one_database
async def test_all_are_polled_where_the_platform_takes_few_calls(running: RunningEngine) -> None:
    community = await running.community({"name": "paced", "config": {}})
    started = [(await running.start(community, "paced.few")).json()["id"] for _ in range(10)]
    polled = sys.modules[Registry.plugins["paced"].cls.__module__].POLLED
    await eventually(lambda: all(polled[process_id] >= 2 for process_id in started))


@one_database
async def test_polls_begin_also_when_temporal_goes_away_after_the_start(
    running: RunningEngine, community: str, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = running.engine.temporal.background._rpc.client
    start_activity = client.start_activity
    failures = [RPCError("connection refused", RPCStatusCode.UNAVAILABLE, b"")]

    async def once_away(activity: Any, *arguments: Any, **options: Any) -> Any:
        if activity is poll_processes and failures:
            raise failures.pop()
        return await start_activity(activity, *arguments, **options)

    monkeypatch.setattr(client, "start_activity", once_away)
    (record,) = await start_many(running, community, 1)
    assert record["status"] == "pending"
    await eventually(lambda: asked(platform))


@one_database
async def test_a_poll_of_many_that_takes_its_process_down_rests(running: RunningEngine) -> None:
    community = await running.community({"name": "poisonous", "config": {}})
    database = running.engine.database
    async with database.write() as session:
        (instance,) = await communities.instances_of(session, community)
        # Else it would take this process down, and pytest with it.
        await pacing.isolate(session, instance.id, utc_now() + timedelta(hours=1))
    started = await running.start(community, "poisonous.crowd")

    def paused() -> bool:
        delivered = [
            event for event in running.driver.to("events") if event["community"] == community
        ]
        return [event["event_type"] for event in delivered] == ["plugin_paused"]

    await eventually(paused, 40)
    read = await running.http.get(started.headers["location"])
    assert read.json()["status"] == "pending"
