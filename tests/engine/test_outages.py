"""The database is locked, or away, while work is under way: it waits, and is done once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.engine.conftest import RunningEngine, run_engine
from tests.servers import eventually


@pytest.fixture
async def impatient(
    temporal: Client, plugins: None, tmp_path: Path
) -> AsyncIterator[tuple[RunningEngine, Path, Path]]:
    """An engine that waits for SQLite's lock for half a second only, and the files behind it."""
    file = tmp_path / "engine.sqlite"
    async with run_engine(
        temporal, f"sqlite:///{file}", tmp_path, database_timeout_seconds=0.5
    ) as running:
        yield running, file, tmp_path / "platform"


@asynccontextmanager
async def locked(file: Path) -> AsyncIterator[None]:
    """Keep everybody else from writing."""
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    # In a thread: the engine needs the loop to end the transaction that it may be at.
    await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


async def test_what_was_done_is_stored_after_the_lock(
    impatient: tuple[RunningEngine, Path, Path],
) -> None:
    """Plugin code has run when the lock is taken: its effect is neither lost nor repeated."""
    running, file, platform = impatient
    community = await running.community({"name": "durable", "config": {"platform": str(platform)}})
    acting = asyncio.create_task(running.act(community, "durable.once", id="a", seconds=1))
    starting = asyncio.create_task(running.start(community, "durable.blind", id="v", after=1))
    await eventually(lambda: platform.exists() and platform.read_text().count("\n") == 2)
    async with locked(file):
        await asyncio.sleep(4)
        assert not acting.done()
        assert not starting.done()
    acted, started = await acting, await starting
    assert (acted.status_code, acted.json()) == (200, {"made": 1})
    assert (started.status_code, started.json()["status"]) == (202, "pending")
    assert platform.read_text().count("\n") == 2
    await eventually(lambda: len(running.driver.to("events")) == 1)


async def test_requests_say_503_while_nothing_can_be_stored(
    impatient: tuple[RunningEngine, Path, Path],
) -> None:
    running, file, platform = impatient
    community = await running.community({"name": "durable", "config": {"platform": str(platform)}})
    async with locked(file):
        answers = [
            await running.act(community, "durable.once", id="a"),
            await running.start(community, "durable.vote", id="v"),
            await running.http.post(f"/api/hooks/{community}/durable", content="hello"),
        ]
    for answer in answers:
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert answer.json()["detail"] == "The database does not answer; try again"
    assert not platform.exists()


async def test_a_delivery_that_arrived_is_not_sent_again_after_the_lock(
    impatient: tuple[RunningEngine, Path, Path],
) -> None:
    running, file, platform = impatient
    community = await running.community({"name": "durable", "config": {"platform": str(platform)}})
    started = await running.start(
        community, "durable.vote", id="v", callback_url=f"{running.driver.url}/callback"
    )
    assert (await running.http.delete(started.headers["location"])).status_code == 200
    await eventually(lambda: running.driver.to("callback"))
    async with locked(file):
        # Longer than the first pause before a retry would be.
        await asyncio.sleep(2)
    listed = f"/api/internal/deliveries?community={community}&status=delivered"
    await eventually(lambda: _any(running, listed))
    assert len(running.driver.to("callback")) == 1


async def _any(running: RunningEngine, path: str) -> bool:
    return bool((await running.http.get(path)).json()["deliveries"])
