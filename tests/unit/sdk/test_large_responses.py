"""What a platform answers is counted while it is read, so no answer fills the memory."""

from __future__ import annotations

import asyncio
import functools
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from engine.connections import Connections
from engine.errors import AuthenticationError, PlatformDownError, RateLimitError
from engine.outbound import OutboundPolicy
from engine.sdk.http import (
    LARGEST_RESPONSE_BYTES,
    AsyncClient,
    Client,
    HttpOptions,
    async_client,
    sync_client,
)
from tests.servers import serve

PIECE = b"x" * 65536
PIECES = 60 * 1024 * 1024 // len(PIECE)
ALLOWED = 4 * 1024 * 1024
MOST_MEMORY = 6 * ALLOWED


WBITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


@functools.cache
def bomb(coding: str) -> bytes:
    packer = zlib.compressobj(wbits=WBITS[coding])
    return b"".join([*(packer.compress(PIECE) for _ in range(PIECES)), packer.flush()])


@functools.cache
def nested() -> bytes:
    """Decoded, each is small; the one within it is not."""
    return gzip.compress(gzip.compress(bomb("gzip")))


async def _pieces(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(PIECES):
            yield PIECE

    status = int(request.query_params.get("status", 200))
    return StreamingResponse(body(), status, headers={"Retry-After": "7"})


async def _bomb(request: Request) -> Response:
    coding = request.query_params["coding"]
    status = int(request.query_params.get("status", 200))
    return Response(bomb(coding), status, headers={"Content-Encoding": coding})


async def _nested(request: Request) -> Response:
    return Response(nested(), headers={"Content-Encoding": "gzip, gzip, gzip"})


async def _fits(request: Request) -> Response:
    body = gzip.compress(b"[" + b'"' + b"y" * (ALLOWED - 4) + b'"' + b"]")
    return Response(body, headers={"Content-Encoding": "gzip"})


async def _asked(request: Request) -> Response:
    return JSONResponse({"codings": request.headers["accept-encoding"]})


ROUTES = [
    Route("/pieces", _pieces),
    Route("/bomb", _bomb),
    Route("/nested", _nested),
    Route("/fits", _fits),
    Route("/asked", _asked),
]
LARGE = ["/pieces", "/bomb?coding=gzip", "/bomb?coding=deflate"]


@pytest.fixture
async def platform() -> AsyncIterator[str]:
    async with serve(Starlette(routes=ROUTES)) as url:
        tracemalloc.start()
        yield url
        tracemalloc.stop()


def connections() -> Connections:
    return Connections(OutboundPolicy(allow_loopback=True))


def sync_at(platform: str) -> Client:
    return sync_client(HttpOptions(base_url=platform), connections(), ALLOWED)


def async_at(platform: str) -> AsyncClient:
    return async_client(HttpOptions(base_url=platform), connections(), ALLOWED)


def assert_little_memory() -> None:
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY


@pytest.mark.parametrize("path", LARGE)
async def test_async_reading_ends_at_the_limit(platform: str, path: str) -> None:
    async with async_at(platform) as client:
        with pytest.raises(PlatformDownError, match=f"answered 200 with more than {ALLOWED} bytes"):
            await client.get(path)
    assert_little_memory()


@pytest.mark.parametrize("path", LARGE)
async def test_sync_reading_ends_at_the_limit(platform: str, path: str) -> None:
    detail = f"answered 200 with more than {ALLOWED} bytes"
    with sync_at(platform) as client, pytest.raises(PlatformDownError, match=detail):
        await asyncio.to_thread(client.get, path)
    assert_little_memory()


SYNC_READERS: list[Callable[[Any], Any]] = [
    lambda response: response.read(),
    lambda response: [None for _ in response.iter_bytes()],
    lambda response: [None for _ in response.iter_bytes(10**9)],
    lambda response: [None for _ in response.iter_text()],
    lambda response: [None for _ in response.iter_lines()],
]


@pytest.mark.parametrize("path", LARGE)
@pytest.mark.parametrize("read", SYNC_READERS)
async def test_streams_are_bounded_however_they_are_read(
    platform: str, path: str, read: Callable[[Any], Any]
) -> None:
    def work() -> None:
        with sync_at(platform) as client, client.stream("GET", path) as response:
            read(response)

    with pytest.raises(PlatformDownError, match="more than"):
        await asyncio.to_thread(work)
    assert_little_memory()


@pytest.mark.parametrize("path", LARGE)
@pytest.mark.parametrize("chunk_size", [None, 1000, 10**9])
async def test_async_streams_are_bounded(platform: str, path: str, chunk_size: int | None) -> None:
    async def read() -> None:
        async with async_at(platform) as client, client.stream("GET", path) as response:
            async for _ in response.aiter_bytes(chunk_size):
                pass

    with pytest.raises(PlatformDownError, match="more than"):
        await read()
    assert_little_memory()


async def test_what_is_sent_is_bounded_too(platform: str) -> None:
    async def read() -> None:
        async with async_at(platform) as client, client.stream("GET", "/pieces") as response:
            async for _ in response.aiter_raw(10**9):
                pass

    def read_in_a_thread() -> None:
        with sync_at(platform) as client, client.stream("GET", "/pieces") as response:
            for _ in response.iter_raw(10**9):
                pass

    with pytest.raises(PlatformDownError, match="more than"):
        await read()
    with pytest.raises(PlatformDownError, match="more than"):
        await asyncio.to_thread(read_in_a_thread)
    assert_little_memory()


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_error_stays_what_it_is_however_long_its_body(
    platform: str, streamed: bool
) -> None:
    async with async_at(platform) as client:
        request = client.build_request("GET", "/pieces?status=429")
        with pytest.raises(RateLimitError) as caught:
            await client.send(request, stream=streamed)
        assert caught.value.retry_after_seconds == 7
    with sync_at(platform) as plain:
        request = plain.build_request("GET", "/bomb?coding=gzip&status=401")
        with pytest.raises(AuthenticationError):
            await asyncio.to_thread(plain.send, request, stream=streamed)
    assert_little_memory()


async def test_codings_that_were_not_asked_for_are_not_decoded(platform: str) -> None:
    async with async_at(platform) as client:
        assert (await client.get("/asked")).json() == {"codings": "gzip, deflate"}
        answer = await client.get("/nested")
        assert answer.content == nested()
        with pytest.raises(PlatformDownError, match="without JSON"):
            answer.json()
    assert_little_memory()


async def test_what_fits_is_read_whole(platform: str) -> None:
    async with async_at(platform) as client:
        assert len((await client.get("/fits")).json()[0]) == ALLOWED - 4
        async with client.stream("GET", "/fits") as response:
            assert [len(c) async for c in response.aiter_bytes(ALLOWED)] == [ALLOWED]
    with sync_at(platform) as plain:
        assert len((await asyncio.to_thread(plain.get, "/fits")).json()[0]) == ALLOWED - 4


async def test_a_limit_that_nobody_sets(platform: str) -> None:
    options, told = HttpOptions(base_url=platform), f"with more than {LARGEST_RESPONSE_BYTES} bytes"
    async with async_client(options, connections()) as client:
        with pytest.raises(PlatformDownError, match=told):
            await client.get("/pieces")
    with (
        sync_client(options, connections()) as plain,
        pytest.raises(PlatformDownError, match=told),
    ):
        await asyncio.to_thread(plain.get, "/pieces")
