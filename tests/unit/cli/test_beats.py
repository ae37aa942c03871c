"""How long a child may be silent."""

from __future__ import annotations

import os

from cli.beats import Beats


def test_a_process_that_starts_has_more_time() -> None:
    beats = Beats(start_seconds=5, silence_seconds=1)
    writer = beats.expect()
    assert beats.look(4) is None
    os.write(writer, b".")
    assert beats.look(4) is None
    assert beats.look(2) == 2
    os.close(writer)
    beats.close()


def test_whoever_asks_for_no_beats_kills_nobody() -> None:
    beats = Beats(start_seconds=5, silence_seconds=0)
    writer = beats.expect()
    assert beats.look(1000) is None
    os.close(writer)
    beats.close()
