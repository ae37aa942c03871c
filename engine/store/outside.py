"""What is remembered of the database outside of it, so that an older one is recognized."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store import epochs, outbox
from engine.store.epochs import DatabaseEpoch

log = structlog.get_logger()


@dataclass(frozen=True)
class Remembered:
    """How far a database was.

    Attributes:
        database: Its first epoch, by which it is known.
        epoch: Its present epoch.
        beats: What it had counted.
        told: The highest position that was given; named as in ``told.json`` and in Temporal.
    """

    database: int
    epoch: int
    beats: int
    told: int

    def encode(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def decode(text: str | None) -> Remembered | None:
        """Read what ``encode`` made.

        Args:
            text: The text.

        Returns:
            What was remembered; None if the text says nothing of it.
        """
        try:
            found = json.loads(text or "")
            return Remembered(**{key: int(found[key]) for key in Remembered.__annotations__})
        except (ValueError, TypeError, KeyError):
            return None

    def is_ahead_of(self, known: Sequence[DatabaseEpoch], latest: int) -> bool:
        """Whether the database that was remembered has gone on after the one that is there."""
        present = known[-1]
        if self.database != known[0].epoch:
            # One that never ran, where another one did: empty, or older than epochs are.
            return len(known) == 1 and not present.beats
        if self.epoch != present.epoch:
            return self.epoch > present.epoch
        return self.beats > present.beats or self.told > latest


async def how_far(session: AsyncSession) -> Remembered:
    """How far the database is.

    Args:
        session: An open session.

    Returns:
        What is to be remembered of it.
    """
    known = await epochs.all_epochs(session)
    return Remembered(
        database=known[0].epoch,
        epoch=known[-1].epoch,
        beats=known[-1].beats,
        told=await outbox.latest_sequence(session),
    )


def remember(data_dir: Path, now: Remembered) -> None:
    """Write to the data folder how far the database is; without one that can be written, nothing.

    Args:
        data_dir: The data folder.
        now: How far it is.
    """
    path = _file(data_dir)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        draft.write_text(now.encode())
        draft.replace(path)
    except OSError as error:
        log.warning("highest position not remembered", file=str(path), error=str(error))


def recall(data_dir: Path) -> Remembered | None:
    """Read from the data folder how far the database was.

    Args:
        data_dir: The data folder.

    Returns:
        How far it was; None if nothing is known.
    """
    try:
        return Remembered.decode(_file(data_dir).read_text())
    except (OSError, UnicodeDecodeError):
        return None


def _file(data_dir: Path) -> Path:
    return data_dir / "told.json"
