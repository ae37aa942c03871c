"""The table of what was thrown and what came of it, and its place in the docs."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from faults.scenarios import Result, Scenario

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
HEAD = (
    "| fault | calls, s | down, s | runs | lost | doubled | reported wrongly | reported as unknown "
    "| same id again |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass
class Row:
    """A line of the table.

    Attributes:
        scenario: What was thrown.
        result: What came of it.
        skipped: Why it was not thrown.
    """

    scenario: Scenario
    result: Result
    skipped: str = ""

    @property
    def failures(self) -> list[str]:
        """What happened that must not, a line for each; of a control: that nothing was found."""
        if self.skipped:
            return []
        outcomes = self.result.outcomes
        if self.scenario.finds:
            found = all(getattr(item, self.scenario.finds) for item in outcomes)
            return [] if found else [f"not found: {self.scenario.finds}"]
        lines = [] if self.result.settled else ["it did not settle"]
        for item in outcomes:
            bad = {
                "lost": item.lost,
                "doubled": item.doubled,
                "reported wrongly": bool(item.wrong),
                "reported as unknown": item.unknown and not self.scenario.unknown,
                "same id again": item.again and not self.scenario.again,
            }
            if any(bad.values()):
                what = ", ".join(name for name, is_so in bad.items() if is_so)
                lines.append(
                    f"{item.name}: {what}; {'; '.join(dict.fromkeys([*item.wrong, *item.notes]))}"
                )
        return lines

    def text(self) -> str:
        """The line."""
        if self.skipped:
            return f"| {self.scenario.title} | not run: {self.skipped} | | | | | | | |"
        outcomes = self.result.outcomes
        cells = [
            self.scenario.title,
            _range([item.seconds for item in outcomes]),
            _range(self.result.downs),
            len(outcomes),
            sum(item.lost for item in outcomes),
            sum(item.doubled for item in outcomes),
            sum(bool(item.wrong) for item in outcomes),
            sum(item.unknown for item in outcomes),
            sum(item.again for item in outcomes),
        ]
        return f"| {' | '.join(str(cell) for cell in cells)} |"


def _range(seconds: Sequence[float]) -> str:
    low, high = f"{min(seconds, default=0):.0f}", f"{max(seconds, default=0):.0f}"
    return low if low == high else f"{low} to {high}"


def machine() -> str:
    """When and on what something was run."""
    cores = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {cores}, Python {platform.python_version()}"


def write_section(name: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Replace a section of the page, which stands between two comments.

    Args:
        name: The section's name.
        lines: What it holds from now on.
        page: The page.

    Raises:
        ValueError: The page has no such section.
    """
    begin, end = f"<!-- {name}: written by make faults -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text, count = pattern.subn(lambda _: "\n".join([begin, *lines, end]), page.read_text())
    if count != 1:
        raise ValueError(f"{page} has no section {name}")
    page.write_text(text)
