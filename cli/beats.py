"""How a child shows, through a pipe, that its event loop comes round."""

from __future__ import annotations

import os
from contextlib import suppress

from engine.watchdog import READY


class Beats:
    """The beats of one child; silence is counted in reads, for a clock also runs while paused."""

    def __init__(self, start_seconds: float, silence_seconds: float) -> None:
        self._start_seconds = max(start_seconds, silence_seconds)
        self._silence_seconds = silence_seconds
        self._reader: int | None = None
        self._silent = 0.0
        self._allowed = 0.0
        self._ready = False

    def expect(self) -> int:
        """Expect a new process; gives the descriptor that it writes to, to be closed here then."""
        self.close()
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._silent, self._allowed, self._ready = 0.0, self._start_seconds, False
        return writer

    def ready(self) -> bool:
        """Whether the process has said that it can do its work."""
        self._read()
        return self._ready

    def look(self, seconds: float) -> float | None:
        """Read beats; for how many seconds there has been none, if that is too long."""
        if self._reader is None or not self._silence_seconds:
            return None
        if self._read():
            self._silent, self._allowed = 0.0, self._silence_seconds
            return None
        self._silent += seconds
        return self._silent if self._silent > self._allowed else None

    def _read(self) -> bytes:
        """Read what has come since the last read."""
        received = b""
        if self._reader is not None:
            with suppress(BlockingIOError):
                received = os.read(self._reader, 65536)
        self._ready = self._ready or READY in received
        return received

    def close(self) -> None:
        """Expect nothing more."""
        if self._reader is not None:
            os.close(self._reader)
            self._reader = None
