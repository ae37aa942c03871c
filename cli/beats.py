"""How a child shows, through a pipe, that its event loop comes round."""

from __future__ import annotations

import os
from contextlib import suppress

from engine.watchdog import READY


class Beats:
    """The beats of one child, whichever process it is at the moment.

    Silence is counted in looks, not on a clock: if this process was paused, or the machine asleep,
    the child could not be heard.

    Args:
        start_seconds: How long a process may take to its first beat.
        silence_seconds: How long it may be silent from then on; 0: for ever.
    """

    def __init__(self, start_seconds: float, silence_seconds: float) -> None:
        self._start_seconds = max(start_seconds, silence_seconds)
        self._silence_seconds = silence_seconds
        self._reader: int | None = None
        self._silent = 0.0
        self._allowed = 0.0
        self._ready = False

    def expect(self) -> int:
        """Expect a new process.

        Returns:
            The file descriptor that it writes to; to be closed here once it has it.
        """
        self.close()
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._silent, self._allowed, self._ready = 0.0, self._start_seconds, False
        return writer

    def ready(self) -> bool:
        """Whether the process has said that it can do its work."""
        self._listen()
        return self._ready

    def look(self, seconds: float) -> float | None:
        """Look for beats.

        Args:
            seconds: The time between two looks.

        Returns:
            For how long there has been none, if that is too long; else None.
        """
        if self._reader is None or not self._silence_seconds:
            return None
        if self._listen():
            self._silent, self._allowed = 0.0, self._silence_seconds
            return None
        self._silent += seconds
        return self._silent if self._silent > self._allowed else None

    def _listen(self) -> bytes:
        """What has come since it was last listened to."""
        heard = b""
        if self._reader is not None:
            with suppress(BlockingIOError):
                heard = os.read(self._reader, 65536)
        self._ready = self._ready or READY in heard
        return heard

    def close(self) -> None:
        """Expect nothing more."""
        if self._reader is not None:
            os.close(self._reader)
            self._reader = None
