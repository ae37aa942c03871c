"""Closing times: as drivers give them, and how often to look at a vote that ends then."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from engine.errors import PlatformRejectedError

# A vote is looked at again after so much of the time that it has left.
SHARE_OF_THE_REST = 0.1


def moment(text: str) -> datetime:
    """Read a time as drivers and platforms write it.

    Args:
        text: ISO 8601; without a zone it is UTC, a date is its first moment.

    Returns:
        The moment in UTC.

    Raises:
        ValueError: It is no such text.
    """
    when = datetime.fromisoformat(text)
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def future_moment(text: str, now: datetime) -> datetime:
    """Read a closing time that must not have come yet.

    Args:
        text: As ``moment`` reads it.
        now: The present time.

    Returns:
        The moment in UTC.

    Raises:
        PlatformRejectedError: It is past.
        ValueError: It is no such text.
    """
    when = moment(text)
    if when <= now:
        raise PlatformRejectedError(f"closing_at must be in the future, not {when:%F %R} UTC")
    return when


def pause(
    closing_at: datetime | date | str | None, now: datetime, *, seldom: timedelta, often: timedelta
) -> timedelta:
    """How long to wait until a vote is looked at again: the shorter, the sooner it ends.

    Args:
        closing_at: When it ends, if that is known.
        now: The present time.
        seldom: The longest wait.
        often: The shortest.

    Returns:
        ``SHARE_OF_THE_REST`` of the time that is left, within these bounds.
    """
    if not isinstance(closing_at, datetime):
        return seldom
    return min(seldom, max(often, (closing_at - now) * SHARE_OF_THE_REST))
