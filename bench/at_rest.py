"""Row 5: what ten thousand processes cost that only wait, and how soon they are served again."""

from __future__ import annotations

import asyncio
import random
import time

from bench.running import COMMUNITY, RunningEngine, running_engine

TITLE = "At rest, and after a restart of everything"
PROCESSES = 10_000
REST_SECONDS = 60.0
SAMPLE = 100
NOTE = f"""\
{PROCESSES:,} pending processes that wait for a webhook. Served again: {SAMPLE} of them,
chosen by chance, have each handled a webhook after kill -9 of server, API and worker and a
new start."""


async def run() -> str:
    """Measure the row.

    Returns:
        Its part of the page.
    """
    async with running_engine() as engine:
        await engine.enable()
        empty = await engine.usage(10)
        began = time.monotonic()
        ids = await engine.add_pending("keyed", PROCESSES)
        took = time.monotonic() - began
        await engine.settled()
        usage = await engine.usage(REST_SECONDS)
        chosen = random.Random(1).sample(ids, SAMPLE)
        engine.kill()
        began = time.monotonic()
        await engine.start()
        ready = time.monotonic() - began
        await _served(engine, chosen)
        served = time.monotonic() - began
    rows = [f"| {name} | {empty[name].text()} | {used.text()} |" for name, used in usage.items()]
    return "\n".join(
        [
            NOTE,
            "",
            f"| CPU of one core · memory | with none | with {PROCESSES:,} |",
            "| --- | --- | --- |",
            *rows,
            "",
            f"Started in {took:.0f} s ({PROCESSES / took:.0f} a second). After the restart the API "
            f"was ready in {ready:.1f} s, and all of the {SAMPLE} were served in {served:.1f} s.",
        ]
    )


async def _served(engine: RunningEngine, ids: list[str]) -> None:
    for process_id in ids:
        answer = await engine.http.post(f"/api/hooks/{COMMUNITY}/measured", content=process_id)
        answer.raise_for_status()
    async with asyncio.timeout(300):
        for process_id in ids:
            path = f"/api/internal/process/measured.keyed/{process_id}"
            while not (await engine.http.get(path)).json()["outcome"]:
                await asyncio.sleep(0.05)
