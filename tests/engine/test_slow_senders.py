"""Clients that send slowly, or half: they keep nobody waiting, and get 408."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from api.app import create_app
from api.server import serve_config
from engine.settings import Settings
from engine.store.database import open_database
from engine.store.schema import migrate
from tests.engine.conftest import RunningEngine, run_engine
from tests.servers import eventually, serve

BODY = b'{"account": "alice", "data": {"n": 1}}'


@pytest.fixture
async def small(
    temporal: Client, plugins: None, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[RunningEngine]:
    """An engine that works on two requests of a kind at once."""
    limits: dict[str, Any] = {
        "max_concurrent_requests": 2,
        "max_concurrent_webhooks": 2,
        "capacity_wait_seconds": 0.3,
        "request_arrival_seconds": 9,
        **getattr(request, "param", {}),
    }
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    async with run_engine(temporal, url, tmp_path, **limits) as running:
        yield running


class Sender:
    """A client that decides itself when it sends what."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def answer(self, seconds: float = 15) -> tuple[int, dict[str, str], bytes]:
        """The answer, read until the server closes the connection."""
        async with asyncio.timeout(seconds):
            head, _, body = (await self.reader.read()).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), headers, body


@asynccontextmanager
async def senders(base: str, count: int) -> AsyncIterator[list[Sender]]:
    """Open connections."""
    url = httpx.URL(base)
    opened = [Sender(*await asyncio.open_connection(url.host, url.port)) for _ in range(count)]
    try:
        yield opened
    finally:
        for sender in opened:
            sender.writer.close()


def head(path: str, length: int, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"Content-Length: {length}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_half_sent_bodies_keep_nobody_waiting(small: RunningEngine) -> None:
    community = await small.community({"name": "tutorial", "config": {"api_key": "k"}})
    hook, base = f"/api/hooks/{community}/tutorial", str(small.http.base_url)
    async with senders(base, 60) as opened:
        for number, sender in enumerate(opened):
            path = hook if number % 2 else "/api/internal/action/tutorial.times-two"
            await sender.send(head(path, len(BODY), **{"X-Metagov-Community": community}))
            await sender.send(BODY[:10])
        started = time.monotonic()
        for n in range(5):
            taken = await small.http.post(hook, json={"account": "a", "data": {"n": n}})
            assert taken.status_code == 200, taken.text
            acted = await small.act(community, "tutorial.times-two", value=n)
            assert acted.json() == {"result": 2 * n}
        # Nobody has waited until those who are still sending were given up.
        assert time.monotonic() - started < small.engine.settings.request_arrival_seconds
        delivered = await eventually(lambda: len(small.driver.to("events")) == 5)
        assert delivered
        for status, headers, body in await asyncio.gather(*(s.answer() for s in opened)):
            assert status == 408
            assert headers["content-type"] == "application/problem+json"
            assert "did not arrive in time: allowed are 9 s" in json.loads(body)["detail"]


@pytest.mark.parametrize(
    "small",
    [{"request_arrival_seconds": 0.6, "request_least_bytes_per_second": 10}],
    indirect=True,
)
async def test_a_body_that_keeps_to_the_pace_may_take_its_time(small: RunningEngine) -> None:
    community = await small.community({"name": "tutorial", "config": {"api_key": "k"}})
    async with senders(str(small.http.base_url), 1) as [sender]:
        await sender.send(
            head(f"/api/hooks/{community}/tutorial", len(BODY), Connection="close"),
        )
        for start in range(0, len(BODY), 10):
            await asyncio.sleep(0.4)
            await sender.send(BODY[start : start + 10])
        assert (await sender.answer())[0] == 200
    assert await eventually(lambda: small.driver.to("events"))


@pytest.mark.parametrize(
    "small",
    [
        {"max_concurrent_bodies": 3, "request_arrival_seconds": 5},
        {"max_waiting_body_bytes": 1024, "request_arrival_seconds": 5},
    ],
    ids=["number", "bytes"],
    indirect=True,
)
async def test_who_has_been_sending_longest_gives_way(small: RunningEngine) -> None:
    community = await small.community({"name": "tutorial", "config": {"api_key": "k"}})
    hook = f"/api/hooks/{community}/tutorial"
    async with senders(str(small.http.base_url), 3) as opened:
        for sender in opened:
            await sender.send(head(hook, 500))
            await sender.send(BODY[:2] + b" " * 330)
            await asyncio.sleep(0.1)
        refused = await small.http.post(hook, content=b" " * 50 + BODY)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        await asyncio.sleep(1)
        assert (await small.http.post(hook, content=b" " * 50 + BODY)).status_code == 200
        status, headers, body = await opened[0].answer(seconds=3)
        assert (status, bool(headers["retry-after"])) == (503, True)
        assert "over capacity; nothing was done" in json.loads(body)["detail"]
        assert [(await sender.answer())[0] for sender in opened[1:]] == [408, 408]


async def test_half_a_head_is_not_waited_for(plugins: None, tmp_path: Path) -> None:
    """Whether it is the first on its connection or not; what is being answered is not cut off."""
    settings = Settings(data_dir=tmp_path, log_level="error", request_arrival_seconds=0.5)
    database = open_database(settings)
    await migrate(database)
    await database.close()
    app = create_app(settings)
    whole = b"GET /api/internal/events?wait=1.5 HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serve(app, serve_config(app)) as base, senders(base, 3) as [first, second, busy]:
        await first.send(b"GET /healthz HTTP/1.1\r\nHo")
        await second.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHo")
        await busy.send(whole + whole)
        async with asyncio.timeout(2):
            assert await first.reader.read() == b""
            assert (await second.reader.read()).count(b"HTTP/1.1 200") == 1
        async with asyncio.timeout(10):
            assert (await busy.reader.read()).count(b"HTTP/1.1 200") == 2
