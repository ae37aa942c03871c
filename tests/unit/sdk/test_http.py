"""The clients of plugins: errors of the field, the outbound policy, shared connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from engine.connections import AsyncCheckedTransport, Connections
from engine.errors import (
    AuthenticationError,
    NotFoundError,
    OutboundRefusedError,
    PlatformDownError,
    PlatformRejectedError,
    PlatformUnreachableError,
    PluginError,
    RateLimitError,
)
from engine.outbound import OutboundPolicy
from engine.sdk.http import HttpOptions, as_plugin_error, async_client, sync_client
from sandbox.ports import free_ports
from tests.servers import serve

PUBLIC = OutboundPolicy(allow_loopback=False)
LOCAL = OutboundPolicy(allow_loopback=True)


async def _who(request: Request) -> Response:
    assert request.client is not None
    return JSONResponse({"port": request.client.port, "key": request.headers.get("x-key")})


async def _answer(request: Request) -> Response:
    status = int(request.path_params["status"])
    if status == 500:
        return HTMLResponse("<html><title>Out of order</title>secret stuff</html>", 500)
    headers = {"Retry-After": "7"} if status == 429 else None
    return JSONResponse({"errors": ["because"]}, status, headers)


async def _page(request: Request) -> Response:
    return HTMLResponse("<html><title>Back soon</title>")


async def _limit(request: Request) -> Response:
    return Response(status_code=429, headers={"x-rate-limit-reset": str(int(time.time()) + 60)})


ROUTES = [
    Route("/who", _who),
    Route("/page", _page),
    Route("/limit", _limit),
    Route("/{status}", _answer),
]


@pytest.fixture
async def platform() -> AsyncIterator[str]:
    async with serve(Starlette(routes=ROUTES)) as url:
        yield url


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, AuthenticationError, "because"),
        (403, AuthenticationError, "because"),
        (404, NotFoundError, "because"),
        (422, PlatformRejectedError, "because"),
        (429, RateLimitError, "because"),
        (500, PlatformDownError, "Out of order"),
    ],
)
async def test_statuses_are_errors_of_the_field(
    platform: str, status: int, kind: type[PluginError], words: str
) -> None:
    options = HttpOptions(base_url=platform, headers={"Authorization": "Bearer s3cret"})
    async with async_client(options, Connections(LOCAL)) as client:
        with pytest.raises(kind) as caught:
            await client.get(f"/{status}", params={"api_key": "s3cret"})
    assert words in caught.value.detail
    assert f"answered {status}" in caught.value.detail
    assert "s3cret" not in caught.value.detail
    assert caught.value.nothing_done is (status == 429)
    if isinstance(caught.value, RateLimitError):
        assert caught.value.retry_after_seconds == 7


async def test_html_where_json_was_wanted_is_the_platforms_failure(platform: str) -> None:
    async with async_client(HttpOptions(base_url=platform), Connections(LOCAL)) as client:
        answer = await client.get("/page")
        assert answer.text.startswith("<html>")
        with pytest.raises(PlatformDownError, match="answered 200 without JSON: Back soon"):
            answer.json()


async def test_a_limit_that_ends_at_a_moment(platform: str) -> None:
    options = HttpOptions(base_url=platform, limit_reset_header="X-Rate-Limit-Reset")
    async with async_client(options, Connections(LOCAL)) as client:
        with pytest.raises(RateLimitError) as caught:
            await client.get("/limit")
    wait = caught.value.retry_after_seconds
    assert wait is not None
    assert 50 < wait <= 60


async def test_the_connection_itself_is_checked(platform: str) -> None:
    by_name = platform.replace("127.0.0.1", "localhost")
    async with async_client(HttpOptions(), Connections(PUBLIC)) as client:
        with pytest.raises(PlatformUnreachableError, match="no address that may be called"):
            await client.get(f"{by_name}/200")
    async with httpx.AsyncClient(transport=AsyncCheckedTransport(PUBLIC)) as plain:
        with pytest.raises(OutboundRefusedError):
            await plain.get(f"{by_name}/200")
    async with async_client(HttpOptions(), Connections(LOCAL)) as client:
        assert (await client.get(f"{by_name}/200")).status_code == 200


def test_unreachable_proves_that_nothing_was_done() -> None:
    with (
        sync_client(HttpOptions(), Connections(LOCAL)) as client,
        pytest.raises(PlatformUnreachableError) as e,
    ):
        client.get(f"http://127.0.0.1:{free_ports(1)[0]}/")
    assert e.value.nothing_done


ANSWERS = {
    "silent": (b"", httpx.ReadTimeout, "did not answer in time"),
    "no HTTP": (b"hello\r\n\r\n", httpx.RemoteProtocolError, "broke off"),
    "a part of a body": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", httpx.ReadTimeout,
        "did not answer in time",
    ),
    "a body cut off": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf!", httpx.RemoteProtocolError,
        "broke off",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ANSWERS)
async def test_what_breaks_off_is_reported_alike_by_both_clients(how: str) -> None:
    """Whether it breaks before the answer or within its body."""
    sent, cause, words = ANSWERS[how]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        if cause is httpx.ReadTimeout:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    timeout = 0.3 if cause is httpx.ReadTimeout else 5
    options, connections = HttpOptions(timeout_seconds=timeout), Connections(LOCAL)

    def ask() -> None:
        with sync_client(options, connections) as client:
            client.get(url)

    with pytest.raises(PlatformDownError, match=words) as caught:
        await asyncio.to_thread(ask)
    assert isinstance(caught.value.__cause__, cause)
    async with async_client(options, connections) as client:
        with pytest.raises(PlatformDownError, match=words) as caught:
            await client.get(url)
    assert isinstance(caught.value.__cause__, cause)
    connections.close()
    server.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ReadTimeout("x"), PlatformDownError),
        (httpx.ConnectTimeout("x"), PlatformUnreachableError),
        (httpx.RemoteProtocolError("x"), PlatformDownError),
        (httpx.InvalidURL("x"), PlatformUnreachableError),
        (ValueError("x"), None),
    ],
)
def test_mapping(error: Exception, kind: Any) -> None:
    mapped = as_plugin_error(error)
    assert type(mapped) is (kind or type(None))


async def test_calls_share_connections_but_nothing_else(platform: str) -> None:
    """The second client finds the first one's connection; its headers are its own."""
    connections = Connections(LOCAL)

    def ask(key: str) -> Any:
        options = HttpOptions(base_url=platform, headers={"X-Key": key})
        with sync_client(options, connections) as client:
            return client.get("/who").json()

    seen = [await asyncio.to_thread(ask, key) for key in ("one", "two")]
    assert seen[0]["port"] == seen[1]["port"]
    assert [item["key"] for item in seen] == ["one", "two"]
    connections.close()


async def test_an_async_client_keeps_its_connections_to_itself(platform: str) -> None:
    """They belong to the loop of one call, and end with the client."""
    connections = Connections(LOCAL)

    async def ask() -> set[int]:
        async with async_client(HttpOptions(base_url=platform), connections) as client:
            return {(await client.get("/who")).json()["port"] for _ in range(2)}

    first, second = await ask(), await asyncio.to_thread(asyncio.run, ask())
    assert len(first) == len(second) == 1
    assert first != second
