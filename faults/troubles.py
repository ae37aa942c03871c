"""Trouble around the engine's processes: databases, disks, drivers, and those who send."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from faults.scenarios import Batch, Throw, until
from faults.world import COMMUNITY, World

HALF_SENT = 10


async def lock_database(batch: Batch) -> None:
    """Somebody else holds SQLite's write lock."""
    await batch.moment(1.0)
    file = batch.world.cluster.database_url.partition("///")[2]
    connection = sqlite3.connect(file, timeout=10, isolation_level=None, check_same_thread=False)
    await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
    await asyncio.sleep(batch.down)
    connection.execute("ROLLBACK")
    connection.close()


async def stop_database(batch: Batch) -> None:
    """The database goes away in the midst of transactions, and comes back."""
    assert batch.world.postgresql is not None
    await batch.moment(1.0)
    await asyncio.to_thread(batch.world.postgresql.crash)
    await asyncio.sleep(batch.down)
    await asyncio.to_thread(batch.world.postgresql.start)


async def fill_disk(batch: Batch) -> None:
    """Nothing can be written any more where the database lies."""
    await batch.moment(0.5)
    database = Path(batch.world.cluster.database_url.partition("///")[2])
    ballast = database.with_name("ballast")
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    await asyncio.sleep(batch.down)
    ballast.unlink()


async def driver_is_down(batch: Batch) -> None:
    """Connections are refused."""
    batch.world.driver.down()
    await batch.acting
    for unit in batch.units:
        await unit.end()
    await asyncio.sleep(batch.down)
    batch.world.driver.up()


def driver_answers(how: str, seconds: float = 0.0) -> Throw:
    """The driver answers so, for a while.

    Args:
        how: As ``Driver.answer`` has it.
        seconds: How long it takes.

    Returns:
        The fault.
    """

    async def fault(batch: Batch) -> None:
        world = batch.world
        since = datetime.now(UTC).isoformat()
        world.driver.answer, world.driver.seconds = how, seconds
        await batch.acting
        for unit in batch.units:
            await unit.end()
        await asyncio.sleep(batch.down)
        if how == "410":
            await _until_failed(world, since, len(batch.units))
            world.driver.answer = "ok"
            await _enable_and_send_again(world, since)

    return fault


async def _until_failed(world: World, since: str, count: int) -> None:
    """The address is disabled by the first answer; the others fail without being sent."""
    path = "/api/internal/deliveries?status=failed&limit=500"
    async with asyncio.timeout(60):
        while True:
            listed = (await world.client.ask("GET", path)).json()["deliveries"]
            if len([item for item in listed if item["created_at"] >= since]) >= count:
                return
            await asyncio.sleep(0.2)


async def _enable_and_send_again(world: World, since: str) -> None:
    listed = await world.client.ask("GET", "/api/internal/endpoints")
    for endpoint in listed.json()["endpoints"]:
        await world.client.ask("POST", f"/api/internal/endpoints/{endpoint['id']}/enable")
    answer = await world.client.ask(
        "POST", "/api/internal/deliveries/redeliver", json={"since": since}
    )
    answer.raise_for_status()


async def half_sent(batch: Batch) -> None:
    """Others begin to send webhooks to every API process, and stop in the middle."""
    head = (
        f"POST /api/hooks/{COMMUNITY}/durable HTTP/1.1\r\nHost: engine\r\n"
        "Content-Type: text/plain\r\nContent-Length: 1000\r\n\r\nhalf of i"
    ).encode()
    async with AsyncExitStack() as stack:
        for url in batch.world.cluster.apis * HALF_SENT:
            address = urlsplit(url)
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            stack.callback(writer.close)
            writer.write(head)
            await writer.drain()
        await asyncio.sleep(batch.down)


async def block_workers(batch: Batch) -> None:
    """An ``async def`` of another community never lets go of the loop that it is called on."""
    world = batch.world
    await world.make_community("blocking", "poison")
    name = f"blocking-{batch.chance.getrandbits(32):x}"
    asked = [
        asyncio.create_task(
            world.client.ask(
                "POST",
                "/api/internal/action/poison.block",
                json={"parameters": {"id": name, "seconds": batch.down}},
                headers={"X-Metagov-Community": "blocking", "Idempotency-Key": f"{name} {number}"},
            )
        )
        for number in range(4)
    ]
    try:
        await until(lambda: world.made(f"blocking {name}") > 0)
        await batch.acting
    finally:
        for task in asked:
            task.cancel()
        with suppress(asyncio.CancelledError, httpx.HTTPError, TimeoutError):
            await asyncio.gather(*asked)
