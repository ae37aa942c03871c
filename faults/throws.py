"""Processes that are killed, stopped and started."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

from faults.scenarios import Batch, until
from sandbox.loomio.state import Fault

SLOW_SECONDS = 0.8
OVERLAP_SECONDS = 15.0


def _workers(batch: Batch) -> list[str]:
    return [worker.name for worker in batch.world.cluster.workers]


def _some_worker(batch: Batch) -> str:
    return batch.chance.choice(_workers(batch))


async def kill_worker_inside_start(batch: Batch) -> None:
    """Loomio takes its time: some polls are made late, of others the answer is late."""
    twin = batch.world.twin
    before = twin.requests["POST /api/b2/polls"]
    twin.failures += [
        Fault(200, SLOW_SECONDS, late=batch.chance.random() < 0.5) for _ in range(100)
    ]
    await until(lambda: twin.requests["POST /api/b2/polls"] > before)
    await batch.moment(SLOW_SECONDS)
    batch.world.cluster.kill(_some_worker(batch))
    await asyncio.sleep(batch.down)


async def kill_worker_inside_update(batch: Batch) -> None:
    """Each poll of the votes takes half a second."""
    await batch.acting
    for unit in batch.units:
        batch.world.note(f"slow {unit.name}")
    await batch.moment(2.0)
    for unit in batch.units:
        await unit.end()
    await batch.moment(1.5)
    batch.world.cluster.kill(_some_worker(batch))
    await asyncio.sleep(batch.down)


async def kill_workers_after_their_commit(batch: Batch) -> None:
    """Temporal stands still, so what is committed cannot be reported."""
    cluster = batch.world.cluster
    done = "SELECT count(*) FROM invocation WHERE status = 'done' AND target = 'once'"
    before = await asyncio.to_thread(cluster.count, done)
    await until(lambda: all(unit.effects() for unit in batch.units))
    with cluster.frozen("temporal"):
        async with asyncio.timeout(20):
            while await asyncio.to_thread(cluster.count, done) == before:
                await asyncio.sleep(0.01)
        await batch.moment(1.0)
        cluster.kill(*_workers(batch))
    await asyncio.sleep(batch.down)


async def kill_worker_inside_delivery(batch: Batch) -> None:
    """The driver takes its time to answer."""
    batch.world.driver.seconds = SLOW_SECONDS
    await until(lambda: batch.world.driver.under_way > 0)
    await batch.moment(SLOW_SECONDS)
    batch.world.cluster.kill(_some_worker(batch))
    await asyncio.sleep(batch.down)
    await batch.world.cluster.serving()
    await batch.acting


async def kill_api_before_its_answer(batch: Batch) -> None:
    """Temporal stands still, so a stored webhook cannot be started, nor answered."""
    cluster = batch.world.cluster
    stored = "SELECT count(*) FROM received_webhook WHERE status = 'received'"
    with cluster.frozen("temporal"):
        async with asyncio.timeout(20):
            while await asyncio.to_thread(cluster.count, stored) == 0:
                await asyncio.sleep(0.002)
        await batch.moment(0.5)
        cluster.kill("api-0")
    await asyncio.sleep(batch.down)


async def kill_apis_inside_close(batch: Batch) -> None:
    """Clients that wait for the answer to a DELETE get none."""
    await until(lambda: any(batch.world.made(f"closing {unit.name}") for unit in batch.units))
    await batch.moment(1.0)
    batch.world.cluster.kill("api-0", "api-1")
    await asyncio.sleep(batch.down)


async def kill_temporal(batch: Batch) -> None:
    """And start it again on its file, after a while."""
    await batch.moment(1.5)
    batch.world.cluster.kill("temporal")
    await asyncio.sleep(batch.down)


async def kill_worker(batch: Batch) -> None:
    """At any moment."""
    await batch.moment(2.0)
    batch.world.cluster.kill(_some_worker(batch))
    await asyncio.sleep(batch.down)


async def kill_everything(batch: Batch) -> None:
    """All processes at once, as when the power fails."""
    await batch.moment(1.5)
    batch.world.cluster.kill(*batch.world.cluster.programs)
    await asyncio.sleep(batch.down)


async def kill_workers_inside_calls(batch: Batch) -> None:
    """All of them, when calls have had their effect; short ones may have ended."""
    await _calls_are_under_way(batch)
    batch.world.cluster.kill(*_workers(batch))
    await asyncio.sleep(batch.down)


async def kill_everything_inside_calls(batch: Batch) -> None:
    """The same with all processes."""
    await _calls_are_under_way(batch)
    batch.world.cluster.kill(*batch.world.cluster.programs)
    await asyncio.sleep(batch.down)


async def _calls_are_under_way(batch: Batch) -> None:
    """Wait until each has had its effect, but not for those whose effect comes late."""
    await until(lambda: any(unit.effects() for unit in batch.units))
    with suppress(TimeoutError):
        await until(lambda: all(unit.effects() for unit in batch.units), 10)


async def terminate_workers(batch: Batch) -> None:
    """One after the other, by SIGTERM; calls may take longer than they are let finish."""
    await until(lambda: any(unit.effects() for unit in batch.units))
    await batch.moment(1.0)
    for worker in batch.world.cluster.workers:
        worker.end(signal.SIGTERM)
        while worker.runs:
            await asyncio.sleep(0.1)
        await asyncio.sleep(batch.down)
        worker.start()


async def stop_workers(batch: Batch) -> None:
    """By SIGSTOP, when calls are under way; then they go on where they were."""
    await until(lambda: any(unit.effects() for unit in batch.units))
    await batch.moment(1.0)
    with batch.world.cluster.frozen(*_workers(batch)):
        await asyncio.sleep(batch.down)


async def lose_temporal(batch: Batch) -> None:
    """Everything is killed, and what the Temporal server knew is gone."""
    await until(lambda: any(unit.effects() for unit in batch.units))
    await batch.moment(1.0)
    batch.world.cluster.kill(*batch.world.cluster.programs)
    batch.world.cluster.forget_temporal()
    await asyncio.sleep(batch.down)


async def overlap(batch: Batch) -> None:
    """One process after the other is killed and started, at random."""
    loop = asyncio.get_running_loop()
    until_then = loop.time() + OVERLAP_SECONDS
    while loop.time() < until_then:
        await batch.moment(2.0)
        program = batch.chance.choice(list(batch.world.cluster.programs.values()))
        program.end()
        await batch.moment(batch.down)
        program.start()
