"""The faults, each thrown at a batch of units at random moments."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from faults.units import (
    MIXED,
    Action,
    ActionTwice,
    LoomioPoll,
    Outcome,
    Unit,
    Vote,
    Webhook,
    WebhookFiftyTimes,
    World,
)
from sandbox.loomio import Fault

OUTAGE_SECONDS = 20.0
SLOW_SECONDS = 0.8
LATE_SECONDS = 3.0

Throw = Callable[[World, Sequence[Unit], "asyncio.Future[list[None]]"], Awaitable[None]]


@dataclass
class Scenario:
    """One row of the table.

    Attributes:
        title: What the fault is.
        fault: Throws it; ends when it is over.
        units: What it is thrown at, in turn.
        runs: How many units in all.
        batch: How many at once.
        again: Whether the driver may get an id again, its answer having been lost.
        place: Which cluster it needs: ``sqlite``, ``postgresql`` or ``small disk``.
    """

    title: str
    fault: Throw
    units: list[type[Unit]]
    runs: int = 24
    batch: int = 8
    again: bool = False
    place: str = "sqlite"
    tags: set[str] = field(default_factory=set)

    async def run(self, world: World, runs: int | None) -> list[Outcome]:
        """Throw the fault at so many units.

        Args:
            world: What surrounds the engine.
            runs: How many; default: as the scenario says.

        Returns:
            What became of each.
        """
        outcomes: list[Outcome] = []
        wanted = self.runs if runs is None else min(runs, self.runs)
        while len(outcomes) < wanted:
            count = min(self.batch, wanted - len(outcomes))
            outcomes += await self._batch(world, count)
        return outcomes

    async def _batch(self, world: World, count: int) -> list[Outcome]:
        units = [self.units[n % len(self.units)](world) for n in range(count)]
        acting = asyncio.gather(*(unit.act() for unit in units))
        try:
            await self.fault(world, units, acting)
        finally:
            world.twin.failures.clear()
            world.driver.answer, world.driver.seconds = "ok", 0.0
        await world.cluster.serving()
        await acting
        for unit in units:
            await unit.end()
        await asyncio.gather(*(unit.heard_of() for unit in units))
        await world.settled()
        return [unit.outcome() for unit in units]


async def _moment(world: World, longest: float) -> None:
    await asyncio.sleep(world.random.uniform(0, longest))


async def _until(check: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.002)


def _some_worker(world: World) -> str:
    return world.random.choice(world.cluster.workers).name


async def kill_worker_inside_start(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """Loomio takes its time: some polls are made late, of others the answer is late."""
    before = world.twin.requests["POST /api/b2/polls"]
    world.twin.failures += [
        Fault(200, SLOW_SECONDS, late=world.random.random() < 0.5) for _ in range(100)
    ]
    await _until(lambda: world.twin.requests["POST /api/b2/polls"] > before)
    await _moment(world, SLOW_SECONDS)
    world.cluster.kill(_some_worker(world))


async def kill_worker_inside_update(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """Each poll of the votes takes half a second."""
    await acting
    for unit in units:
        world.note(f"slow {unit.name}")
    await _moment(world, 2.0)
    for unit in units:
        await unit.end()
    await _moment(world, 1.5)
    world.cluster.kill(_some_worker(world))


async def kill_workers_after_their_commit(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """Temporal stands still, so what is committed cannot be reported."""
    done = "SELECT count(*) FROM invocation WHERE status = 'done' AND target = 'once'"
    before = await asyncio.to_thread(world.cluster.count, done)
    await _until(lambda: all(unit.effects() for unit in units))
    with world.cluster.frozen("temporal"):
        async with asyncio.timeout(20):
            while await asyncio.to_thread(world.cluster.count, done) == before:
                await asyncio.sleep(0.01)
        await _moment(world, 1.0)
        world.cluster.kill(*(worker.name for worker in world.cluster.workers))


async def kill_worker_inside_delivery(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """The driver takes its time to answer."""
    world.driver.seconds = SLOW_SECONDS
    await _until(lambda: world.driver.under_way > 0)
    await _moment(world, SLOW_SECONDS)
    world.cluster.kill(_some_worker(world))
    await acting


async def kill_api_before_its_answer(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """Temporal stands still, so a stored webhook cannot be handed over, nor answered."""
    stored = "SELECT count(*) FROM received_webhook WHERE status = 'received'"
    with world.cluster.frozen("temporal"):
        async with asyncio.timeout(20):
            while await asyncio.to_thread(world.cluster.count, stored) == 0:
                await asyncio.sleep(0.002)
        await _moment(world, 0.5)
        world.cluster.kill("api-0")


async def kill_temporal(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """And start it again on its file, after a while."""
    await _moment(world, 1.5)
    world.cluster.kill("temporal")
    await _moment(world, 4.0)


async def kill_everything(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """All processes at once, as when the power fails."""
    await _moment(world, 1.5)
    world.cluster.kill(*world.cluster.programs)
    await _moment(world, 2.0)


async def lock_database(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """Somebody else holds SQLite's write lock."""
    await _moment(world, 1.0)
    file = world.cluster.database_url.partition("///")[2]
    connection = sqlite3.connect(file, timeout=10, isolation_level=None, check_same_thread=False)
    await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
    await asyncio.sleep(OUTAGE_SECONDS)
    connection.execute("ROLLBACK")
    connection.close()


async def fill_disk(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """Nothing can be written any more where the database lies."""
    await _moment(world, 0.5)
    ballast = Path(world.cluster.database_url.partition("///")[2]).with_name("ballast")
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
    except OSError:
        pass
    await asyncio.sleep(OUTAGE_SECONDS / 2)
    ballast.unlink()


async def driver_is_down(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """Connections are refused."""
    world.driver.down()
    await acting
    for unit in units:
        await unit.end()
    await _moment(world, 4.0)
    world.driver.up()


def driver_answers(how: str, seconds: float = 0.0) -> Throw:
    """The driver answers so, for a while.

    Args:
        how: As ``Driver.answer`` has it.
        seconds: How long it takes.

    Returns:
        The fault.
    """

    async def fault(
        world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
    ) -> None:
        since = datetime.now(UTC).isoformat()
        world.driver.answer, world.driver.seconds = how, seconds
        await acting
        for unit in units:
            await unit.end()
        await _moment(world, 4.0)
        if how == "410":
            await _until_failed(world, since, len(units))
            world.driver.answer = "ok"
            await _enable_and_send_again(world, since)

    return fault


async def _until_failed(world: World, since: str, count: int) -> None:
    """The address is disabled by the first answer; the others fail without being sent."""
    async with asyncio.timeout(60):
        while True:
            listed = await world.ask("GET", "/api/internal/deliveries?status=failed&limit=500")
            found = [item for item in listed.json()["deliveries"] if item["created_at"] >= since]
            if len(found) >= count:
                return
            await asyncio.sleep(0.2)


async def _enable_and_send_again(world: World, since: str) -> None:
    for endpoint in (await world.ask("GET", "/api/internal/endpoints")).json()["endpoints"]:
        await world.ask("POST", f"/api/internal/endpoints/{endpoint['id']}/enable")
    answer = await world.ask("POST", "/api/internal/deliveries/redeliver", json={"since": since})
    answer.raise_for_status()


async def nothing_more(
    world: World, units: Sequence[Unit], acting: asyncio.Future[list[None]]
) -> None:
    """The requests themselves are the fault."""
    await acting


class LongAction(Action):
    """An action that gives time to stop Temporal."""

    seconds = 1.5


class WebhookAtOne(Webhook):
    """A webhook to the API process that is killed."""

    api = 0


SCENARIOS = [
    Scenario("worker killed inside `start`", kill_worker_inside_start, [LoomioPoll]),
    Scenario("worker killed inside `update`", kill_worker_inside_update, [Vote], batch=4),
    Scenario(
        "workers killed after the commit, before the activity's completion",
        kill_workers_after_their_commit,
        [LongAction],
        tags={"ci"},
    ),
    Scenario("worker killed inside a delivery", kill_worker_inside_delivery, [Action], again=True),
    Scenario(
        "API killed between storing a webhook and answering",
        kill_api_before_its_answer,
        [WebhookAtOne],
        tags={"ci"},
    ),
    Scenario("Temporal server killed, started on its file", kill_temporal, MIXED, tags={"ci"}),
    Scenario("everything killed at once", kill_everything, MIXED, runs=16, again=True),
    Scenario("database locked for 20 s", lock_database, MIXED, runs=16),
    Scenario("driver's endpoint down", driver_is_down, [Action, Vote]),
    Scenario(
        "driver's endpoint too slow",
        driver_answers("late", LATE_SECONDS),
        [Action, Vote],
        runs=8,
    ),
    Scenario("driver's endpoint answers 500", driver_answers("500"), [Action, Vote], runs=8),
    Scenario(
        "driver's endpoint answers 410, is enabled again, and what failed is sent again",
        driver_answers("410"),
        [Action],
        runs=8,
    ),
    Scenario(
        "driver's endpoint cuts the connection after reading",
        driver_answers("cut"),
        [Action, Vote],
        runs=8,
    ),
    Scenario(
        "the same webhook fifty times at once",
        nothing_more,
        [WebhookFiftyTimes],
        batch=1,
        runs=8,
        tags={"ci"},
    ),
    Scenario(
        "one idempotency key at two API processes at once",
        nothing_more,
        [ActionTwice],
        runs=16,
        tags={"ci"},
    ),
    Scenario("disk full for the SQLite file", fill_disk, MIXED, runs=8, place="small disk"),
]
