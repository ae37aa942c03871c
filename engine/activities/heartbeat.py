"""Heartbeats: how a worker's death is noticed, and what one try tells the next."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from engine.errors import EngineError, UnavailableError
from engine.store.database import is_outage

Result = TypeVar("Result")

INTERVAL_SECONDS = 5.0
NOTHING_DONE = "nothing done"


async def with_heartbeat(work: Coroutine[Any, Any, Result]) -> Result:
    """Run an activity's work to its end, with heartbeats.

    A cancellation from the server is not passed on: what is under way is finished, for a half-done
    call of plugin code would have an unknown outcome. A stopping worker does cut it off.

    Args:
        work: The work.

    Returns:
        What it returned.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            try:
                await asyncio.wait({task}, timeout=INTERVAL_SECONDS)
            except asyncio.CancelledError:
                if activity.is_worker_shutdown():
                    raise
                current = asyncio.current_task()
                if current is not None:
                    current.uncancel()
            if not task.done():
                activity.heartbeat()
        return task.result()
    finally:
        if not task.done():
            task.cancel()


def first_try() -> bool:
    """Whether no earlier try of this activity can have had an effect."""
    info = activity.info()
    return info.attempt == 1 or list(info.heartbeat_details) == [NOTHING_DONE, info.attempt - 1]


def try_again(error: EngineError, delay_seconds: float | None = None) -> ApplicationError:
    """Make the failure with which an activity asks for another try, this one having done nothing.

    If no try before it had an effect either, the last heartbeat says so to the next one, which then
    may run plugin code.

    Args:
        error: What went wrong.
        delay_seconds: When to try again; default: as the retry policy says.

    Returns:
        The failure, to be raised. It carries the error's kind only, for it stays in the history.
    """
    if first_try():
        activity.heartbeat(NOTHING_DONE, activity.info().attempt)
    return ApplicationError(
        error.kind,
        type=error.kind,
        category=ApplicationErrorCategory.BENIGN,
        next_retry_delay=timedelta(seconds=delay_seconds) if delay_seconds is not None else None,
    )


@contextmanager
def before_plugin_code() -> Iterator[None]:
    """Have the activity tried again if the database is out before plugin code was called.

    Raises:
        ApplicationError: The database does not answer; the next try may run plugin code.
    """
    try:
        yield
    except Exception as error:
        if is_outage(error):
            raise try_again(UnavailableError("The database does not answer")) from None
        raise


def give_up(error: EngineError) -> ApplicationError:
    """Make the failure that ends an activity; the error itself is recorded in the database.

    Args:
        error: What went wrong.

    Returns:
        The failure, to be raised.
    """
    return ApplicationError(
        error.kind,
        type=error.kind,
        category=ApplicationErrorCategory.BENIGN,
        non_retryable=True,
    )
