"""Heartbeats: how a worker's death is noticed, and what one try passes to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from engine.errors import EngineError, UnavailableError
from engine.store.database import is_outage, utc_now

Result = TypeVar("Result")

INTERVAL_SECONDS = 5.0
LAST_SECONDS = timedelta(seconds=5)
ENDED = "ended"
LOST = "lost"
CUT_OFF = "cut_off"
UNFORESEEN = "unforeseen"
# An unforeseen error is given so many tries; then the call fails.
MOST_UNFORESEEN = 5

_REMEMBERED: ContextVar[dict[str, Any]] = ContextVar("remembered")


async def with_heartbeat(work: Coroutine[Any, Any, Result]) -> Result:
    """Run an activity's work to its end, with heartbeats.

    A cancellation from the server is not passed on: what is under way is finished, for a half-done
    call of plugin code would have an unknown outcome. A stopping worker does cut it off, and so
    does the end of its time: the server would have it tried elsewhere meanwhile, as if its worker
    had died.

    Args:
        work: The work.

    Returns:
        What it returned.

    Raises:
        ApplicationError: Its time was up; it is to be tried again.
    """
    ends_at = _ends_at()
    remembered = _from_earlier_tries()
    _REMEMBERED.set(remembered)
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            try:
                left = (ends_at - utc_now()).total_seconds()
                await asyncio.wait({task}, timeout=min(INTERVAL_SECONDS, max(left, 0)))
            except asyncio.CancelledError:
                if activity.is_worker_shutdown():
                    raise
                current = asyncio.current_task()
                if current is not None:
                    current.uncancel()
            if not task.done():
                activity.heartbeat()
                if utc_now() >= ends_at:
                    remembered[CUT_OFF] = True
                    raise again_in("out_of_time", None)
        return task.result()
    except BaseException:
        # The next try knows by this that the worker lives.
        activity.heartbeat(ENDED, activity.info().attempt, remembered)
        raise
    finally:
        if not task.done():
            task.cancel()


def _ends_at() -> datetime:
    """When the activity's own time is up: early enough to report it before the server's is."""
    info = activity.info()
    longest = info.start_to_close_timeout or timedelta(days=365)
    return info.started_time + max(longest - LAST_SECONDS, longest / 2)


def remember(name: str, value: Any) -> None:
    """Pass JSON data to the next try of this activity; None: nothing any more."""
    remembered = _REMEMBERED.get()
    remembered[name] = value


def remembered(name: str) -> Any:
    """What an earlier try of this activity passed to this one, or None."""
    kept = _REMEMBERED.get(None)
    return kept.get(name) if kept is not None else None


def was_cut_off() -> bool:
    """Whether any try before this one ended with its worker, and not by itself."""
    return remembered(CUT_OFF) is True


def was_just_lost() -> bool:
    """Whether a try before this one ended with its worker and nobody has counted that; once."""
    lost = remembered(LOST) is True
    remember(LOST, None)
    return lost


def _from_earlier_tries() -> dict[str, Any]:
    details, attempt = list(activity.info().heartbeat_details), activity.info().attempt
    if attempt == 1:
        return {}
    if details[:2] == [ENDED, attempt - 1]:
        return dict(details[2])
    # What was passed to that try is gone with it.
    return {LOST: True, CUT_OFF: True}


def last_unforeseen_try() -> bool:
    """Count an unforeseen error: whether the call fails with it now instead of being retried."""
    met = (remembered(UNFORESEEN) or 0) + 1
    remember(UNFORESEEN, met)
    return bool(met >= MOST_UNFORESEEN)


def try_again(error: EngineError, delay_seconds: float | None = None) -> ApplicationError:
    """Make the failure with which an activity asks for another try.

    Args:
        error: What went wrong.
        delay_seconds: When to try again; default: as the retry policy says.

    Returns:
        The failure, to be raised. It carries the error's kind only, for it stays in the history.
    """
    return again_in(error.kind, delay_seconds)


def again_in(reason: str, seconds: float | None) -> ApplicationError:
    """Make the failure with which an activity asks for another try at a certain time.

    Args:
        reason: Why, in a word.
        seconds: When to try again; None: as the retry policy says.

    Returns:
        The failure, to be raised.
    """
    return ApplicationError(
        reason,
        type=reason,
        category=ApplicationErrorCategory.BENIGN,
        next_retry_delay=timedelta(seconds=seconds) if seconds is not None else None,
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
