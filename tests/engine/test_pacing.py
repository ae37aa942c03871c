"""Polls and calls keep to the pace that the platform allows, and that a process chooses."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import timedelta
from pathlib import Path

import pytest

from engine.messages import process_workflow_id
from engine.store import pacing
from engine.store.database import new_id, utc_now
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    path = tmp_path / "platform"
    path.touch()
    return path


@pytest.fixture
async def community(running: RunningEngine, platform: Path) -> str:
    return await running.community({"name": "limited", "config": {"platform": str(platform)}})


def moments(platform: Path, kind: str) -> list[float]:
    lines = platform.read_text().splitlines()
    return [float(line.split()[1]) for line in lines if line.startswith(f"{kind} ")]


async def test_calls_are_spaced_as_the_plugin_declares(
    running: RunningEngine, community: str, platform: Path
) -> None:
    answers = await asyncio.gather(*(running.act(community, "limited.call") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    made = sorted(moments(platform, "call"))
    pauses = [after - before for before, after in itertools.pairwise(made)]
    assert len(made) == 8
    # Four a second: a little early is the clock of the thread that wrote it.
    assert min(pauses) > 0.15
    assert made[-1] - made[0] > 1.6


@one_database
async def test_a_call_whose_turn_is_too_far_off_gets_its_time(
    running: RunningEngine, community: str, platform: Path
) -> None:
    answers = await asyncio.gather(*(running.act(community, "limited.call") for _ in range(40)))
    refused = [answer for answer in answers if answer.status_code == 502]
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 5 for answer in refused)
    assert len(moments(platform, "call")) == 40 - len(refused)


@one_database
async def test_when_the_platform_has_enough_all_of_the_instance_wait(
    running: RunningEngine, community: str, platform: Path
) -> None:
    started = [await running.start(community, "limited.watched") for _ in range(3)]
    await eventually(lambda: len(moments(platform, "poll")) >= 3)
    with platform.open("a") as file:
        file.write("".join(f"enough {answer.json()['id']}\n" for answer in started))
    before = len(moments(platform, "poll"))
    await eventually(lambda: len(moments(platform, "poll")) > before)
    refused = await running.act(community, "limited.call")
    assert refused.status_code in (200, 502)
    seen = len(moments(platform, "poll"))
    await eventually(lambda: len(moments(platform, "poll")) > seen)
    polls = moments(platform, "poll")[before:]
    pauses = [after - before for before, after in itertools.pairwise(polls)]
    # One or two may have been on their way when the first heard of it; then nobody asks.
    assert max(pauses) > 3.8
    assert len(polls) <= 5


@one_database
async def test_a_process_chooses_when_it_is_polled_next(
    running: RunningEngine, community: str, platform: Path
) -> None:
    began = time.time()
    await running.start(community, "limited.watched", first=3, again=2)
    await eventually(lambda: len(moments(platform, "poll")) >= 3)
    polls = moments(platform, "poll")
    assert 2.5 < polls[0] - began < 15
    assert 1.8 < polls[1] - polls[0] < 15
    assert 1.8 < polls[2] - polls[1] < 15


@one_database
async def test_polls_are_spaced_as_the_plugin_declares(
    running: RunningEngine, community: str, platform: Path
) -> None:
    """Eight processes that want to be polled each second, and a platform that takes four."""
    for _ in range(8):
        await running.start(community, "limited.watched")
    await eventually(lambda: len(moments(platform, "poll")) >= 24, 30)
    polls = moments(platform, "poll")
    assert len(polls) / (polls[-1] - polls[0]) < 5


@one_database
async def test_each_try_of_the_activity_is_one_poll(running: RunningEngine) -> None:
    """Without a rate limit no try is spent on waiting for a turn."""
    community = await running.community({"name": "reader", "config": {"api_key": "x"}})
    started = await running.start(community, "reader.polled", after=4)
    await running.completed(started.headers["location"])
    handle = running.client.get_workflow_handle(
        process_workflow_id(community, "reader.polled", started.json()["id"])
    )
    history = await handle.fetch_history()
    tries = [
        event.activity_task_started_event_attributes.attempt
        for event in history.events
        if event.HasField("activity_task_started_event_attributes")
    ]
    # The first try only plans the next one.
    assert max(tries) == 1 + 4


async def test_a_shorter_pause_does_not_end_a_longer_one(running: RunningEngine) -> None:
    instance_id, now = new_id(), utc_now()
    for seconds in (10, 60, 1):
        async with running.engine.database.write() as session:
            await pacing.pause(session, instance_id, now + timedelta(seconds=seconds))
    async with running.engine.database.read() as session:
        pace = await session.get_one(pacing.InstancePace, instance_id)
    assert pace.paused_until == now + timedelta(seconds=60)


@one_database
async def test_webhooks_more_often_than_polls_do_not_put_polls_off_for_ever(
    running: RunningEngine, platform: Path
) -> None:
    community = await running.community({"name": "durable", "config": {"platform": str(platform)}})
    callback = f"{running.driver.url}/{community}"
    await running.start(community, "durable.vote", id="v", callback_url=callback)
    with platform.open("a") as file:
        file.write("news v arrived\n")
    numbers = itertools.count()

    async def polled() -> bool:
        hook, text = f"/api/hooks/{community}/durable", f"ballot-{next(numbers)}"
        await running.http.post(hook, content=text, headers={"X-Concerns": "v"})
        await asyncio.sleep(0.3)
        return any("news" in delivered["outcome"] for delivered in running.driver.to(community))

    await eventually(polled)
