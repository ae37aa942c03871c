"""How long a server asks to be left alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine.retry_after import LONGEST_SECONDS, limit_reset, retry_after

NOW = datetime(2026, 8, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("0.5", 0.5),
        ("86401", LONGEST_SECONDS),
        ("1e300", LONGEST_SECONDS),
        ("9" * 400, None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("Fri, 21 Aug 2026 12:01:30 GMT", 90),
        ("Friday, 21-Aug-26 12:01:30 GMT", 90),
        ("Fri Aug 21 12:01:30 2026", 90),
        ("Fri, 21 Aug 2026 12:01:30 -0000", 90),
        ("Fri, 21 Aug 2026 14:01:30 +0200", 90),
        ("Fri, 21 Aug 2026 11:59:59 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_SECONDS),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Fri, 21 Aug 99999999999999999999 12:00:00 GMT", None),
        ("Fri, 21 Aug 2026 12:00:00 +99999999999999999999", None),
        ("Fri, 31 Feb 2026 12:00:00 GMT", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (str(int(NOW.timestamp()) + 60), 60),
        (str(int(NOW.timestamp()) - 60), 0),
        (str(int(NOW.timestamp() * 1000)), LONGEST_SECONDS),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_a_limit_that_is_reset_at_a_moment(value: str | None, seconds: float | None) -> None:
    assert limit_reset(value, NOW) == seconds
