"""``make faults``: throws every fault at a running engine and writes the table."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from faults.cluster import running_cluster
from faults.driver import Driver
from faults.postgresql import PostgreSQL, stop_database
from faults.scenarios import SCENARIOS, Scenario
from faults.units import MIXED, Outcome, World
from sandbox.loomio import LoomioTwin

RESULTS = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- results: written by make faults -->", "<!-- end of results -->"
HEAD = (
    "| fault | runs | lost | doubled | told as unknown | same id again |\n"
    "| --- | --- | --- | --- | --- | --- |"
)
SMALL_DISK_MEGABYTES = 24


@dataclass
class Row:
    """A line of the table."""

    scenario: Scenario
    outcomes: list[Outcome]
    skipped: str = ""

    @property
    def failed(self) -> bool:
        """Whether something happened that must not."""
        return any(
            item.lost or item.doubled or (item.again and not self.scenario.again)
            for item in self.outcomes
        )

    def text(self) -> str:
        """The line."""
        if self.skipped:
            return f"| {self.scenario.title} | not run: {self.skipped} | | | | |"
        count = [
            len(self.outcomes),
            sum(item.lost for item in self.outcomes),
            sum(item.doubled for item in self.outcomes),
            sum(item.unknown for item in self.outcomes),
            sum(item.again for item in self.outcomes),
        ]
        return f"| {self.scenario.title} | {' | '.join(str(number) for number in count)} |"


def main() -> int:
    """Run the suite.

    Returns:
        The exit status: 1 if anything was lost or doubled.
    """
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--runs", type=int, help="most runs of each fault")
    parser.add_argument("--only", default="", help="faults whose title holds this text")
    parser.add_argument("--ci", action="store_true", help="the faults that CI has time for")
    parser.add_argument("--write", action="store_true", help=f"write the table into {RESULTS}")
    arguments = parser.parse_args()
    database_down = Scenario(
        "database down for 20 s (PostgreSQL)", stop_database, MIXED, runs=16, place="postgresql"
    )
    chosen = [
        item
        for item in [*SCENARIOS, database_down]
        if arguments.only in item.title and (not arguments.ci or "ci" in item.tags)
    ]
    print(f"seed {arguments.seed}; {len(chosen)} faults", flush=True)
    started = time.monotonic()
    rows = asyncio.run(_run(chosen, arguments.seed, arguments.runs))
    print("\n".join([HEAD, *(row.text() for row in rows)]))
    total = sum(len(row.outcomes) for row in rows)
    print(f"{total} runs in {time.monotonic() - started:.0f} s, seed {arguments.seed}")
    if arguments.write:
        _write(rows, total, arguments.seed)
    failed = [row.scenario.title for row in rows if row.failed]
    if failed:
        print(f"FAILED: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


async def _run(chosen: list[Scenario], seed: int, runs: int | None) -> list[Row]:
    rows: list[Row] = []
    for place in ("sqlite", "postgresql", "small disk"):
        scenarios = [item for item in chosen if item.place == place]
        if not scenarios:
            continue
        with tempfile.TemporaryDirectory(prefix="metagov-faults-") as folder:
            (Path(folder) / "data").mkdir()
            try:
                async with _world(place, Path(folder), seed) as world:
                    for scenario in scenarios:
                        # Each fault has chances of its own, whichever others are run.
                        world.random.seed(f"{seed} {scenario.title}")
                        print(f"{scenario.title} ...", flush=True)
                        began = time.monotonic()
                        row = Row(scenario, await scenario.run(world, runs))
                        rows.append(row)
                        print(f"  {row.text()} {time.monotonic() - began:.0f} s", flush=True)
            except _NotPossibleError as error:
                rows += [Row(scenario, [], str(error)) for scenario in scenarios]
    return rows


class _NotPossibleError(Exception):
    """This machine cannot run it."""


@asynccontextmanager
async def _world(place: str, folder: Path, seed: int) -> AsyncIterator[World]:
    driver = Driver()
    try:
        with LoomioTwin() as twin, _database(place, folder) as (url, server):
            async with running_cluster(folder / "data", url, driver.url) as cluster:
                chance = random.Random(seed)
                world = World(cluster, driver, twin, folder / "platform", chance)
                world.postgresql = server
                await world.enable()
                yield world
                await world.http.aclose()
    finally:
        driver.down()


@contextmanager
def _database(place: str, folder: Path) -> Iterator[tuple[str, PostgreSQL | None]]:
    if place == "sqlite":
        yield f"sqlite:///{folder / 'engine.sqlite'}", None
    elif place == "postgresql":
        with PostgreSQL(folder / "postgresql") as server:
            yield server.url, server
    else:
        with _small_disk(folder / "small") as disk:
            yield f"sqlite:///{disk / 'engine.sqlite'}", None


@contextmanager
def _small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    size = f"size={SMALL_DISK_MEGABYTES}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise _NotPossibleError("this user may not mount a small disk") from None
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def _write(rows: list[Row], total: int, seed: int) -> None:
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    lines = [
        BEGIN,
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, Python {platform.python_version()}; "
        f"{total} runs, seed {seed}.",
        "",
        HEAD,
        *(row.text() for row in rows),
        END,
    ]
    page = RESULTS.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    RESULTS.write_text(pattern.sub(lambda _: "\n".join(lines), page))


if __name__ == "__main__":
    sys.exit(main())
