"""A Temporal server that hangs, or is killed: what is certain is answered, and never a raw 500."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from temporalio.client import Client

from api.app import create_app
from cli.temporal_server import temporal_command
from engine.messages import SEARCH_ATTRIBUTES
from engine.sdk.registry import Registry
from engine.settings import Settings
from engine.temporal import connect, ensure_search_attributes
from faults.cluster import Program
from sandbox.ports import free_ports
from tests.engine.conftest import RunningEngine, run_engine
from tests.servers import eventually, serve


@dataclass
class World:
    """An engine with a Temporal server of its own."""

    running: RunningEngine
    server: Program
    settings: Settings

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.server.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.send(signal.SIGCONT)


@pytest.fixture
async def world(
    plugins: None, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    ports = free_ports(2)
    settings = Settings(data_dir=tmp_path, temporal_port=ports[0], temporal_ui_port=ports[1])
    command = temporal_command(settings, tmp_path)
    server = Program("temporal", command, dict(os.environ), tmp_path / "temporal.log")
    async with AsyncExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        client = await connect(settings)
        await eventually(lambda: _prepared(client), seconds=60)
        limits = {
            "worker_wait_seconds": 1,
            "close_wait_seconds": 3,
            **getattr(request, "param", {}),
        }
        url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
        running = await stack.enter_async_context(run_engine(client, url, tmp_path, **limits))
        yield World(running, server, settings)


async def _prepared(client: Client) -> bool:
    try:
        await ensure_search_attributes(client, SEARCH_ATTRIBUTES)
    except Exception:
        return False
    return True


async def test_webhooks_are_taken_while_temporal_hangs(world: World) -> None:
    running = world.running
    community = await running.community({"name": "tutorial", "config": {"api_key": "k"}})
    numbers = itertools.count()

    async def send() -> float:
        started, body = time.monotonic(), {"account": "a", "data": {"n": next(numbers)}}
        answer = await running.http.post(f"/api/hooks/{community}/tutorial", json=body)
        assert answer.status_code == 200, answer.text
        return time.monotonic() - started

    async def is_taken_at_once() -> bool:
        return await send() < 0.5

    with world.frozen():
        assert max(await asyncio.gather(*(send() for _ in range(60)))) < 15
        # After a while the server is known to hang, and nobody waits for it.
        await eventually(is_taken_at_once)
        assert sum([await send() for _ in range(40)]) < 20
    sent = next(numbers)
    await eventually(lambda: len(running.driver.to("events")) == sent, seconds=90)
    delivered = [event["data"]["n"] for event in running.driver.to("events")]
    assert sorted(delivered) == list(range(sent))


def assert_answered(answer: httpx.Response, *allowed: int) -> None:
    """An answer that is one of those, and a problem if it is an error."""
    assert answer.status_code in allowed, f"{answer.request.url} {answer.text}"
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code == 503) == ("retry-after" in answer.headers)


# So long that the SDK's own time-out of 30 s comes first.
@pytest.mark.parametrize("world", [{"invocation_timeout_seconds": 7}], indirect=True)
async def test_every_route_while_temporal_hangs(world: World) -> None:
    running, http = world.running, world.running.http
    plugin = {"name": "troublesome", "config": {}}
    community, gone = await running.community(plugin), await running.community(plugin)
    webhooks = await running.community({"name": "tutorial", "config": {"api_key": "k"}})
    hook = f"/api/hooks/{webhooks}/tutorial"
    started = await running.start(community, "troublesome.fragile")
    closed = await running.start(community, "troublesome.fragile")
    await http.post(hook, json={"account": "a", "data": {"n": 1}})
    await eventually(lambda: running.driver.to("events"))
    handled = await eventually(lambda: _first(http, "/api/internal/webhooks?status=handled"))
    delivered = await eventually(lambda: _first(http, "/api/internal/deliveries?status=delivered"))
    name, key = f"c-{uuid4().hex[:12]}", {"Idempotency-Key": uuid4().hex}
    change = {"name": name, "plugins": [{"name": "registering", "config": {"n": 1}}]}
    path = f"/api/internal/community/{name}"
    since = {"since": "2020-01-01T00:00:00Z"}
    under_way = [
        asyncio.create_task(
            running.act(community, "troublesome.counted", id=f"{community}-{n}", seconds=3)
        )
        for n in range(4)
    ]
    await asyncio.sleep(1)
    with world.frozen():
        waiting = asyncio.create_task(http.get(started.headers["location"], params={"wait": 32}))
        changing = asyncio.gather(
            *under_way,
            running.act(community, "troublesome.counted", id="late"),
            running.start(community, "troublesome.fragile"),
            http.delete(closed.headers["location"]),
            http.put(path, json=change, headers=key),
            http.post("/api/internal/community", json={"plugins": [plugin]}),
            http.delete(f"/api/internal/community/{gone}"),
        )
        for answer in (
            await http.post(f"/api/internal/webhooks/{handled}/replay"),
            await http.post(f"/api/internal/deliveries/{delivered}/redeliver"),
            await http.post("/api/internal/webhooks/replay", json=since | {"status": "handled"}),
            await http.post(
                "/api/internal/deliveries/redeliver", json=since | {"status": "delivered"}
            ),
            await http.get("/api/internal/events"),
            await waiting,
        ):
            assert_answered(answer, 200, 202)
        assert_answered(await http.get("/readyz"), 503)
        answers = await changing
        for answer in answers[:4]:
            # The worker has stored the result, whether it could report it to Temporal or not.
            assert (answer.status_code, answer.json()) == (200, {"tries": 1})
        for answer in answers[4:]:
            assert_answered(answer, 503, 504)
    assert answers[4].status_code == 503
    # The changes were taken back: nothing of them is done when Temporal answers again.
    assert [answer.status_code for answer in answers[-3:]] == [503] * 3
    assert "nothing was done" in answers[-1].json()["detail"]
    # What was stored as to be sent and handled again is.
    await eventually(lambda: len(running.driver.to("events")) >= 3, seconds=30)
    again = await http.put(path, json=change, headers=key)
    assert again.status_code == 201, again.text
    made = Registry.plugins["registering"].cls.on_platform  # type: ignore[attr-defined]
    assert made.count(f"{name}/1") == 1
    assert (await http.get(f"/api/internal/community/{gone}")).status_code == 200


async def _first(http: httpx.AsyncClient, path: str) -> str | None:
    listed = next(iter((await http.get(path)).json().values()))
    return listed[0]["id"] if listed else None


async def test_an_api_that_starts_while_temporal_hangs(world: World, tmp_path: Path) -> None:
    """It has no connection yet, and takes what it can take all the same."""
    community = await world.running.community({"name": "tutorial", "config": {"api_key": "k"}})
    settings = world.running.engine.settings.model_copy(
        update={"temporal_address": f"127.0.0.1:{world.settings.temporal_port}"}
    )
    with world.frozen():
        async with (
            serve(create_app(settings)) as url,
            httpx.AsyncClient(base_url=url, timeout=20) as http,
        ):
            header = {"X-Metagov-Community": community}
            body = {"account": "a", "data": {"n": 1}}
            hook = f"/api/hooks/{community}/tutorial"
            started = time.monotonic()
            acted, taken, ready = await asyncio.gather(
                http.post(
                    "/api/internal/action/tutorial.times-two",
                    json={"parameters": {"value": 1}},
                    headers=header,
                ),
                http.post(hook, json=body),
                http.get("/readyz"),
            )
            assert time.monotonic() - started < 6
            for answer, status in ((acted, 503), (taken, 200), (ready, 503)):
                assert_answered(answer, status)
            os.kill(world.server.process.pid, signal.SIGCONT)  # type: ignore[union-attr]
            delivered = await eventually(lambda: world.running.driver.to("events"), seconds=60)
    assert [event["data"] for event in delivered] == [{"n": 1}]


async def test_temporal_is_killed_and_started_again(world: World) -> None:
    running, http = world.running, world.running.http
    plugin = {"name": "tutorial", "config": {"api_key": "k"}}
    community = await running.community(plugin)
    pending = await running.start(community, "tutorial.show-of-hands", question="?")
    acting = asyncio.create_task(running.act(community, "tutorial.times-two", value=1))
    world.server.send(signal.SIGKILL)
    path = f"/api/internal/community/{community}"
    changed = {"name": community, "readable_name": "changed", "plugins": [plugin]}
    for answer in await asyncio.gather(
        acting,
        running.act(community, "tutorial.times-two", value=2),
        running.start(community, "tutorial.show-of-hands", question="?"),
        http.delete(pending.headers["location"]),
        http.put(path, json=changed),
        http.delete(path),
    ):
        assert_answered(answer, 200, 503, 504)
    taken = await http.post(
        f"/api/hooks/{community}/tutorial", json={"account": "a", "data": {"n": 1}}
    )
    assert_answered(taken, 200)
    world.server.start()
    await eventually(lambda: running.driver.to("events"), seconds=60)
    assert_answered(await http.put(path, json=changed), 200)
