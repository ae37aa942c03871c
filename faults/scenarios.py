"""A scenario: a fault, thrown at batches of units at random moments, and what is counted after."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from faults.client import PATIENCE_SECONDS
from faults.units import Outcome, Unit
from faults.world import World

CONTROL_PATIENCE_SECONDS = 40.0

Range = tuple[float, float]


@dataclass
class Batch:
    """Some units at once, and the fault that is thrown at them.

    Attributes:
        world: What surrounds the engine.
        units: The units.
        down: How many seconds what is stopped stays so.
        acting: Ends when all units have acted.
    """

    world: World
    units: Sequence[Unit]
    down: float
    acting: asyncio.Future[list[None]]

    @property
    def chance(self) -> random.Random:
        """The source of all chance."""
        return self.world.random

    async def moment(self, longest: float) -> None:
        """Wait for a moment."""
        await asyncio.sleep(self.chance.uniform(0, longest))


Throw = Callable[[Batch], Awaitable[None]]


@dataclass
class Result:
    """What came of a scenario.

    Attributes:
        outcomes: What became of each unit.
        downs: How long each batch's fault lasted.
        settled: Whether the engine had nothing left to do in the end.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    downs: list[float] = field(default_factory=list)
    settled: bool = True


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
        unknown: Whether the driver may get an unknown outcome.
        calls: How many seconds the units' longest calls take, from and to.
        down: How many seconds what is stopped stays so, from and to.
        spread: Within how many seconds the units begin.
        place: Which cluster it needs.
        tags: ``ci`` for those that CI has time for.
        finds: What must be found, where something is done on purpose that must not be.
    """

    title: str
    fault: Throw
    units: Sequence[Callable[[World], Unit]]
    runs: int = 24
    batch: int = 8
    again: bool = False
    unknown: bool = True
    calls: Range = (0, 0.5)
    down: Range = (0, 0)
    spread: float = 0
    place: str = "sqlite"
    tags: set[str] = field(default_factory=set)
    finds: str = ""

    async def run(self, world: World, runs: int | None, result: Result) -> None:
        """Throw the fault at so many units.

        Args:
            world: What surrounds the engine.
            runs: How many; default: as the scenario says.
            result: Takes what comes of it.

        Raises:
            RuntimeError: The engine does not serve any more.
        """
        wanted = self.runs if runs is None else min(runs, self.runs)
        while len(result.outcomes) < wanted and result.settled:
            count = min(self.batch, wanted - len(result.outcomes))
            down = _pick(world.random, self.down, len(result.downs))
            seconds = [
                _pick(world.random, self.calls, len(result.outcomes) + n) for n in range(count)
            ]
            result.downs.append(down)
            result.outcomes += await self._batch(world, down, seconds, result)

    async def _batch(
        self, world: World, down: float, seconds: list[float], result: Result
    ) -> list[Outcome]:
        # A call may be waited for, be cut off, wait for its next try, and be made again.
        patience = PATIENCE_SECONDS + down + 4 * max(seconds)
        world.client.patience_seconds = CONTROL_PATIENCE_SECONDS if self.finds else patience
        units = [self.units[n % len(self.units)](world) for n in range(len(seconds))]
        for unit, length in zip(units, seconds, strict=True):
            unit.seconds = length
        acting = asyncio.gather(*(self._begin(world, unit) for unit in units))
        try:
            await self.fault(Batch(world, units, down, acting))
        except TimeoutError:
            for unit in units:
                unit.wrong.append("the moment for the fault did not come")
        finally:
            world.twin.failures.clear()
            world.driver.answer, world.driver.seconds = "ok", 0.0
        await world.cluster.serving()
        await acting
        for unit in units:
            await unit.attempt(unit.end)
        await asyncio.gather(*(unit.wait_delivered() for unit in units))
        try:
            await world.settled()
        except TimeoutError:
            result.settled = False
        return [unit.outcome() for unit in units]

    async def _begin(self, world: World, unit: Unit) -> None:
        await asyncio.sleep(world.random.uniform(0, self.spread))
        await unit.attempt(unit.act)


def _pick(chance: random.Random, between: Range, number: int) -> float:
    """The ends of a range first, then mostly what is near to its beginning."""
    low, high = between
    return (
        high if number == 0 else low if number == 1 else low + (high - low) * chance.random() ** 3
    )


async def until(check: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that comes soon, to the millisecond.

    Args:
        check: Whether it is so.
        seconds: How long to wait at most.

    Raises:
        TimeoutError: It did not come.
    """
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.002)


async def nothing_more(batch: Batch) -> None:
    """The requests themselves are the fault."""
    await batch.acting
