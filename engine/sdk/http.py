"""HTTP clients for platforms: base URL, limits, outbound policy, and failures as PluginError."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx

from engine.connections import Connections
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
from engine.retry_after import limit_reset, retry_after

LARGEST_RESPONSE_BYTES = 10 * 1024 * 1024
LARGEST_ERROR_BYTES = 1024 * 1024
LONGEST_REASON = 300
# What is decoded at once; 4 KiB of gzip become 4 MiB at most.
_PIECE_BYTES = 4096
_CODINGS = ("gzip", "deflate")

# Most specific first: these failures come before anything was sent.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BY_STATUS: dict[int, type[PluginError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    410: NotFoundError,
}

try:
    _USER_AGENT = f"MetagovEngine/{version('metagov-engine')}"
except PackageNotFoundError:
    _USER_AGENT = "MetagovEngine"


@dataclass(frozen=True)
class HttpOptions:
    """What a plugin's HTTP client starts from.

    Attributes:
        base_url: Put before relative URLs.
        headers: Sent with every request.
        params: Query parameters sent with every request.
        auth: User name and password for basic authentication, or what signs requests for httpx.
        timeout_seconds: How long each step of a request may take.
        limit_reset_header: The header in which the platform says, beside a 429, from when on it
            takes requests again, in seconds since the epoch; it is read if there is no Retry-After.
    """

    base_url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    auth: tuple[str, str] | httpx.Auth | None = None
    timeout_seconds: float = 20
    limit_reset_header: str | None = None


class PlatformResponse(httpx.Response):
    """A response whose body is not trusted: neither its size, nor that it is what a contract says.

    Attributes:
        max_bytes: How much of the body is read, as it was sent and decoded. What is longer is
            refused; of an error, whose status says enough, the rest is left out.
    """

    max_bytes: int = LARGEST_RESPONSE_BYTES

    def iter_raw(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Read the body as it was sent, as far as is allowed.

        Args:
            chunk_size: As httpx has it.

        Yields:
            Its pieces.

        Raises:
            PlatformDownError: It is longer.
        """
        for chunk in self._bounded(super().iter_raw(self._at_most(chunk_size))):
            yield from _pieces(chunk, chunk_size)

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Read the decoded body, as far as is allowed.

        Args:
            chunk_size: As httpx has it.

        Returns:
            Its pieces.

        Raises:
            PlatformDownError: It is longer.
        """
        return self._bounded(super().iter_bytes(self._at_most(chunk_size)))

    async def aiter_raw(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Read the body as it was sent, as far as is allowed.

        Args:
            chunk_size: As httpx has it.

        Yields:
            Its pieces.

        Raises:
            PlatformDownError: It is longer.
        """
        async for chunk in self._abounded(super().aiter_raw(self._at_most(chunk_size))):
            for piece in _pieces(chunk, chunk_size):
                yield piece

    def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Read the decoded body, as far as is allowed.

        Args:
            chunk_size: As httpx has it.

        Returns:
            Its pieces.

        Raises:
            PlatformDownError: It is longer.
        """
        return self._abounded(super().aiter_bytes(self._at_most(chunk_size)))

    def _at_most(self, chunk_size: int | None) -> int | None:
        # httpx gathers a chunk before anybody can count it.
        return None if chunk_size is None else min(chunk_size, self.max_bytes + 1)

    def _most(self) -> int:
        return min(self.max_bytes, LARGEST_ERROR_BYTES) if self.is_error else self.max_bytes

    def _bounded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        read = 0
        for chunk in chunks:
            read += len(chunk)
            if read > self._most():
                self.close()
                self._refuse_more()
                return
            yield chunk

    async def _abounded(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        read = 0
        async for chunk in chunks:
            read += len(chunk)
            if read > self._most():
                await self.aclose()
                self._refuse_more()
                return
            yield chunk

    def _refuse_more(self) -> None:
        if not self.is_error:
            raise PlatformDownError(
                f"{_place(self.request)} answered {self.status_code} with more than "
                f"{self.max_bytes} bytes, which is all that is allowed"
            )

    def json(self, **kwargs: Any) -> Any:
        """Read the body as JSON.

        Args:
            kwargs: As httpx has them.

        Returns:
            What it says.

        Raises:
            PlatformDownError: It is no JSON, such as the HTML page of a proxy.
        """
        try:
            return super().json(**kwargs)
        except (ValueError, RecursionError):
            raise PlatformDownError(
                f"{_place(self.request)} answered {self.status_code} without JSON: {_reason(self)}"
            ) from None


class Client(httpx.Client):
    """An httpx client that raises a PluginError for every failure."""

    limit_reset_header: str | None = None

    def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        """Send a request.

        Args:
            request: The request.
            kwargs: As httpx has them.

        Returns:
            A response with a status below 400.

        Raises:
            PluginError: The platform could not be reached, failed, or refused.
        """
        with platform_errors():
            response = super().send(request, **kwargs)
            if response.is_error:
                response.read()
                raise status_error(response, self.limit_reset_header)
        return response


class AsyncClient(httpx.AsyncClient):
    """An async httpx client that raises a PluginError for every failure."""

    limit_reset_header: str | None = None

    async def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        """Send a request.

        Args:
            request: The request.
            kwargs: As httpx has them.

        Returns:
            A response with a status below 400.

        Raises:
            PluginError: The platform could not be reached, failed, or refused.
        """
        with platform_errors():
            response = await super().send(request, **kwargs)
            if response.is_error:
                await response.aread()
                raise status_error(response, self.limit_reset_header)
        return response


def sync_client(
    options: HttpOptions, connections: Connections, max_bytes: int = LARGEST_RESPONSE_BYTES
) -> Client:
    """Make a client for plain ``def`` methods.

    Args:
        options: What the plugin wants.
        connections: The connections that it shares with others.
        max_bytes: How much of a response's body is read.

    Returns:
        The client.
    """
    transport = _PlatformTransport(connections.sync_transport(), max_bytes)
    client = Client(transport=transport, **_arguments(options))
    client.limit_reset_header = options.limit_reset_header
    return client


def async_client(
    options: HttpOptions, connections: Connections, max_bytes: int = LARGEST_RESPONSE_BYTES
) -> AsyncClient:
    """Make a client for ``async def`` methods.

    Args:
        options: What the plugin wants.
        connections: The connections that it shares with others.
        max_bytes: How much of a response's body is read.

    Returns:
        The client.
    """
    transport = _AsyncPlatformTransport(connections.async_transport(), max_bytes)
    client = AsyncClient(transport=transport, **_arguments(options))
    client.limit_reset_header = options.limit_reset_header
    return client


def _arguments(options: HttpOptions) -> dict[str, Any]:
    return {
        "base_url": options.base_url,
        "headers": {
            "User-Agent": _USER_AGENT,
            "Accept-Encoding": ", ".join(_CODINGS),
            **options.headers,
        },
        "params": dict(options.params),
        "auth": options.auth,
        "timeout": options.timeout_seconds,
        "follow_redirects": False,
        "trust_env": False,
    }


class _PlatformTransport(httpx.BaseTransport):
    def __init__(self, transport: httpx.BaseTransport, max_bytes: int) -> None:
        self._transport = transport
        self._max_bytes = max_bytes

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return _untrusted(self._transport.handle_request(request), self._max_bytes)


class _AsyncPlatformTransport(httpx.AsyncBaseTransport):
    def __init__(self, transport: httpx.AsyncBaseTransport, max_bytes: int) -> None:
        self._transport = transport
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return _untrusted(await self._transport.handle_async_request(request), self._max_bytes)


def _untrusted(response: httpx.Response, max_bytes: int) -> PlatformResponse:
    headers = response.headers
    codings = headers.get_list("content-encoding", split_commas=True)
    if len(codings) > 1 or not {coding.lower() for coding in codings}.issubset(_CODINGS):
        # Nobody asked for it, and what a small piece of it becomes is not bounded.
        del headers["content-encoding"]
    untrusted = PlatformResponse(
        response.status_code,
        headers=headers,
        stream=response.stream,
        extensions=response.extensions,
    )
    untrusted.max_bytes = max_bytes
    return untrusted


@contextmanager
def platform_errors() -> Iterator[None]:
    """Raise httpx's errors, inside of the block, as PluginError.

    Raises:
        PluginError: Instead of an error of httpx.
    """
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, OutboundRefusedError) as error:
        mapped = as_plugin_error(error)
        assert mapped is not None
        raise mapped from error


def as_plugin_error(error: Exception) -> PluginError | None:
    """Find the PluginError for an error of httpx.

    Args:
        error: Any error.

    Returns:
        The PluginError that says the same, or None if it is no error of httpx.
    """
    if isinstance(error, OutboundRefusedError):
        return PlatformUnreachableError(error.detail)
    if isinstance(error, httpx.HTTPStatusError):
        return status_error(error.response)
    if isinstance(error, _NEVER_SENT):
        return PlatformUnreachableError(f"{_where(error)} cannot be reached")
    if isinstance(error, httpx.TimeoutException):
        return PlatformDownError(f"{_where(error)} did not answer in time")
    if isinstance(error, httpx.HTTPError):
        return PlatformDownError(f"{_where(error)} broke off: {type(error).__name__}")
    if isinstance(error, httpx.InvalidURL):
        return PlatformUnreachableError("the platform's URL is no URL")
    return None


def status_error(response: httpx.Response, limit_reset_header: str | None = None) -> PluginError:
    """Make the error for a response with a status of 400 or more.

    Args:
        response: The response, read.
        limit_reset_header: As ``HttpOptions`` has it.

    Returns:
        The PluginError.
    """
    status = response.status_code
    reason = _reason(response)
    text = f"{_place(response.request)} answered {status}" + (f": {reason}" if reason else "")
    if status == 429:
        now = datetime.now(UTC)
        wait = retry_after(response.headers.get("Retry-After"), now)
        if wait is None and limit_reset_header:
            wait = limit_reset(response.headers.get(limit_reset_header), now)
        return RateLimitError(text, wait)
    if status >= 500:
        return PlatformDownError(text)
    return _BY_STATUS.get(status, PlatformRejectedError)(text)


def _where(error: httpx.HTTPError) -> str:
    try:
        return _place(error.request)
    except RuntimeError:
        return "the platform"


def _place(request: httpx.Request) -> str:
    # Neither query nor headers: they may hold keys.
    return f"{request.method} {request.url.host}{request.url.path}"


def _reason(response: httpx.Response) -> str:
    text = response.text
    if "html" in response.headers.get("content-type", ""):
        title = re.search(r"<title[^<>]*>([^<]*)", text, re.IGNORECASE)
        return " ".join(title.group(1).split())[:LONGEST_REASON] if title else "an HTML page"
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return " ".join(text.split())[:LONGEST_REASON]
    if isinstance(body, dict):
        for name in ("errors", "error", "message", "detail"):
            if body.get(name):
                reason = body[name]
                text = reason if isinstance(reason, str) else json.dumps(reason)
                return text[:LONGEST_REASON]
    return json.dumps(body)[:LONGEST_REASON]


def _pieces(chunk: bytes, chunk_size: int | None) -> Iterator[bytes]:
    """Cut a chunk small if nobody asked for a size, so that little is decoded at once."""
    size = chunk_size or _PIECE_BYTES
    return (chunk[start : start + size] for start in range(0, len(chunk), size))
