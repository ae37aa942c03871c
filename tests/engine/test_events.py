"""Reading events and callbacks without an endpoint: pages, long poll, server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from engine.requests.feed import Feed
from engine.store import outbox
from tests.engine.conftest import RunningEngine
from tests.servers import eventually

EVENTS = "/api/internal/events"


async def community_of_tutorial(running: RunningEngine) -> str:
    return await running.community({"name": "tutorial", "config": {"api_key": "k"}})


async def send(running: RunningEngine, community: str, number: int) -> None:
    """Have the community's plugin send its driver an event."""
    body = {"account": "alice", "data": {"n": number}}
    answer = await running.http.post(f"/api/hooks/{community}/tutorial", json=body)
    assert answer.status_code == 200


async def read(running: RunningEngine, **params: Any) -> dict[str, Any]:
    answer = await running.http.get(EVENTS, params=params)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def read_until(
    running: RunningEngine, count: int, **params: Any
) -> tuple[list[dict[str, Any]], str]:
    """Read on by long poll until there are so many; gives them and the last cursor."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        page = await read(running, wait=10, **params)
        assert 0 < len(page["events"]) <= params.get("limit", 50), "nothing in time, or too much"
        found += page["events"]
        params["after"] = page["next_cursor"]
    return found, params["after"]


async def test_reading_on_gives_each_item_once_and_in_order(running: RunningEngine) -> None:
    community = await community_of_tutorial(running)
    for number in range(5):
        await send(running, community, number)
    items, cursor = await read_until(running, 5, community=community, limit=2)
    assert [item["position"] for item in items] == [1, 2, 3, 4, 5]
    assert len({item["id"] for item in items}) == 5
    assert {item["type"] for item in items} == {"event"}
    assert sorted(item["data"]["data"]["n"] for item in items) == [0, 1, 2, 3, 4]
    assert items[0]["data"]["event_type"] == "post_created"
    rest = await read(running, community=community, after=cursor)
    assert rest == {"events": [], "next_cursor": cursor}


async def test_callbacks_are_in_the_same_sequence(running: RunningEngine) -> None:
    community = await running.community({"name": "troublesome", "config": {}})
    started = await running.start(community, "troublesome.fragile")
    await running.http.delete(started.headers["location"])
    # It was stored before the request was answered: a reader need not wait for it.
    items = (await read(running, community=community))["events"]
    assert [item["type"] for item in items] == ["process"]
    assert items[0]["data"]["id"] == started.json()["id"]


async def test_long_poll_answers_as_soon_as_there_is_something(running: RunningEngine) -> None:
    community = await community_of_tutorial(running)
    latest = (await read(running, after="latest"))["next_cursor"]
    before = time.monotonic()
    waiting = asyncio.create_task(read(running, after=latest, community=community, wait=30))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await send(running, community, 1)
    page = await waiting
    assert [item["data"]["data"] for item in page["events"]] == [{"n": 1}]
    assert time.monotonic() - before < 10
    empty = await read(running, after=page["next_cursor"], community=community, wait=0.3)
    assert empty["events"] == []


async def test_readers_of_all_communities_miss_nothing(running: RunningEngine) -> None:
    """Transactions that end in another order than they began in are the danger."""
    communities = [await community_of_tutorial(running) for _ in range(4)]
    start = (await read(running, after="latest"))["next_cursor"]

    async def follow() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after = start
        while len([i for i in found if i["community"] in communities]) < 40:
            page = await read(running, after=after, limit=3, wait=15)
            assert page["events"], "nothing came in time"
            found += page["events"]
            after = page["next_cursor"]
        return [item for item in found if item["community"] in communities]

    readers = [asyncio.create_task(follow()) for _ in range(3)]

    async def send_ten(community: str) -> None:
        for number in range(10):
            await send(running, community, number)

    await asyncio.gather(*map(send_ten, communities))
    for found in await asyncio.gather(*readers):
        for community in communities:
            positions = [i["position"] for i in found if i["community"] == community]
            assert positions == list(range(1, 11))


async def events_of(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line and event:
            yield event
            event = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


async def test_stream_goes_on_after_the_last_event(running: RunningEngine) -> None:
    community = await community_of_tutorial(running)
    params = {"community": community}
    for number in range(3):
        await send(running, community, number)
    seen: list[dict[str, str]] = []
    async with running.http.stream("GET", f"{EVENTS}/stream", params=params) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for event in events_of(response):
            if "data" in event:
                seen.append(event)
            if len(seen) == 2:
                break
    assert [event["event"] for event in seen] == ["event", "event"]
    headers = {"Last-Event-ID": seen[-1]["id"]}
    async with running.http.stream(
        "GET", f"{EVENTS}/stream", params=params, headers=headers
    ) as response:
        stream = events_of(response)
        third = await anext(item async for item in stream if "data" in item)
        await send(running, community, 3)
        fourth = await anext(item async for item in stream if "data" in item)
    positions = [json.loads(item["data"])["position"] for item in [*seen, third, fourth]]
    assert positions == [1, 2, 3, 4]


async def test_what_a_browser_read_last_goes_before_the_address(running: RunningEngine) -> None:
    """A browser that connects again repeats the address, with the cursor that it began with."""
    community = await community_of_tutorial(running)
    for number in range(3):
        await send(running, community, number)
    items, _ = await read_until(running, 3, community=community)
    answer = await running.http.get(
        EVENTS,
        params={"community": community, "after": items[0]["cursor"]},
        headers={"Last-Event-ID": items[1]["cursor"]},
    )
    assert [item["position"] for item in answer.json()["events"]] == [3]


async def test_a_communitys_order_is_that_of_its_positions(running: RunningEngine) -> None:
    """Two workers' clocks differ: what came second may say that it was made first."""
    name = f"c-{uuid4().hex}"
    async with running.engine.database.write() as session:
        for seconds in (5, 0, 3):
            item = await outbox.append(
                session, community=name, kind=outbox.EVENT, body={}, url=None
            )
            item.created_at -= timedelta(seconds=10 - seconds)
    items = (await read(running, community=name))["events"]
    assert [item["position"] for item in items] == [1, 2, 3]


async def test_communities_are_read_in_order_of_time(running: RunningEngine) -> None:
    first, second = sorted(f"c-{uuid4().hex}" for _ in range(2))
    latest = (await read(running, after="latest"))["next_cursor"]
    async with running.engine.database.write() as session:
        for name, seconds in ((first, 4), (first, 2), (second, 3), (second, 1)):
            item = await outbox.append(
                session, community=name, kind=outbox.EVENT, body={}, url=None
            )
            item.created_at -= timedelta(seconds=seconds)
    items = (await read(running, after=latest))["events"]
    delivered = [item["community"] for item in items if item["community"] in (first, second)]
    assert delivered == [first, second, first, second]


async def test_items_are_numbered_until_none_is_left(
    running: RunningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_NUMBERED_AT_ONCE", 2)
    name = f"c-{uuid4().hex}"
    async with running.engine.database.write() as session:
        for _ in range(5):
            await outbox.append(session, community=name, kind=outbox.EVENT, body={}, url=None)
    items = (await read(running, community=name))["events"]
    assert [item["position"] for item in items] == [1, 2, 3, 4, 5]


async def test_readers_are_woken_by_what_comes(running: RunningEngine) -> None:
    """All of them, long before their time is up."""
    feed = Feed(running.engine.database, running.engine.settings.data_dir)
    name = f"c-{uuid4().hex}"
    latest = await feed.latest()
    reading = [feed.read(latest, community=name, limit=10, wait=30) for _ in range(3)]
    readers = [asyncio.create_task(one) for one in reading]
    await eventually(lambda: feed._waiting == 3)
    async with running.engine.database.write() as session:
        await outbox.append(session, community=name, kind=outbox.EVENT, body={}, url=None)
    async with asyncio.timeout(10):
        found = await asyncio.gather(*readers)
    assert [[item.position for item in items] for items in found] == [[1], [1], [1]]
    await feed.close()


async def test_readers_go_when_the_api_stops(running: RunningEngine) -> None:
    feed = Feed(running.engine.database, running.engine.settings.data_dir)
    latest = await feed.latest()
    reader = asyncio.create_task(feed.read(latest, community="none", limit=10, wait=30))
    await eventually(lambda: feed._waiting == 1)
    feed.stop()
    async with asyncio.timeout(10):
        assert await reader == []
    await feed.close()


@pytest.mark.parametrize("path", ["", "/stream"])
@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "1-", "1-2-3", "1" * 30, "\u0661"])
async def test_cursors_that_are_none(running: RunningEngine, path: str, cursor: str) -> None:
    answer = await running.http.get(f"{EVENTS}{path}", params={"after": cursor})
    assert answer.status_code == 400
    assert answer.json()["errors"] == [
        {"path": "/after", "message": "no cursor that this endpoint gave"}
    ]


@pytest.mark.parametrize("params", [{"wait": 61}, {"wait": -1}, {"limit": 0}, {"limit": 501}])
async def test_bad_limits(running: RunningEngine, params: dict[str, Any]) -> None:
    assert (await running.http.get(EVENTS, params=params)).status_code == 400
