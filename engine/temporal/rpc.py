"""Calls of the server: how long they wait for it, and the error if it does not answer."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from temporalio.client import Client, RPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from engine.errors import PluginTimeoutError, UnavailableError
from engine.settings import Settings

HEARTBEAT_TIMEOUT = timedelta(seconds=15)
PAUSE_SECONDS = 0.2
OUT_OF_REACH = (RPCError, RuntimeError)
OUTAGES = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.UNKNOWN,
    RPCStatusCode.INTERNAL,
    # How a long poll ends whose server goes away.
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
)

Reply = TypeVar("Reply")


class Rpc:
    """A client, and how long its calls may take."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        # How long a request may wait for the server, or for a worker.
        self.wait = timedelta(seconds=settings.worker_wait_seconds)
        self.call = timedelta(seconds=settings.invocation_timeout_seconds + 5)
        self.storing = timedelta(seconds=settings.storing_seconds)
        self.invocation = self.call + self.storing

    async def reach(self, call: Callable[[], Awaitable[Reply]]) -> Reply:
        """Call the server; while it is out of reach, retry a call that may be made twice."""
        loop, failing_since = asyncio.get_running_loop(), 0.0
        while True:
            try:
                with timeout_or_cancelled():
                    return await call()
            except (builtins.TimeoutError, *OUT_OF_REACH) as error:
                failing_since = failing_since or loop.time()
                patient = loop.time() - failing_since < self.wait.total_seconds()
                if not (patient and is_outage(error)) or is_cancelled():
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    async def ask(self, call: Awaitable[Reply], longest: timedelta) -> Reply:
        """Call the server once; UnavailableError without an answer in time, connecting included."""
        try:
            async with asyncio.timeout(longest.total_seconds()):
                with timeout_or_cancelled():
                    return await call
        except (builtins.TimeoutError, *OUT_OF_REACH) as error:
            raise unavailable(error) from error


@contextmanager
def timeout_or_cancelled() -> Iterator[None]:
    """Raise TimeoutError for an RPC without an answer, CancelledError when our own time is up."""
    # The SDK raises the first as a cancellation, and the second as an RPC's time-out.
    try:
        yield
    except (asyncio.CancelledError, RPCTimeoutOrCancelledError) as error:
        if is_cancelled():
            raise asyncio.CancelledError from error
        raise builtins.TimeoutError("the RPC ran out of time") from error


def is_outage(error: Exception) -> bool:
    """Whether an error is the server's being away, after which the same call may succeed."""
    # A lazy client that cannot connect raises a RuntimeError.
    return not isinstance(error, RPCError) or error.status in OUTAGES


def is_cancelled() -> bool:
    """Whether our own time is up, which the SDK raises as an error of the RPC."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def slow_or_unavailable(error: Exception) -> PluginTimeoutError | UnavailableError:
    """The error for a call that may have reached the server: it took too long, or it did not."""
    slow = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
    out_of_time = isinstance(error, builtins.TimeoutError | RPCTimeoutOrCancelledError)
    if out_of_time or (isinstance(error, RPCError) and error.status in slow):
        return PluginTimeoutError("No answer in time; what was asked for may still be done")
    return unavailable(error)


def unavailable(error: Exception) -> UnavailableError:
    """The error for a server that does not answer."""
    reason = f" ({error.status.name.lower()})" if isinstance(error, RPCError) else ""
    return UnavailableError(f"The Temporal server does not answer{reason}")
