"""The table of calls: what is tried again, when, and what is not."""

from __future__ import annotations

import pytest

from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PlatformDownError,
    PlatformUnreachableError,
    PluginCodeError,
    PluginPausedError,
    PluginTimeoutError,
    RateLimitError,
    StateConflictError,
    UnavailableError,
    WorkerLostError,
)
from engine.invocations import policy
from engine.invocations.policy import Policy

RATE_LIMIT = RateLimitError("wait", retry_after_seconds=2)
LONG_LIMIT = RateLimitError("wait", retry_after_seconds=60)
PAUSED = PluginPausedError("paused", 60)
DOWN = PlatformDownError("500")
NEVER_REACHED = PlatformUnreachableError("no connection")
CODE = PluginCodeError("a mistake")
CONFLICT = StateConflictError("changed")
TIMEOUT = PluginTimeoutError("too long")
AWAY = UnavailableError("the database is out")
LOST = WorkerLostError("three times")


@pytest.mark.parametrize(
    ("row", "error", "tries", "expected"),
    [
        # What proved to have done nothing is safe to try again, for any kind of call.
        (policy.ACTION, NEVER_REACHED, 1, 0),
        (policy.ACTION, NEVER_REACHED, 3, None),
        (policy.ACTION, RATE_LIMIT, 1, 2),
        (policy.ACTION, LONG_LIMIT, 1, None),
        (policy.ACTION, PAUSED, 1, None),
        # What may have had its effect is not, unless it says so itself.
        (policy.ACTION, DOWN, 1, None),
        (policy.ACTION, CONFLICT, 1, None),
        (policy.ACTION, CODE, 1, None),
        (policy.IDEMPOTENT_ACTION, DOWN, 1, 0),
        (policy.IDEMPOTENT_ACTION, CONFLICT, 2, 0),
        (policy.IDEMPOTENT_ACTION, CONFLICT, 3, None),
        (policy.IDEMPOTENT_ACTION, CODE, 1, None),
        (policy.IDEMPOTENT_ACTION, TIMEOUT, 1, None),
        (policy.START, DOWN, 1, None),
        (policy.START, NEVER_REACHED, 2, 0),
        # The next try looks for what this one made.
        (policy.FINDABLE_START, DOWN, 1, 5),
        (policy.FINDABLE_START, TIMEOUT, 3, 5),
        (policy.FINDABLE_START, TIMEOUT, 4, None),
        (policy.FINDABLE_START, LONG_LIMIT, 1, 5),
        (policy.CLOSE, CONFLICT, 100, 0),
        (policy.CLOSE, NEVER_REACHED, 3, None),
        (policy.CLOSE, CODE, 1, None),
        # A webhook is handled in the end: it waits for all that passes, shorter than is asked for.
        (policy.PROCESS_WEBHOOK, LONG_LIMIT, 100, 15),
        (policy.PROCESS_WEBHOOK, PAUSED, 100, 15),
        (policy.PROCESS_WEBHOOK, AWAY, 100, 0),
        (policy.PROCESS_WEBHOOK, CODE, 4, 0),
        (policy.PROCESS_WEBHOOK, CODE, 5, None),
        # Nothing calls it again because of that child, so it is given more tries.
        (policy.CHILD_COMPLETED, RATE_LIMIT, 100, 2),
        (policy.CHILD_COMPLETED, DOWN, 7, 0),
        (policy.CHILD_COMPLETED, CODE, 8, None),
        (policy.RECEIVER, CODE, 7, 0),
        (policy.RECEIVER, CODE, 8, None),
        (policy.RECEIVER, PAUSED, 100, 60),
        (policy.TASK, NEVER_REACHED, 1, None),
        (policy.TASK, CONFLICT, 1, 0),
    ],
)
def test_the_next_try(row: Policy, error: EngineError, tries: int, expected: float | None) -> None:
    assert row.next_try(error, tries) == expected


ROWS = [value for value in vars(policy).values() if isinstance(value, Policy)]


@pytest.mark.parametrize("row", ROWS)
def test_a_call_that_takes_workers_down_is_never_made_again(row: Policy) -> None:
    assert row.next_try(LOST, 1) is None


@pytest.mark.parametrize("row", [policy.ACTION, policy.START])
@pytest.mark.parametrize("error", [DOWN, TIMEOUT, CONFLICT, OutcomeUnknownError("?")])
def test_what_is_made_once_is_not_repeated_if_it_may_have_had_its_effect(
    row: Policy, error: EngineError
) -> None:
    assert row.once
    assert row.next_try(error, 1) is None


def test_only_what_reaches_out_by_its_own_will_waits_for_its_turn() -> None:
    """A webhook reports what has happened already; a poll has waited before."""
    unpaced = [policy.PROCESS_WEBHOOK, policy.RECEIVER, policy.POLL]
    assert [row for row in ROWS if not row.paced] == unpaced
