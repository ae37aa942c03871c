"""The platform behind the plugins of the fault suite: a file that keeps each effect as a line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path


def effect(config: Mapping[str, str], text: str) -> None:
    """Have an effect, which outlives the process that made it.

    Args:
        config: A plugin's config; ``platform`` is the file.
        text: The effect.
    """
    with Path(config["platform"]).open("a") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())


def effects(config: Mapping[str, str]) -> list[str]:
    """All effects so far.

    Args:
        config: A plugin's config.

    Returns:
        The lines, in the order in which they were made.
    """
    path = Path(config["platform"])
    return path.read_text().split("\n")[:-1] if path.exists() else []


class EffectCounter:
    """Counts the effects without reading any line twice.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._counted: Counter[str] = Counter()

    def count(self, text: str) -> int:
        """How often an effect was made; what stands after a colon is left out.

        Args:
            text: The effect, without a colon.

        Returns:
            How often.
        """
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                news = file.read()
            whole = news[: news.rfind(b"\n") + 1]
            self._read += len(whole)
            self._counted.update(line.partition(":")[0] for line in whole.decode().split("\n")[:-1])
        return self._counted[text]
