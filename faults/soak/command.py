"""``make faults ARGS=soak``: kills single processes at random under load, and counts at the end."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.cluster import Cluster, running
from faults.driver import Driver
from faults.postgresql import PostgreSQL
from faults.soak.count import accepted_votes, failures, gaps, read_feed, summary
from faults.soak.load import UNFINISHED, WAITING, Load
from faults.soak.places import Children, EmbeddedCluster, Programs, Victims
from faults.table import PAGE, machine, write_section
from faults.world import World
from sandbox.loomio.api import create_app
from sandbox.loomio.state import LoomioTwin
from sandbox.serving import serve_in_thread

PLACES = {
    "embedded": "`metagov run`, whose supervisor starts again what was killed",
    "postgresql": "two APIs, two workers, Temporal on its file and PostgreSQL, "
    "each started again after 0 to 20 s",
}
SETTLE_SECONDS = 300.0
PATIENCE_SECONDS = 400.0
REPORT_EVERY_SECONDS = 60.0


@dataclass
class Soak:
    """What is known at the end.

    Attributes:
        place: Where it ran.
        minutes: How long it was killed.
        seed: The beginning of all chance.
        kills: How often each kind of process was killed.
        settled: How many seconds it then took to settle; None: it did not.
        votes: How many votes were accepted.
        table: What was asked for, and what became of it.
        failures: What must not be.
    """

    place: str
    minutes: float
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    settled: float | None = None
    votes: int = 0
    table: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What is printed, and written into the docs."""
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        settled = "not settled" if self.settled is None else f"settled in {self.settled:.0f} s"
        return [
            f"{machine()}; {PLACES[self.place]}; {self.minutes:g} minutes, seed {self.seed}.",
            f"Killed: {kills or 'nothing'}. {self.votes} votes were accepted. Then {settled}.",
            "",
            *self.table,
        ]


def main(arguments: Sequence[str]) -> int:
    """Run the soak.

    Args:
        arguments: The command line's, after ``soak``.

    Returns:
        The exit status: 1 if anything was lost, doubled or reported wrongly, or did not settle.
    """
    parser = argparse.ArgumentParser(prog='make faults ARGS="soak ..."', description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--place", choices=sorted(PLACES), default="embedded")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--every", type=float, default=10, help="seconds between kills, on average")
    parser.add_argument("--write", action="store_true", help=f"write a section of {PAGE}")
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="metagov-soak-"))
    print(f"seed {given.seed}; in {folder}", flush=True)
    soak = Soak(given.place, given.minutes, given.seed)
    asyncio.run(_soak(soak, folder, given.every))
    print("\n".join([*soak.lines(), *soak.failures]))
    if given.write:
        write_section(f"soak {given.place}", soak.lines())
    if soak.failures or soak.settled is None:
        print(f"FAILED; all data and logs are kept in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _soak(soak: Soak, folder: Path, every: float) -> None:
    chance = random.Random(soak.seed)
    data = folder / "data"
    data.mkdir()
    driver = Driver()
    async with AsyncExitStack() as stack:
        stack.callback(driver.down)
        twin = LoomioTwin()
        stack.enter_context(serve_in_thread(create_app(twin)))
        cluster: Cluster
        victims: Victims
        if soak.place == "embedded":
            cluster = EmbeddedCluster(data, f"sqlite:///{data / 'engine.sqlite'}", driver.url)
            victims = Children(cluster, chance)
            server = None
        else:
            server = stack.enter_context(PostgreSQL(folder / "postgresql"))
            cluster = Cluster(data, server.url, driver.url)
            victims = Programs(cluster, server, chance)
        await stack.enter_async_context(running(cluster))
        world = World(cluster, driver, twin, folder / "platform", chance, server)
        stack.push_async_callback(world.close)
        world.client.patience_seconds = PATIENCE_SECONDS
        await world.enable()
        load = Load(world, chance)
        await load.prepare()
        await _kill_under_load(soak, load, victims, chance, every)
        await _settle(soak, world, load, victims)
        await _count(soak, world, load)


async def _kill_under_load(
    soak: Soak, load: Load, victims: Victims, chance: random.Random, every: float
) -> None:
    loading = asyncio.create_task(load.run())
    reporting = asyncio.create_task(_report(soak, load))
    end = time.monotonic() + soak.minutes * 60
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, chance.expovariate(1 / every)))
        try:
            if time.monotonic() < end and (name := await victims.kill_one()):
                soak.kills[name] += 1
        except RuntimeError as error:
            soak.failures.append(str(error))
            break
    for task in (loading, reporting):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _report(soak: Soak, load: Load) -> None:
    started = time.monotonic()
    while True:
        await asyncio.sleep(REPORT_EVERY_SECONDS)
        print(
            f"{(time.monotonic() - started) / 60:.0f} min: {len(load.units)} units, "
            f"{load.under_way} under way, {load.rate:.1f} a second, {load.waiting} waiting, "
            f"{soak.kills.total()} kills",
            flush=True,
        )


async def _settle(soak: Soak, world: World, load: Load, victims: Victims) -> None:
    """Wait until nothing is under way, nothing waits, and all is delivered."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            await victims.all_back()
            await world.cluster.serving()
            await load.finished()
            while await asyncio.to_thread(world.cluster.count, UNFINISHED):
                await _close_what_is_open(world)
                await asyncio.sleep(2)
            while await asyncio.to_thread(world.cluster.count, WAITING):
                await asyncio.sleep(0.5)
            await asyncio.gather(*(unit.wait_delivered() for unit in load.units))
        soak.settled = time.monotonic() - began
    except TimeoutError:
        soak.failures.append(f"not settled in {SETTLE_SECONDS:.0f} s:")
        for query in (UNFINISHED, WAITING):
            left = await asyncio.to_thread(world.cluster.count, query)
            soak.failures.append(f"    {left} left: {query}")
        soak.failures += [
            f"    {record['name']} {record['id']} of {record['community']} is pending"
            for record in await _pending(world)
        ]


async def _close_what_is_open(world: World) -> None:
    """Close ballots of which no driver knows: the answer to their start was *outcome unknown*."""
    for record in await _pending(world):
        if record["name"] == "voting.ballot":
            path = f"/api/internal/process/voting.ballot/{record['id']}"
            await world.client.ask("DELETE", path, headers={"Idempotency-Key": record["id"]})


async def _pending(world: World) -> list[dict[str, Any]]:
    answer = await world.client.ask("GET", "/api/internal/process?status=pending&limit=100")
    records: list[dict[str, Any]] = answer.json()["processes"]
    return records


async def _count(soak: Soak, world: World, load: Load) -> None:
    outcomes = [unit.outcome() for unit in load.units]
    soak.votes = accepted_votes(load.units)
    soak.table = summary(load.units, outcomes)
    soak.failures += failures(world, load.units, outcomes)
    soak.failures += gaps(await read_feed(world), world.driver.taken())
