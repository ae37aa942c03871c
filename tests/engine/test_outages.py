"""The database is locked, or away, while work is under way: it waits, and is done once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy.engine import make_url
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar
from temporalio.client import Client

from engine.store.invocations import RUNNING, Invocation
from tests.conftest import new_database
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


async def test_writers_do_not_wait_for_a_lock_one_after_the_other(
    impatient: tuple[RunningEngine, Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """However many they are, each gets 503 in its own time, and none of them is a fault."""
    running, file, platform = impatient
    community = await running.community({"name": "durable", "config": {"platform": str(platform)}})
    async with locked(file):
        started = time.monotonic()
        answers = await asyncio.gather(
            *(running.act(community, "durable.once", id=f"{n}") for n in range(40))
        )
        assert time.monotonic() - started < 10
    assert {answer.status_code for answer in answers} == {503}
    assert not [record for record in caplog.records if record.name == "uvicorn.error"]


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


async def test_whoever_holds_the_lock_for_long_makes_every_request_503(
    impatient: tuple[RunningEngine, Path, Path],
) -> None:
    """As a worker does that stands still inside of a transaction."""
    running, file, platform = impatient
    config = {"name": "durable", "config": {"platform": str(platform)}}
    community = await running.community(config)
    started = await running.start(community, "durable.vote", id="v")
    location, http = started.headers["location"], running.http
    hook = f"/api/hooks/{community}/durable"
    assert (await http.post(hook, content="hello")).status_code == 200
    journal = (await http.get("/api/internal/webhooks")).json()["webhooks"]
    endpoint = (await http.post("/api/internal/endpoints", json={"url": "https://d.test/"})).json()
    keyed = {"X-Metagov-Community": community, "Idempotency-Key": "k"}
    body: dict[str, object] = {"name": community, "readable_name": "x", "plugins": [config]}
    since = {"since": "2020-01-01T00:00:00Z"}
    own, hooks = f"/api/internal/community/{community}", "/api/internal/webhooks"
    asked: list[tuple[str, str, object]] = [
        ("POST", "/api/internal/action/durable.once", {"parameters": {"id": "a"}}),
        ("POST", "/api/internal/process/durable.vote", {"id": "w"}),
        ("POST", hook, {}),
        ("PUT", own, body),
        ("DELETE", own, None),
        ("POST", "/api/internal/endpoints", {"url": "https://e.test/"}),
        ("POST", f"/api/internal/endpoints/{endpoint['id']}/rotate-secret", {}),
        ("POST", f"/api/internal/endpoints/{endpoint['id']}/enable", {}),
        ("DELETE", f"/api/internal/endpoints/{endpoint['id']}", None),
        ("POST", f"{hooks}/{journal[0]['id']}/replay", {}),
        ("POST", f"{hooks}/replay", since),
        ("POST", "/api/internal/deliveries/redeliver", since),
    ]
    async with locked(file):
        answers = await asyncio.gather(
            *(
                http.request(method, path, json=content, headers=keyed)
                for method, path, content in asked
            )
        )
        read = await http.get(location)
    statuses = {f"{a.request.method} {a.request.url.path}": a.status_code for a in answers}
    assert statuses == {f"{method} {path}": 503 for method, path, _ in asked}
    assert read.status_code == 200


@asynccontextmanager
async def gone(database: str) -> AsyncIterator[None]:
    """Throw everybody out of a PostgreSQL database, and let nobody in."""
    url = make_url(database)
    server = url.set(database="postgres").render_as_string(hide_password=False)
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        await connection.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false')
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (url.database,),
        )
        yield
        await connection.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true')


async def test_a_database_that_goes_out_before_the_answer_leaves_the_outcome_unknown(
    temporal: Client, plugins: None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What was accepted and begun is never answered with 503: "nothing was done, try again"."""
    database, platform = new_database("postgresql", tmp_path, request), tmp_path / "platform"
    limits = {
        "database_outage_seconds": 2,
        "database_timeout_seconds": 1,
        "worker_wait_seconds": 2,
        "close_wait_seconds": 3,
    }
    async with run_engine(temporal, database, tmp_path, **limits) as running:
        community = await running.community(
            {"name": "durable", "config": {"platform": str(platform)}},
            {"name": "troublesome", "config": {}},
        )
        slow = await running.start(community, "troublesome.fragile", fail="close-slowly")
        headers = {"X-Metagov-Community": community, "Idempotency-Key": "k"}
        begun_closes = select(Invocation).where(
            col(Invocation.target) == "fragile#close", col(Invocation.status) == RUNNING
        )

        def ask(method: str, path: str, body: object = None) -> asyncio.Task[httpx.Response]:
            asked = running.http.request(
                method, f"/api/internal/{path}", json=body, headers=headers
            )
            return asyncio.create_task(asked)

        def act() -> asyncio.Task[httpx.Response]:
            body = {"parameters": {"id": "a", "seconds": 1}}
            return ask("POST", "action/durable.once", body)

        under_way = [act(), ask("POST", "process/durable.blind", {"id": "v", "after": 1})]
        under_way.append(asyncio.create_task(running.http.delete(slow.headers["location"])))
        await eventually(lambda: platform.exists() and platform.read_text().count("\n") == 2)
        await eventually(lambda: _count(running, begun_closes))
        async with gone(database):
            answers = await asyncio.gather(*under_way)
        assert [answer.status_code for answer in answers] == [504] * 3, [
            answer.text for answer in answers
        ]
        # The key stays taken: the same request has the effect no second time.
        again = await act()
        assert again.status_code == 504
        assert platform.read_text().count("action a") == 1


async def _count(running: RunningEngine, query: SelectOfScalar[Invocation]) -> int:
    async with running.engine.database.read() as session:
        return len((await session.exec(query)).all())


async def test_a_database_that_dies_while_it_stores_a_request_leaves_the_outcome_unknown(
    temporal: Client, plugins: None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = new_database("postgresql", tmp_path, request)
    async with run_engine(temporal, database, tmp_path) as running:
        community = await running.community({"name": "troublesome", "config": {}})
        url = make_url(database).render_as_string(hide_password=False)
        async with (
            await psycopg.AsyncConnection.connect(url) as holder,
            await psycopg.AsyncConnection.connect(url, autocommit=True) as killer,
        ):
            await holder.execute("LOCK TABLE invocation IN ACCESS EXCLUSIVE MODE")
            acting = asyncio.create_task(running.act(community, "troublesome.counted", id="dies"))
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

            async def waits() -> bool:
                return await (await killer.execute(waiting)).fetchone() is not None

            await eventually(waits)
            await killer.execute(f"SELECT pg_terminate_backend(pid) FROM ({waiting}) AS waiting")
            await holder.rollback()
        answer = await acting
    assert answer.status_code == 504, answer.text
    assert answer.json()["type"].endswith("outcome_unknown")
