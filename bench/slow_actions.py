"""Row 4: many actions at once at a platform that takes its time."""

from __future__ import annotations

from bench.measure import timed
from bench.running import HEADERS, running_engine
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

        await timed(act, CONCURRENCY, CONCURRENCY)
        taken = await timed(act, COUNT, CONCURRENCY)
    limit = CONCURRENCY / PLATFORM_SECONDS
    return "\n".join(
        [
            f"{COUNT} actions, {CONCURRENCY} at once, at a platform that answers after "
            f"{PLATFORM_SECONDS * 1000:.0f} ms.",
            "",
            "| per s | the platform's own limit | ratio | median ms | p95 ms |",
            "| --- | --- | --- | --- | --- |",
            f"| {taken.per_second:.0f} | {limit:.0f} | **{taken.per_second / limit:.2f}** | "
            f"{taken.median_ms:.0f} | {taken.p95_ms:.0f} |",
        ]
    )
