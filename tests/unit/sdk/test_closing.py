"""Closing times, and how often a vote is polled."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plugins import PlatformRejectedError, closing

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
SELDOM, OFTEN = timedelta(minutes=15), timedelta(seconds=15)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-12-01", datetime(2026, 12, 1, tzinfo=UTC)),
        ("2026-12-01T13:00:00+01:00", NOW),
        ("2026-12-01T12:00:00", NOW),
        ("2026-12-01T12:00:00Z", NOW),
    ],
)
def test_times_are_utc(text: str, when: datetime) -> None:
    assert closing.moment(text) == when
    assert closing.moment(text).tzinfo is UTC
    assert closing.future_moment(text, when - timedelta(seconds=1)) == when
    with pytest.raises(PlatformRejectedError, match="must be in the future"):
        closing.future_moment(text, when)


@given(st.integers(-3600, 10**7), st.integers(-3600, 10**7))
def test_the_sooner_it_ends_the_shorter_is_the_pause(one: int, other: int) -> None:
    pauses = [
        closing.pause(NOW + timedelta(seconds=left), NOW, seldom=SELDOM, often=OFTEN)
        for left in sorted((one, other))
    ]
    assert OFTEN <= pauses[0] <= pauses[1] <= SELDOM


def test_without_a_known_end_it_is_the_longest() -> None:
    assert closing.pause(None, NOW, seldom=SELDOM, often=OFTEN) == SELDOM


@pytest.mark.parametrize(
    "end", ["2026-12-01T12:50:00Z", "2026-12-01T13:50:00+01:00", NOW + timedelta(minutes=50)]
)
def test_an_end_may_be_written_in_any_form(end: str | datetime) -> None:
    assert closing.pause(end, NOW, seldom=SELDOM, often=OFTEN) == timedelta(minutes=5)
    assert closing.pause(date(2026, 12, 1), NOW, seldom=SELDOM, often=OFTEN) == OFTEN


@pytest.mark.parametrize(
    ("text", "said"),
    [("9999-12-31T23:59:59-12:00", "closing_at is out of range"), ("soon", "not 'soon'")],
)
def test_what_is_no_time_is_refused(text: str, said: str) -> None:
    with pytest.raises(PlatformRejectedError, match=said):
        closing.future_moment(text, NOW)
