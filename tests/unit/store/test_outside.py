"""What is remembered of a database outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.store import epochs, outside
from engine.store.epochs import DatabaseEpoch
from engine.store.outside import Remembered

NEVER_RUN = [DatabaseEpoch(epoch=100)]
RUN = [DatabaseEpoch(epoch=100, beats=3)]
RESTORED = [*RUN, DatabaseEpoch(epoch=200, found_by="command", beats=1)]


@pytest.mark.parametrize(
    ("known", "remembered", "ahead"),
    [
        (RUN, Remembered(database=100, epoch=100, beats=3, told=7), False),
        (RUN, Remembered(database=100, epoch=100, beats=2, told=5), False),
        (RUN, Remembered(database=100, epoch=100, beats=4, told=7), True),
        (RUN, Remembered(database=100, epoch=100, beats=3, told=8), True),
        (RUN, Remembered(database=100, epoch=200, beats=0, told=0), True),
        (RESTORED, Remembered(database=100, epoch=100, beats=9, told=9), False),
        (RESTORED, Remembered(database=100, epoch=150, beats=9, told=9), False),
        (RESTORED, Remembered(database=100, epoch=200, beats=2, told=0), True),
        (RUN, Remembered(database=50, epoch=50, beats=9, told=9), False),
        (NEVER_RUN, Remembered(database=50, epoch=50, beats=9, told=9), True),
    ],
)
def test_who_is_ahead(known: list[DatabaseEpoch], remembered: Remembered, ahead: bool) -> None:
    assert remembered.is_ahead_of(known, latest=7) == ahead


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    now = Remembered(database=100, epoch=200, beats=3, told=7)
    assert outside.recall(tmp_path) is None
    outside.remember(tmp_path / "new", now)
    assert outside.recall(tmp_path / "new") == now


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", '{"epoch": 1}', '{"database": "x"}'])
def test_what_says_nothing_is_nothing(text: str | None) -> None:
    assert Remembered.decode(text) is None


def test_a_folder_that_cannot_be_written_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outside.remember(tmp_path / "file", Remembered(1, 1, 1, 1))
    (tmp_path / "told.json").write_bytes(b"\xff\xfe")
    assert outside.recall(tmp_path) is None


def test_an_epoch_is_later_than_all_that_are_known() -> None:
    assert epochs.next_epoch(10**15) == 10**15 + 1
    assert epochs.next_epoch(1, 2) > 1_700_000_000_000
