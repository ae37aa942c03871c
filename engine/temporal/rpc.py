"""How calls reach the server: how long they wait for it, and what is told if it is away."""

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
    """A client, and how long what it asks for may take.

    Args:
        client: A connected client.
        settings: The settings.

    Attributes:
        client: The client.
        settings: The settings.
        wait: How long a request may wait for the server, or for a worker.
        call: How long one call of plugin code may take.
        storing: How long what a call did may have to wait for the database.
        invocation: How long a call of plugin code and storing what it did may take.
    """

    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.wait = timedelta(seconds=settings.worker_wait_seconds)
        self.call = timedelta(seconds=settings.invocation_timeout_seconds + 5)
        self.storing = timedelta(seconds=settings.storing_seconds)
        self.invocation = self.call + self.storing

    async def reach(self, call: Callable[[], Awaitable[Reply]]) -> Reply:
        """Ask the server, and again while it is out of reach, as long as a request may wait.

        Args:
            call: What to ask; one that has no further effect when it is made twice.

        Returns:
            The server's reply.

        Raises:
            RPCError: The server refused, or stayed out of reach.
            RuntimeError: There was no connection all the while.
            TimeoutError: An RPC ran out of time, and the others as well.
        """
        loop, failing_since = asyncio.get_running_loop(), 0.0
        while True:
            try:
                with told_plainly():
                    return await call()
            except (builtins.TimeoutError, *OUT_OF_REACH) as error:
                failing_since = failing_since or loop.time()
                patient = loop.time() - failing_since < self.wait.total_seconds()
                if not (patient and is_outage(error)) or is_cancelled():
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    async def ask(self, call: Awaitable[Reply], longest: timedelta) -> Reply:
        """Ask the server once, and wait no longer than that.

        Args:
            call: What to ask.
            longest: How long its answer is waited for, connecting included.

        Returns:
            The server's reply.

        Raises:
            UnavailableError: There is none.
        """
        try:
            async with asyncio.timeout(longest.total_seconds()):
                with told_plainly():
                    return await call
        except (builtins.TimeoutError, *OUT_OF_REACH) as error:
            raise unavailable(error) from error


@contextmanager
def told_plainly() -> Iterator[None]:
    """Have an RPC that got no answer told as such, and our own time's being up as a cancellation.

    The SDK tells of the first as if somebody had cancelled us, and of the second as if the RPC had
    run out of time.

    Raises:
        TimeoutError: The RPC ran out of time.
        CancelledError: Our own time is up.
    """
    try:
        yield
    except (asyncio.CancelledError, RPCTimeoutOrCancelledError) as error:
        if is_cancelled():
            raise asyncio.CancelledError from error
        raise builtins.TimeoutError("the RPC ran out of time") from error


def is_outage(error: Exception) -> bool:
    """Whether an error is the server's being away, after which the same call may succeed."""
    # A lazy client tells by a RuntimeError that it could not connect.
    return not isinstance(error, RPCError) or error.status in OUTAGES


def is_cancelled() -> bool:
    """Whether our own time is up; the SDK tells of that as an error of the RPC."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def slow_or_unavailable(error: Exception) -> PluginTimeoutError | UnavailableError:
    """What to tell of a call that may have reached the server: it took too long, or it did not."""
    # The SDK tells of time-outs, its own and ours, in ways of its own.
    slow = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
    out_of_time = isinstance(error, builtins.TimeoutError | RPCTimeoutOrCancelledError)
    if out_of_time or (isinstance(error, RPCError) and error.status in slow):
        return PluginTimeoutError("No answer in time; what was asked for may still be done")
    return unavailable(error)


def unavailable(error: Exception) -> UnavailableError:
    """What to tell of a server that does not answer."""
    reason = f" ({error.status.name.lower()})" if isinstance(error, RPCError) else ""
    return UnavailableError(f"The Temporal server does not answer{reason}")
