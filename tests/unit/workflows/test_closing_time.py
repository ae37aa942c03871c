"""When a process that may be closed is closed by the engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from engine.workflows.governance_process import _next_closing

NOW = datetime(2026, 8, 21, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize("missed", [0, 1, 50])
def test_a_closing_time_to_come_is_kept(missed: int) -> None:
    assert _next_closing(None, missed, NOW) is None
    assert _next_closing(NOW + HOUR, missed, NOW) == NOW + HOUR


def test_one_that_nobody_tried_yet_is_due() -> None:
    assert _next_closing(NOW - HOUR, 0, NOW) == NOW - HOUR


@pytest.mark.parametrize(
    ("missed", "minutes"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (11, 60), (10**6, 60)]
)
def test_one_that_was_missed_is_tried_after_pauses_that_double(missed: int, minutes: int) -> None:
    for closing_at in (NOW, NOW - HOUR):
        assert _next_closing(closing_at, missed, NOW) == NOW + timedelta(minutes=minutes)
