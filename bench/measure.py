"""Times calls, one at a time or many at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Timing:
    """What a number of calls took.

    Attributes:
        seconds: Each call's time.
        wall_seconds: All calls' time together.
    """

    seconds: list[float]
    wall_seconds: float

    @property
    def median_ms(self) -> float:
        """The median in milliseconds."""
        return statistics.median(self.seconds) * 1000

    @property
    def p95_ms(self) -> float:
        """The 95th percentile in milliseconds."""
        return statistics.quantiles(self.seconds, n=20)[18] * 1000

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return len(self.seconds) / self.wall_seconds


async def timed(call: Call, count: int, concurrency: int) -> Timing:
    """Make calls and time them.

    Args:
        call: What to time.
        count: How often.
        concurrency: How many at once.

    Returns:
        Their times.
    """
    taken: list[float] = []
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            started = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*[one_after_the_other() for _ in range(concurrency)])
    return Timing(taken, time.perf_counter() - started)


async def in_turn(ours: Call, bare: Call, count: int, concurrency: int) -> tuple[Timing, Timing]:
    """Time two calls in turn, so that a machine whose speed drifts is unfair to neither.

    Args:
        ours: The engine's call.
        bare: The bare one.
        count: How often each.
        concurrency: How many at once.

    Returns:
        The engine's times and the bare ones.
    """
    rounds = 5
    taken: tuple[list[float], list[float]] = ([], [])
    walls = [0.0, 0.0]
    await timed(ours, concurrency, concurrency)
    await timed(bare, concurrency, concurrency)
    for _ in range(rounds):
        for place, call in enumerate((ours, bare)):
            part = await timed(call, max(concurrency, count // rounds), concurrency)
            taken[place].extend(part.seconds)
            walls[place] += part.wall_seconds
    return Timing(taken[0], walls[0]), Timing(taken[1], walls[1])
