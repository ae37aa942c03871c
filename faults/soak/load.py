"""The load of the soak: units that begin at a rate at which the engine keeps up."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from functools import partial

import psycopg

from faults.ballots import Ballot
from faults.driver import Delivery
from faults.processes import SlowVote, Vote
from faults.units import Action, Outcome, Unit, Webhook
from faults.world import World

WAITING = (
    "SELECT (SELECT count(*) FROM outbox_item WHERE status = 'pending')"
    " + (SELECT count(*) FROM received_webhook WHERE status = 'received')"
)
UNFINISHED = "SELECT count(*) FROM governance_process WHERE status <> 'completed'"

LOOK_EVERY_SECONDS = 2.0
MOST_WAITING = 40
MOST_UNDER_WAY = 16
# Units a second; the least goes on whatever is down.
LEAST_RATE, MOST_RATE, FIRST_RATE = 0.1, 3.0, 0.3
LONGEST_CALL_SECONDS = 20.0
CHANGING_COMMUNITIES = 4


class CommunityChange(Unit):
    """A change of a community's config: the last one that was answered is what it has.

    Args:
        world: What surrounds the engine.
        turns: The communities that are changed, each with its turn.
    """

    kind = "change"

    def __init__(self, world: World, turns: dict[str, asyncio.Lock]) -> None:
        super().__init__(world)
        self._turns = turns
        self._kept = True

    async def act(self) -> None:
        """Change it, and read it."""
        community = self.world.random.choice(sorted(self._turns))
        config = {"default_low": self.world.random.randrange(10**6), "default_high": 10**7}
        async with self._turns[community]:
            path = f"/api/internal/community/{community}"
            body = {"name": community, "plugins": [{"name": "randomness", "config": config}]}
            headers = {"Idempotency-Key": self.name}
            self.answer = await self.ask("PUT", path, json=body, headers=headers)
            if self.answer.status_code == 504:
                return
            read = await self.ask("GET", path)
            plugins = read.json().get("plugins") or [{}]
            self._kept = plugins[0].get("config", {}).items() >= config.items()
            if self.answer.status_code not in (200, 201):
                self.wrong.append(f"PUT: {self.answer.status_code} {self.answer.text:.200}")

    def deliveries(self) -> list[Delivery]:
        """Nothing is delivered of it."""
        return []

    def effects(self) -> int:
        """It has none."""
        return 0

    async def wait_delivered(self) -> None:
        """Its answer is all there is."""

    def outcome(self) -> Outcome:
        """Whether it was there after its answer."""
        lost = not self._kept or self.answer is None
        return Outcome(self.name, lost=lost, unknown=self.unknown, wrong=self.wrong)


class Load:
    """Begins units, and measures whether the engine keeps up.

    Args:
        world: What surrounds the engine.
        chance: The source of all chance.

    Attributes:
        units: All that were begun.
        waiting: How much the engine had to send and to handle at the last look.
        rate: How many begin in a second.
    """

    def __init__(self, world: World, chance: random.Random) -> None:
        self.units: list[Unit] = []
        self.waiting = 0
        self.rate = FIRST_RATE
        self._world = world
        self._chance = chance
        self._under_way: set[asyncio.Task[None]] = set()
        self._turns = {f"changing-{n}": asyncio.Lock() for n in range(CHANGING_COMMUNITIES)}
        self._kinds: list[tuple[Callable[[World], Unit], int]] = [
            (partial(Ballot, votes=10, early=0.8), 2),
            (partial(Ballot, votes=10, early=0.8, keyed=False), 2),
            (partial(Ballot, votes=10, voters=1), 1),
            (partial(Ballot, votes=10, closing="time"), 1),
            (partial(Ballot, votes=10, closing="webhook", early=0.8), 1),
            (partial(Ballot, votes=5, slow="receiver"), 1),
            (partial(Ballot, votes=5, slow="closing", keyed=False), 1),
            (Action, 4),
            (Webhook, 3),
            (Vote, 1),
            (SlowVote, 1),
            (partial(CommunityChange, turns=self._turns), 2),
        ]

    @property
    def under_way(self) -> int:
        """How many units are under way."""
        return len(self._under_way)

    async def prepare(self) -> None:
        """Make the communities that are changed."""
        for community in self._turns:
            await self._world.make_community(
                community, randomness={"default_low": 0, "default_high": 10**7}
            )

    async def run(self) -> None:
        """Begin units until it is cancelled."""
        looking = asyncio.create_task(self._look())
        try:
            while True:
                await asyncio.sleep(self._chance.expovariate(self.rate))
                if self.under_way < MOST_UNDER_WAY:
                    self._begin()
        finally:
            looking.cancel()

    async def finished(self) -> None:
        """Wait until no unit is under way."""
        await asyncio.gather(*self._under_way)

    def _begin(self) -> None:
        kinds, weights = zip(*self._kinds, strict=True)
        unit: Unit = self._chance.choices(kinds, weights)[0](self._world)
        # Few take long.
        unit.seconds = LONGEST_CALL_SECONDS * self._chance.random() ** 5
        self.units.append(unit)
        task = asyncio.create_task(self._live(unit))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _live(self, unit: Unit) -> None:
        await unit.attempt(unit.act)
        await unit.attempt(unit.end)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            try:
                self.waiting = await asyncio.to_thread(self._world.cluster.count, WAITING)
            except (sqlite3.Error, psycopg.Error):
                # The database is what is down just now.
                continue
            behind = self.waiting > MOST_WAITING or self.under_way >= MOST_UNDER_WAY
            changed = self.rate * (0.7 if behind else 1.05)
            self.rate = min(max(changed, LEAST_RATE), MOST_RATE)
