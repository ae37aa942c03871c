"""How long a server asks to be left alone, read from the headers of its answer."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Who asks for longer is asked again all the same; no server may put us off for good.
LONGEST_SECONDS = 86400.0


def retry_after(value: str | None, now: datetime) -> float | None:
    """Read a Retry-After header: seconds or an HTTP date (RFC 9110, 10.2.3).

    Args:
        value: The header's value, or None if there is none.
        now: The present time.

    Returns:
        Seconds, from 0 (a date that is over) to a day at most; None if it says nothing.
    """
    try:
        return _within(float(value or ""))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    # An HTTP date is in UTC, also one whose zone is not written or is "-0000".
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return _within(max((moment - now).total_seconds(), 0.0))


def limit_reset(value: str | None, now: datetime) -> float | None:
    """Read a header that says from when on requests are taken again, in seconds since the epoch.

    Args:
        value: The header's value, or None if there is none.
        now: The present time.

    Returns:
        Seconds from now, from 0 (a moment that is over) to a day at most; None if it says nothing.
    """
    try:
        moment = float(value or "")
    except ValueError:
        return None
    return _within(max(moment - now.timestamp(), 0.0)) if math.isfinite(moment) else None


def _within(seconds: float) -> float | None:
    return min(seconds, LONGEST_SECONDS) if math.isfinite(seconds) and seconds >= 0 else None
