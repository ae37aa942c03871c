"""HTTP connections that keep to the outbound policy, which is asked where they are opened."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import anyio.to_thread
import httpcore
import httpx

from engine.outbound import OutboundPolicy

_POOL: dict[str, Any] = {
    # How many calls run at once is limited elsewhere: none waits here for another's connection.
    "max_connections": None,
    "max_keepalive_connections": 100,
    # Servers close idle connections after 5 s and more: one given up before breaks off no request.
    "keepalive_expiry": 2,
}
_ERRORS: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.TimeoutException: httpx.TimeoutException,
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.NetworkError: httpx.NetworkError,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.ProtocolError: httpx.ProtocolError,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
}


class Connections:
    """Connections to platforms.

    Those of plain ``def`` methods are shared by all calls: kept open for a while, found by their
    address. What distinguishes communities (keys, cookies) is with each call's own client, never
    with these. An ``async def`` method runs in a loop of its own, which no connection outlives.

    Args:
        policy: Which addresses may be called.
    """

    def __init__(self, policy: OutboundPolicy) -> None:
        self._policy = policy
        self._shared: CheckedTransport | None = None
        self._lock = threading.Lock()

    def sync_transport(self) -> httpx.BaseTransport:
        """The connections of plain ``def`` methods; a client's end does not close them."""
        with self._lock:
            if self._shared is None:
                self._shared = CheckedTransport(self._policy)
        return _Shared(self._shared)

    def async_transport(self) -> httpx.AsyncBaseTransport:
        """New connections for one client of an ``async def`` method, whose end closes them."""
        return AsyncCheckedTransport(self._policy)

    def close(self) -> None:
        """Close those that are shared."""
        if self._shared is not None:
            self._shared.close()


class _Shared(httpx.BaseTransport):
    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._transport.handle_request(request)


# httpx's own takes no network backend, and only there is the address known.
class CheckedTransport(httpx.BaseTransport):
    """A transport for ``httpx.Client``; a refused address raises OutboundRefusedError."""

    def __init__(self, policy: OutboundPolicy) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=_ssl_context(), network_backend=_CheckedBackend(policy), **_POOL
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        with _as_httpx_errors():
            response = self._pool.handle_request(_for_httpcore(request))
        assert isinstance(response.stream, Iterable)
        return _for_httpx(response, _Body(response.stream))

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class AsyncCheckedTransport(httpx.AsyncBaseTransport):
    """The same for ``httpx.AsyncClient``.

    Args:
        policy: Which addresses may be called.
    """

    def __init__(self, policy: OutboundPolicy) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_ssl_context(), network_backend=_AsyncCheckedBackend(policy), **_POOL
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        with _as_httpx_errors():
            response = await self._pool.handle_async_request(_for_httpcore(request))
        assert isinstance(response.stream, AsyncIterable)
        return _for_httpx(response, _AsyncBody(response.stream))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _CheckedBackend(httpcore.SyncBackend):
    """Connects only to addresses that were checked; there is no second look-up in between."""

    def __init__(self, policy: OutboundPolicy) -> None:
        self._policy = policy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        address = self._policy.choose(host, _resolve(host, port))
        return super().connect_tcp(address, port, timeout, local_address, socket_options)


class _AsyncCheckedBackend(httpcore.AnyIOBackend):
    def __init__(self, policy: OutboundPolicy) -> None:
        self._policy = policy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await anyio.to_thread.run_sync(_resolve, host, port)
        address = self._policy.choose(host, addresses)
        return await super().connect_tcp(address, port, timeout, local_address, socket_options)


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(f"cannot resolve {host}") from error
    return list(dict.fromkeys(str(item[4][0]) for item in found))


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_errors():
            yield from self._stream

    def close(self) -> None:
        if hasattr(self._stream, "close"):
            self._stream.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        if hasattr(self._stream, "aclose"):
            await self._stream.aclose()


def _for_httpcore(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _for_httpx(
    response: httpcore.Response, body: httpx.SyncByteStream | httpx.AsyncByteStream
) -> httpx.Response:
    return httpx.Response(
        response.status, headers=response.headers, stream=body, extensions=response.extensions
    )


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except tuple(_ERRORS) as error:
        raise _ERRORS[type(error)](str(error)) from error


@cache
def _ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()
