"""What must not happen is done on purpose here: the counting has to find it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from faults.ballots import Ballot
from faults.scenarios import Batch, Scenario, nothing_more
from faults.units import HEADERS, Action
from faults.world import World


class ActionUnderTwoKeys(Action):
    """One effect asked for as if it were two."""

    async def act(self) -> None:
        """Ask with each key."""
        for key in ("one", "two"):
            self.answer = await self.ask(
                "POST",
                "/api/internal/action/durable.once",
                json={"parameters": {"id": self.name}},
                headers={**HEADERS, "Idempotency-Key": f"{self.name} {key}"},
            )


# Longer than a delivery may take in the cluster.
DELIVERY_SECONDS = 3.0


class LateBallot(Ballot):
    """A ballot that waits between its start and its votes, which come one after the other."""

    def __init__(self, world: World) -> None:
        super().__init__(world, votes=4, voters=1)
        self.started, self.go_on, self.voted = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def vote(self, numbers: Sequence[int]) -> None:
        """Vote when the time has come."""
        self.started.set()
        await self.go_on.wait()
        await super().vote(numbers)
        self.voted.set()


async def _delete_deliveries(batch: Batch) -> None:
    """The driver is down, and what waits for it is deleted."""
    world = batch.world
    world.driver.down()
    await batch.acting
    names = " OR ".join(f"body LIKE '%{unit.name}%'" for unit in batch.units)
    await asyncio.to_thread(world.cluster.change, f"DELETE FROM outbox_item WHERE {names}")
    # A try that had read it before fails as well.
    await asyncio.sleep(DELIVERY_SECONDS)
    world.driver.up()


async def _deliver_under_another_id(batch: Batch) -> None:
    """What was delivered to the driver is delivered once more by somebody else."""
    await batch.acting
    await asyncio.gather(*(unit.wait_delivered() for unit in batch.units))
    for unit in batch.units:
        body = unit.deliveries()[0].body
        url = f"{batch.world.driver.url}/events"
        async with httpx.AsyncClient() as http:
            await http.post(url, json=body, headers={"webhook-id": f"again-{unit.name}"})


async def _forget_a_vote(batch: Batch) -> None:
    """No worker runs while votes are accepted, and one is deleted."""
    await _while_no_worker_runs(
        batch, "DELETE FROM received_webhook WHERE delivery_id LIKE '%{name}-1'"
    )


async def _exchange_votes(batch: Batch) -> None:
    """No worker runs while votes are accepted, and two of them change places."""
    await _while_no_worker_runs(
        batch,
        "UPDATE received_webhook SET body = CAST(replace(replace(replace(CAST(body AS TEXT),"
        " '\"number\":0', '\"number\":x'), '\"number\":3', '\"number\":0'),"
        " '\"number\":x', '\"number\":3') AS BLOB) WHERE delivery_id LIKE '%{name}-%'",
    )


async def _while_no_worker_runs(batch: Batch, statement: str) -> None:
    world = batch.world
    ballots = [unit for unit in batch.units if isinstance(unit, LateBallot)]
    for ballot in ballots:
        await ballot.started.wait()
    world.cluster.kill(*(worker.name for worker in world.cluster.workers))
    for ballot in ballots:
        ballot.go_on.set()
        await ballot.voted.wait()
        changed = statement.replace("{name}", ballot.name)
        assert await asyncio.to_thread(world.cluster.change, changed)


CONTROLS = [
    Scenario(
        "an event deleted before it was sent",
        _delete_deliveries,
        [Action],
        runs=2,
        finds="lost",
    ),
    Scenario(
        "one event sent under two ids", _deliver_under_another_id, [Action], runs=2, finds="doubled"
    ),
    Scenario(
        "one effect asked for under two keys",
        nothing_more,
        [ActionUnderTwoKeys],
        runs=2,
        tags={"ci"},
        finds="doubled",
    ),
    Scenario("an accepted vote deleted", _forget_a_vote, [LateBallot], runs=2, finds="lost"),
    Scenario("two votes exchanged", _exchange_votes, [LateBallot], runs=2, finds="wrong"),
]
