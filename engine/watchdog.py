"""Ends a process whose event loop does not come round any more, so that it is started again.

Plugin code can hold the interpreter, so that no thread of Python gets a turn: a regular expression
that tries for ever. Then only the operating system can end the process: it sends SIGPROF when the
process has computed for some seconds since its loop last came round, and the handler, which is no
Python either, writes where every thread stands. A loop that is blocked but leaves the interpreter
to others is seen by a thread.

Neither reads a clock. A process that was paused, or gets no turn on a busy machine, has neither
computed nor looked meanwhile, and goes on.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TextIO

BEAT_SECONDS = 1.0
BEAT, READY = b".", b"r"
STALLED = 70


@asynccontextmanager
async def watched_loop(stall_seconds: float, beats: int | None = None) -> AsyncIterator[Watch]:
    """End the process if the event loop does not come round for some time, while inside.

    Args:
        stall_seconds: For how long; 0: it is not watched.
        beats: A file descriptor that is to be written to each time that the loop comes round.

    Yields:
        The watch.
    """
    watch = Watch(stall_seconds, beats, sys.stderr)
    watch.beat()
    task = asyncio.create_task(watch.go_on())
    try:
        yield watch
    finally:
        task.cancel()
        watch.end()


class Watch:
    """Watches the loop, and shows the parent process that it comes round."""

    def __init__(self, stall_seconds: float, beats: int | None, output: TextIO) -> None:
        self._stall_seconds = stall_seconds
        self._beats = beats
        self._output = output
        self._missed = 0
        self._ended = threading.Event()
        # Often enough to be within the bound, however short it is.
        self._every = min(BEAT_SECONDS, stall_seconds / 4) if stall_seconds else BEAT_SECONDS
        if beats is not None:
            os.set_blocking(beats, False)
        if stall_seconds:
            # The handler goes on to what the signal does by default: it ends the process.
            faulthandler.register(signal.SIGPROF, output, all_threads=True, chain=True)
            threading.Thread(target=self._look, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Show that the loop comes round."""
        self._missed = 0
        if self._stall_seconds:
            signal.setitimer(signal.ITIMER_PROF, self._stall_seconds)
        self._show(BEAT)

    def ready(self) -> None:
        """Show that the process can do its work."""
        self._show(READY)

    async def go_on(self) -> None:
        """Show it again and again."""
        while True:
            await asyncio.sleep(self._every)
            self.beat()

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()
        if self._stall_seconds:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.unregister(signal.SIGPROF)

    def _show(self, sign: bytes) -> None:
        if self._beats is not None:
            # A pipe that is full, or that nobody reads any more, misses nothing.
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._beats, sign)

    def _look(self) -> None:
        while not self._ended.wait(self._every):
            self._missed += 1
            if self._missed * self._every > self._stall_seconds:
                faulthandler.dump_traceback(self._output, all_threads=True)
                os._exit(STALLED)
