"""Row 4: many actions at once at a platform that takes its time."""

from __future__ import annotations

from uuid import uuid4

from temporalio.client import Client

from bench.bare import TASK_QUEUE, TIMEOUT, post
from bench.measure import Timing, in_turn
from bench.running import HEADERS, python_process, running_engine
from bench.upstream import upstream

TITLE = "Slow actions"
COUNT = 200
CONCURRENCY = 50
PLATFORM_SECONDS = 0.2


async def run() -> str:
    """Measure the row.

    Returns:
        Its part of the page.
    """
    async with upstream(PLATFORM_SECONDS) as platform, running_engine() as engine:
        await engine.enable(platform.url)

        async def act() -> None:
            path = "/api/internal/action/measured.slow"
            (await engine.http.post(path, headers=HEADERS)).raise_for_status()

        with python_process("-m", "bench.bare", engine.target):
            client = await Client.connect(engine.target)

            async def bare() -> None:
                await client.execute_activity(
                    post,
                    f"{platform.url}/action",
                    id=uuid4().hex,
                    task_queue=TASK_QUEUE,
                    start_to_close_timeout=TIMEOUT,
                )

            ours, theirs = await in_turn(act, bare, COUNT, CONCURRENCY)
    return "\n".join(
        [
            f"{COUNT} actions, {CONCURRENCY} at once, at a platform that answers after "
            f"{PLATFORM_SECONDS * 1000:.0f} ms; beside bare Temporal, an activity with the same "
            "request.",
            "",
            "| | per s | of the platform's own limit | median ms | p95 ms |",
            "| --- | --- | --- | --- | --- |",
            _line("engine", ours),
            _line("bare Temporal", theirs),
            f"| ratio | **{ours.per_second / theirs.per_second:.2f}** | | "
            f"**{ours.median_ms / theirs.median_ms:.2f}** | |",
        ]
    )


def _line(name: str, taken: Timing) -> str:
    limit = CONCURRENCY / PLATFORM_SECONDS
    return (
        f"| {name} | {taken.per_second:.0f} | {taken.per_second / limit:.2f} | "
        f"{taken.median_ms:.0f} | {taken.p95_ms:.0f} |"
    )
