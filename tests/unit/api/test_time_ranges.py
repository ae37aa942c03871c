"""Ranges of time in requests' bodies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.dependencies import time_range
from engine.errors import BadRequestError

NOON = "2026-08-21T12:00:00Z"


def test_what_is_not_given_is_now_and_the_first_status() -> None:
    found = time_range({"since": "2026-08-21t14:00:00.5+02:00"}, ["failed", "done"])
    assert found.since == datetime(2026, 8, 21, 12, 0, 0, 500_000, UTC)
    assert timedelta(0) <= datetime.now(UTC) - found.until < timedelta(minutes=1)
    assert (found.status, found.community) == ("failed", None)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "since"),
        ({"since": 7}, "/since"),
        ({"since": "yesterday"}, "/since"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "/since"),
        ({"since": NOON, "until": NOON}, "/until"),
        ({"since": NOON, "until": "2026-08-21T11:59:59Z"}, "/until"),
        ({"since": NOON, "status": "lost"}, "/status"),
        ({"since": NOON, "community": "a\0"}, "/community"),
        ({"since": NOON, "unitl": NOON}, "unitl"),
    ],
)
def test_what_is_no_range_is_named(body: dict[str, Any], place: str) -> None:
    with pytest.raises(BadRequestError, match=place):
        time_range(body, ["failed", "done"])
