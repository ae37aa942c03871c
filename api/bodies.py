"""Reads the bodies of requests before they take a turn: within a time, and within memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem
from engine.errors import EngineError, RequestTimeoutError, UnavailableError, describe
from engine.sdk.registry import Registry
from engine.settings import Settings

log = structlog.get_logger()

GIVES_WAY_AFTER_SECONDS = 1.0
LONGEST_DISCARD_SECONDS = 5.0
CLOSE = {"Connection": "close"}


@dataclass(eq=False)
class _Body:
    """A body that arrives, or that waits for the request's turn.

    Attributes:
        most: It is read no further than just over this many bytes.
        since: When it began to arrive.
        patience: How long it may still take.
        parts: What has arrived.
        size: How many bytes have arrived.
        whole: Whether all of it has arrived.
        gave_way: Whether it was given up for others.
    """

    most: int
    since: float
    patience: asyncio.Timeout
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    whole: bool = False
    gave_way: bool = False


class Bodies:
    """Passes on requests whose bodies are there: who is still sending keeps nobody else waiting.

    If there are too many, the one that has been sending longest gives way.

    Args:
        app: The application.
        settings: The limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        # The oldest first.
        self._arriving: dict[_Body, None] = {}
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a request."""
        if scope["type"] != "http" or not _is_to_be_read(scope, most := self._most(scope["path"])):
            await self._app(scope, receive, send)
            return
        now = asyncio.get_running_loop().time()
        patience = asyncio.timeout(self._settings.request_arrival_seconds)
        body = _Body(most, now, patience)
        try:
            if not await self._read(body, receive):
                return
            await self._app(scope, self._replay(body, receive), send)
        except _RefusedError as refused:
            log.warning("body refused", kind=refused.error.kind, bytes=body.size)
            if refused.may_be_sending and not body.whole:
                await discard(receive)
            await problem(describe(refused.error), CLOSE)(scope, receive, send)
        finally:
            self._forget(body)

    async def _read(self, body: _Body, receive: Receive) -> bool:
        """Read a body; False if its sender has gone."""
        settings = self._settings
        if not self._is_room_for_one():
            raise _RefusedError(_over_capacity(), may_be_sending=True)
        self._arriving[body] = None
        try:
            async with body.patience:
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return False
                    body.whole = not message.get("more_body")
                    self._take(body, message.get("body", b""))
                    if body.whole or body.size > body.most:
                        # What is too long is left to the route, which refuses it.
                        return True
                    earned = body.size / settings.request_least_bytes_per_second
                    body.patience.reschedule(body.since + settings.request_arrival_seconds + earned)
        except TimeoutError:
            if body.gave_way:
                raise _RefusedError(_over_capacity()) from None
            raise _RefusedError(
                RequestTimeoutError(
                    "The body did not arrive in time: allowed are "
                    f"{settings.request_arrival_seconds:g} s, and a second more for every "
                    f"{settings.request_least_bytes_per_second} bytes; nothing was done"
                )
            ) from None
        finally:
            self._arriving.pop(body, None)

    def _take(self, body: _Body, part: bytes) -> None:
        if body.gave_way:
            raise _RefusedError(_over_capacity())
        most = self._settings.max_waiting_body_bytes
        # One alone is let in, however large the routes let it be.
        while self._bytes > body.size and self._bytes + len(part) > most:
            if not self._slowest_gives_way(body):
                raise _RefusedError(_over_capacity(), may_be_sending=True)
        body.parts.append(part)
        body.size += len(part)
        self._bytes += len(part)

    def _is_room_for_one(self) -> bool:
        full = len(self._arriving) >= self._settings.max_concurrent_bodies
        return not full or self._slowest_gives_way(None)

    def _slowest_gives_way(self, to: _Body | None) -> bool:
        """Give up the body that has been arriving longest, unless none has been for long."""
        slowest = next((body for body in self._arriving if body is not to), None)
        now = asyncio.get_running_loop().time()
        if slowest is None or now - slowest.since < GIVES_WAY_AFTER_SECONDS:
            return False
        slowest.gave_way = True
        if not slowest.patience.expired():
            slowest.patience.reschedule(now)
        self._arriving.pop(slowest)
        self._forget(slowest)
        return True

    def _forget(self, body: _Body) -> None:
        self._bytes -= sum(map(len, body.parts))
        body.parts = []

    def _replay(self, body: _Body, receive: Receive) -> Receive:
        """Make what the application reads: the whole body, and then what the server says."""
        handed_over = False

        async def read() -> Message:
            nonlocal handed_over
            if handed_over:
                return await receive()
            handed_over = True
            content = b"".join(body.parts)
            self._forget(body)
            return {"type": "http.request", "body": content, "more_body": False}

        return read

    def _most(self, path: str) -> int:
        """The largest body that the route at a path takes."""
        if path.startswith("/api/hooks/"):
            # Which plugin it is, and so what is too long, is known when the instance is found.
            limits = [plugin.cls.webhook_max_bytes or 0 for plugin in Registry.plugins.values()]
            return max(self._settings.request_max_bytes, *limits)
        return self._settings.request_max_bytes


class _RefusedError(Exception):
    """A body is not kept.

    Args:
        error: The answer to its sender.
        may_be_sending: Whether the sender keeps to the pace, so that the rest is worth receiving.
    """

    def __init__(self, error: EngineError, *, may_be_sending: bool = False) -> None:
        self.error = error
        self.may_be_sending = may_be_sending


async def discard(receive: Receive) -> None:
    """Read a body and keep nothing of it: a client reads no answer while it is sending.

    Args:
        receive: The server's.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(LONGEST_DISCARD_SECONDS):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body"):
                    return


def _is_to_be_read(scope: Scope, most: int) -> bool:
    """Whether a request has a body, and not one that its route refuses by its length."""
    headers = Headers(scope=scope)
    declared = headers.get("content-length", "")
    if declared.isdigit():
        return 0 < int(declared) <= most
    return "transfer-encoding" in headers


def _over_capacity() -> UnavailableError:
    return UnavailableError("The engine is over capacity; nothing was done, try again")
