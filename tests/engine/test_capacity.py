"""Over capacity: a clear 503, and no kind of request shuts out another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.engine.conftest import RunningEngine, run_engine
from tests.servers import eventually


@pytest.fixture
async def small(temporal: Client, plugins: None, tmp_path: Path) -> AsyncIterator[RunningEngine]:
    """An engine that works on two requests of a kind at once."""
    limits = {
        "max_concurrent_requests": 2,
        "max_concurrent_webhooks": 2,
        "max_concurrent_readers": 2,
        "capacity_wait_seconds": 0.3,
    }
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    async with run_engine(temporal, url, tmp_path, **limits) as running:
        yield running


async def test_what_is_over_capacity_hears_503(small: RunningEngine) -> None:
    community = await small.community({"name": "troublesome", "config": {}})
    answers = await asyncio.gather(
        *(small.act(community, "troublesome.counted", id=str(n), seconds=1.5) for n in range(6))
    )
    taken = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert (len(taken), len(refused)) == (2, 4)
    for answer in refused:
        assert answer.headers["retry-after"]
        assert answer.headers["content-type"] == "application/problem+json"
        assert "over capacity; nothing was done" in answer.json()["detail"]
    later = await small.act(community, "troublesome.counted", id="later")
    assert later.status_code == 200


async def test_who_waits_for_news_shuts_out_nobody(small: RunningEngine) -> None:
    community = await small.community({"name": "troublesome", "config": {}})
    readers = [
        asyncio.create_task(
            small.http.get("/api/internal/events", params={"after": "latest", "wait": 2})
        )
        for _ in range(3)
    ]
    await asyncio.sleep(0.6)
    assert (await small.act(community, "troublesome.counted", id="now")).status_code == 200
    assert (await small.http.get("/readyz")).status_code == 200
    statuses = sorted([(await reader).status_code for reader in readers])
    assert statuses == [200, 200, 503]


async def test_a_flood_of_large_webhooks_is_bounded(small: RunningEngine) -> None:
    """Whatever is not taken is refused at once; drivers are served meanwhile."""
    community = await small.community({"name": "tutorial", "config": {"api_key": "k"}})
    body = b'{"account": "a", "data": {"x": "' + b"x" * 1_000_000 + b'"}}'
    flood = [
        asyncio.create_task(small.http.post(f"/api/hooks/{community}/tutorial", content=body))
        for _ in range(40)
    ]
    await asyncio.sleep(0.1)
    assert (await small.act(community, "tutorial.times-two", value=2)).status_code == 200
    statuses = {(await request).status_code for request in flood}
    assert statuses <= {200, 503}
    assert 200 in statuses


async def test_receivers_that_hang_hold_up_their_own_only(
    temporal: Client, plugins: None, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    async with run_engine(temporal, url, tmp_path, invocation_timeout_seconds=10) as running:
        first, second = [
            await running.community(
                {"name": "durable", "config": {"platform": str(tmp_path / name)}}
            )
            for name in ("one", "two")
        ]
        for number in range(6):
            path = f"/api/hooks/{first}/durable"
            await running.http.post(path, content=f"stuck-{number}")
        await eventually(lambda: (tmp_path / "one").exists())
        await running.http.post(f"/api/hooks/{second}/durable", content="hello")
        await eventually(lambda: (tmp_path / "two").exists(), 5)
