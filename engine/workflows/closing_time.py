"""ClosingTime: the moment at which the engine closes a process; it can move."""

from __future__ import annotations

from datetime import datetime, timedelta

FIRST_REPEAT = timedelta(minutes=1)
LONGEST_REPEAT = timedelta(hours=1)


def next_closing(closing_at: datetime | None, missed: int, now: datetime) -> datetime | None:
    """When to close a process next.

    Args:
        closing_at: The process' closing time, None if it has none.
        missed: How often ``close`` was tried at the closing time and the process stayed open.
        now: The present time.

    Returns:
        The closing time; after a missed one, a minute from now, doubling each time up to an hour;
        None if the process has no closing time.
    """
    if closing_at is None:
        return None
    if missed == 0 or closing_at > now:
        return closing_at
    doublings = min(missed - 1, 10)
    return now + min(FIRST_REPEAT * (1 << doublings), LONGEST_REPEAT)
