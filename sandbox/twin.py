"""What every twin is: a platform's memory, with a clock, an address and webhooks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sandbox.sender import Sender


class RefusedError(Exception):
    """What is asked for is not done; the sentence says why."""


class Twin:
    """What a platform remembers.

    Args:
        base_url: Under which its links lead to it; set anew where it is served.

    Attributes:
        sender: Sends its webhooks while it is served.
        skew: How far its clock is ahead.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.sender = Sender()
        self.skew = timedelta(0)

    def now(self) -> datetime:
        """The twin's clock."""
        return datetime.now(UTC) + self.skew

    def expire(self) -> None:
        """Do what the platform's background job does when time has passed: here, nothing."""
