"""Closing times: as drivers give them, and how often to poll a vote that ends then."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from engine.errors import PlatformRejectedError

# A vote is polled again after so much of the time that it has left.
SHARE_OF_THE_REST = 0.1


def moment(value: datetime | date | str) -> datetime:
    """Read a point in time as drivers, platforms and plugins write it.

    Args:
        value: A datetime, a date (its first moment), or ISO 8601 text of either.

    Returns:
        The same moment in UTC; what has no zone is UTC.

    Raises:
        TypeError: It is no such thing.
        ValueError: It is no such text, or out of range.
    """
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"must be a date and time in ISO 8601, not {value!r:.80}") from None
    elif isinstance(value, datetime):
        when = value
    elif isinstance(value, date):
        when = datetime.combine(value, time())
    else:
        raise TypeError(f"must be a datetime, a date or ISO 8601 text, not {type(value).__name__}")
    if when.tzinfo is None:
        return when.replace(tzinfo=UTC)
    try:
        return when.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


def future_moment(text: str, now: datetime) -> datetime:
    """Read a closing time that must not have come yet.

    Args:
        text: As ``moment`` reads it.
        now: The present time.

    Returns:
        The moment in UTC.

    Raises:
        PlatformRejectedError: It is past, or no time at all.
    """
    try:
        when = moment(text)
    except ValueError as error:
        raise PlatformRejectedError(f"closing_at {error}") from None
    if when <= now:
        raise PlatformRejectedError(f"closing_at must be in the future, not {when:%F %R} UTC")
    return when


def pause(
    closing_at: datetime | date | str | None, now: datetime, *, seldom: timedelta, often: timedelta
) -> timedelta:
    """How long to wait until a vote is polled again: the shorter, the sooner it ends.

    Args:
        closing_at: When it ends, as ``moment`` reads it, if that is known.
        now: The present time.
        seldom: The longest wait.
        often: The shortest.

    Returns:
        ``SHARE_OF_THE_REST`` of the time that is left, within these bounds.
    """
    if not closing_at:
        return seldom
    return min(seldom, max(often, (moment(closing_at) - now) * SHARE_OF_THE_REST))
