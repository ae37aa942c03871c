"""``make bench``: measures the engine, each row beside what it rests on."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import (
    at_rest,
    beside_pending,
    flood,
    long_history,
    polls,
    scale_out,
    short_ways,
    slow_actions,
    unkeyed,
)

RESULTS = Path(__file__).parent.parent / "docs" / "performance.md"
ROWS: dict[int, tuple[str, Callable[[], Coroutine[Any, Any, str]]]] = {
    1: (short_ways.TITLE, short_ways.run),
    2: (beside_pending.TITLE, beside_pending.run),
    3: (polls.TITLE, polls.run),
    4: (slow_actions.TITLE, slow_actions.run),
    5: (at_rest.TITLE, at_rest.run),
    6: (scale_out.TITLE, scale_out.run),
    7: (flood.TITLE, flood.run),
    8: (long_history.TITLE, long_history.run),
    9: (unkeyed.TITLE, unkeyed.run),
}
BY_NAME_ONLY = {8}


def main() -> None:
    """Measure rows, print them, and write them down."""
    listed = "; ".join(f"{number}: {title}" for number, (title, _) in ROWS.items())
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, choices=list(ROWS), metavar="ROW", help=listed)
    parser.add_argument("--write", action="store_true", help=f"write them into {RESULTS}")
    arguments = parser.parse_args()
    for number in arguments.rows or sorted(set(ROWS) - BY_NAME_ONLY):
        title, run = ROWS[number]
        print(f"row {number}: {title} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        measured = asyncio.run(run())
        section = f"{_when(time.monotonic() - began)}\n\n{measured}"
        print(f"## {number}. {title}\n\n{section}\n", flush=True)
        if arguments.write:
            _write(number, section)


def _when(seconds: float) -> str:
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    python = platform.python_version()
    return f"{datetime.now(UTC):%Y-%m-%d}, {machine}, Python {python}, SQLite; {seconds:.0f} s."


def _write(number: int, section: str) -> None:
    """Put a row into the page; the others stay as they are."""
    page = RESULTS.read_text()
    pattern = r"<!-- row (\d) -->\n(.*?)\n<!-- end of row \1 -->"
    sections = {int(n): text for n, text in re.findall(pattern, page, re.DOTALL)}
    sections[number] = section
    head = page.partition("\n## ")[0].rstrip()
    parts = [
        f"## {n}. {ROWS[n][0]}\n\n<!-- row {n} -->\n{text}\n<!-- end of row {n} -->\n"
        for n, text in sorted(sections.items())
    ]
    RESULTS.write_text("\n\n".join([head, "\n".join(parts)]))


if __name__ == "__main__":
    main()
