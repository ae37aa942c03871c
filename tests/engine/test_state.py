"""State under concurrent writers, and of methods that raise."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import RunningEngine


@pytest.fixture
async def community(running: RunningEngine, tmp_path: Path) -> str:
    config = {"platform": str(tmp_path / "platform")}
    return await running.community({"name": "durable", "config": config})


async def value(running: RunningEngine, community: str, key: str) -> Any:
    return (await running.act(community, "durable.read", key=key)).json()["value"]


async def test_writers_of_different_keys_lose_nothing(
    running: RunningEngine, community: str
) -> None:
    answers = await asyncio.gather(
        *(running.act(community, "durable.put", key=f"k{n}", value=n) for n in range(60))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert [await value(running, community, f"k{n}") for n in range(0, 60, 7)] == [*range(0, 60, 7)]
    assert await value(running, community, "puts") == 60


async def test_of_writers_of_one_key_the_last_stays(running: RunningEngine, community: str) -> None:
    answers = await asyncio.gather(
        *(running.act(community, "durable.put", key="one", value=n) for n in range(20))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert await value(running, community, "one") in range(20)
    await running.act(community, "durable.put", key="one", value="last")
    assert await value(running, community, "one") == "last"


async def test_no_increment_is_lost(running: RunningEngine, community: str) -> None:
    await asyncio.gather(
        *(running.act(community, "durable.increment", key="n", seconds=0.2) for _ in range(40))
    )
    assert await value(running, community, "n") == 40


async def test_of_those_who_compare_and_set_one_wins(
    running: RunningEngine, community: str
) -> None:
    answers = await asyncio.gather(
        *(running.act(community, "durable.swap", new=n, seconds=0.5) for n in range(5))
    )
    winners = [a.json() for a in answers if a.status_code == 200 and a.json()["done"]]
    lost = [a for a in answers if a.status_code == 409]
    assert len(winners) == 1
    assert len(lost) == len([a for a in answers if a.status_code != 200])
    assert all("nothing of this one was stored" in a.json()["detail"] for a in lost)
    page = await running.http.get("/api/internal/events", params={"community": community})
    delivered = [item["data"]["data"]["new"] for item in page.json()["events"]]
    assert delivered == [await value(running, community, "holder")]


async def test_an_idempotent_action_is_tried_again_after_a_conflict(
    running: RunningEngine, community: str
) -> None:
    answers = await asyncio.gather(
        *(running.act(community, "durable.swap-again", new=n, seconds=0.5) for n in range(3))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["done"] for answer in answers) == [False, False, True]


async def test_a_method_that_raises_leaves_state_as_it_was(
    running: RunningEngine, community: str
) -> None:
    await running.act(community, "durable.put", key="k", value="before")
    failed = await running.act(community, "durable.put", key="k", value="after", fail=True)
    assert failed.status_code == 500
    assert await value(running, community, "k") == "before"
    assert await value(running, community, "puts") == 1


async def test_only_numbers_are_incremented(running: RunningEngine, community: str) -> None:
    await running.act(community, "durable.put", key="text", value="x")
    answer = await running.act(community, "durable.increment", key="text")
    assert answer.status_code == 500
    assert await value(running, community, "text") == "x"


async def test_objects_of_the_plugins_own_are_kept(running: RunningEngine) -> None:
    community = await running.community({"name": "troublesome", "config": {}})
    assert (await running.act(community, "troublesome.keep", text="abba")).status_code == 200
    kept = await running.act(community, "troublesome.kept")
    assert kept.json() == {"text": "abba", "from": "192.0.2.1", "read": {"a": 2, "b": 2}}
