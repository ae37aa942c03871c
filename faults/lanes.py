"""Runs scenarios, each list beside the others, on clusters of its own."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import groupby
from pathlib import Path

from faults.cluster import Cluster, running
from faults.driver import Driver
from faults.postgresql import PostgreSQL
from faults.scenarios import Result, Scenario
from faults.table import Row
from faults.world import World
from sandbox.loomio.api import create_app
from sandbox.loomio.state import LoomioTwin
from sandbox.serving import serve_in_thread

SMALL_DISK_MEGABYTES = 24


class NotPossibleError(Exception):
    """This machine cannot run it."""


async def run_lanes(lanes: Sequence[Sequence[Scenario]], seed: int, runs: int | None) -> list[Row]:
    """Run lists of scenarios, each one after the other, the lists beside each other.

    Args:
        lanes: The lists.
        seed: The beginning of all chance.
        runs: Most runs of each scenario.

    Returns:
        A row for each.
    """
    # Clusters start one after the other, so that none takes a port that another has chosen.
    starting = asyncio.Lock()
    rows = await asyncio.gather(*(_run_lane(lane, seed, runs, starting) for lane in lanes))
    return [row for lane in rows for row in lane]


async def _run_lane(
    lane: Sequence[Scenario], seed: int, runs: int | None, starting: asyncio.Lock
) -> list[Row]:
    rows: list[Row] = []
    for place, scenarios in groupby(lane, key=lambda scenario: scenario.place):
        left = list(scenarios)
        while left:
            folder = Path(tempfile.mkdtemp(prefix="metagov-faults-"))
            try:
                done = await _run_on(place, folder, left, seed, runs, starting)
            except NotPossibleError as error:
                done = [Row(scenario, Result(), str(error)) for scenario in left]
            except RuntimeError as error:
                print(f"{left[0].title}: {error}", flush=True)
                done = [Row(left[0], Result(settled=False))]
            rows += done
            left = left[len(done) :]
            if any(row.failures for row in done):
                print(f"  what the processes said is kept in {folder}", flush=True)
            else:
                shutil.rmtree(folder, ignore_errors=True)
    return rows


async def _run_on(
    place: str,
    folder: Path,
    scenarios: Sequence[Scenario],
    seed: int,
    runs: int | None,
    starting: asyncio.Lock,
) -> list[Row]:
    """Run scenarios on one cluster, until it has not settled after one of them."""
    rows: list[Row] = []
    async with open_world(place, folder, random.Random(seed), starting) as world:
        for scenario in scenarios:
            # Each fault has chances of its own, whichever others are run.
            world.random.seed(f"{seed} {scenario.title}")
            began = time.monotonic()
            row = Row(scenario, Result())
            rows.append(row)
            try:
                await scenario.run(world, runs, row.result)
            except RuntimeError as error:
                print(f"{scenario.title}: {error}", flush=True)
                row.result.settled = False
            print(f"{row.text()} {time.monotonic() - began:.0f} s", flush=True)
            for line in row.failures:
                print(f"  {line}", flush=True)
            if not row.result.settled:
                break
    return rows


@asynccontextmanager
async def open_world(
    place: str, folder: Path, chance: random.Random, starting: asyncio.Lock
) -> AsyncIterator[World]:
    """Run a cluster and what surrounds it.

    Args:
        place: ``sqlite``, ``postgresql`` or ``small disk``.
        folder: An empty folder.
        chance: The source of all chance.
        starting: Held while it starts.

    Yields:
        The world.

    Raises:
        NotPossibleError: This machine cannot run it.
    """
    data = folder / "data"
    data.mkdir()
    driver, twin = Driver(), LoomioTwin()
    try:
        with serve_in_thread(create_app(twin)), open_database(place, folder) as (url, server):
            cluster = Cluster(data, url, driver.url)
            async with AsyncExitStack() as stack:
                async with starting:
                    await stack.enter_async_context(running(cluster))
                world = World(cluster, driver, twin, folder / "platform", chance, server)
                stack.push_async_callback(world.close)
                await world.enable()
                yield world
    finally:
        driver.down()


@contextmanager
def open_database(place: str, folder: Path) -> Iterator[tuple[str, PostgreSQL | None]]:
    """Have a database where a place wants it.

    Args:
        place: The place.
        folder: A folder.

    Yields:
        Its URL, and its server if it has one.
    """
    if place == "postgresql":
        with PostgreSQL(folder / "postgresql") as server:
            yield server.url, server
    elif place == "small disk":
        with _small_disk(folder / "small") as disk:
            yield f"sqlite:///{disk / 'engine.sqlite'}", None
    else:
        yield f"sqlite:///{folder / 'engine.sqlite'}", None


@contextmanager
def _small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    size = f"size={SMALL_DISK_MEGABYTES}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise NotPossibleError("this user may not mount a small disk") from None
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
