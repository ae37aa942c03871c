"""Row 3: thousands of processes that are polled each minute, at a platform that takes its time."""

from __future__ import annotations

import asyncio
import itertools
import time

from rich.progress import Progress
from temporalio.client import Client

from bench.running import COMMUNITY, running_engine
from bench.upstream import upstream
from engine.messages import process_workflow_id

TITLE = "Polls"
PROCESSES = 5_000
EVERY_SECONDS = 60.0
PLATFORM_SECONDS = 0.2
MEASURED_SECONDS = 600.0
LATE_SECONDS = 5.0
SAMPLE = 50
NOTE = f"""\
{PROCESSES:,} pending processes, polled every {EVERY_SECONDS:.0f} s, at a platform that
answers after {PLATFORM_SECONDS * 1000:.0f} ms, for {MEASURED_SECONDS / 60:.0f} minutes. A
poll is late if it comes more than {LATE_SECONDS:.0f} s after it was due."""


async def run() -> str:
    """Measure the row.

    Returns:
        Its part of the page.
    """
    async with upstream(PLATFORM_SECONDS) as platform, running_engine() as engine:
        await engine.enable(platform.url)
        began = time.monotonic()
        ids = await engine.add_pending("polled", PROCESSES)
        took = time.monotonic() - began
        with Progress(transient=True) as progress:
            task = progress.add_task("first polls", total=EVERY_SECONDS)
            while not progress.finished:
                await asyncio.sleep(1)
                progress.advance(task)
        client = await Client.connect(engine.target)
        before = await _events(client, ids)
        platform.asked.clear()
        with Progress(transient=True) as progress:
            task = progress.add_task("polling", total=MEASURED_SECONDS)
            watching = asyncio.create_task(engine.usage(MEASURED_SECONDS))
            while not watching.done():
                await asyncio.sleep(1)
                progress.advance(task)
        usage = await watching
        after = await _events(client, ids)
        polls, late = _late(platform.asked)
    return "\n".join(
        [
            NOTE,
            "",
            "| measured | |",
            "| --- | --- |",
            f"| started in | {took:.0f} s |",
            f"| polls | {polls} of {PROCESSES * MEASURED_SECONDS / EVERY_SECONDS:.0f} due |",
            f"| late | **{100 * late / max(polls, 1):.2f} %** |",
            f"| history events per process, before → after | {before:.1f} → **{after:.1f}** |",
            *(f"| {name} | {used.text()} |" for name, used in usage.items()),
        ]
    )


async def _events(client: Client, ids: list[str]) -> float:
    """The events in the histories of some of the processes, on average."""
    lengths = []
    for process_id in ids[:: len(ids) // SAMPLE]:
        workflow_id = process_workflow_id(COMMUNITY, "measured.polled", process_id)
        description = await client.get_workflow_handle(workflow_id).describe()
        lengths.append(description.history_length)
    return sum(lengths) / len(lengths)


def _late(asked: dict[str, list[float]]) -> tuple[int, int]:
    """How many polls there were, and how many of them came too late after the one before."""
    polls = late = 0
    for path, moments in asked.items():
        if path.startswith("/poll/"):
            polls += len(moments)
            pauses = [after - before for before, after in itertools.pairwise(moments)]
            # The next one is due after the interval and the answer to the one before.
            due = EVERY_SECONDS + PLATFORM_SECONDS + LATE_SECONDS
            late += sum(pause > due for pause in pauses)
    return polls, late
