"""Row 6: more worker processes on one server."""

from __future__ import annotations

from bench.measure import timed
from bench.running import HEADERS, running_engine
from bench.upstream import upstream

TITLE = "More workers"
WORKERS = (1, 2, 3)
COUNT = 300
CONCURRENCY = 40
NOTE = f"""\
Actions that take no time, {CONCURRENCY} at once, on one server and one API process. All of
them share the machine's cores, which the server needs most of."""


async def run() -> str:
    """Measure the row.

    Returns:
        Its part of the page.
    """
    lines = [NOTE, "", "| workers | actions per s | server CPU | API CPU | each worker's CPU |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for workers in WORKERS:
        async with upstream() as platform, running_engine(workers) as engine:
            await engine.enable(platform.url)

            async def act() -> None:
                path = "/api/internal/action/randomness.random-int"
                answer = await engine.http.post(path, headers=HEADERS)
                answer.raise_for_status()

            await timed(act, CONCURRENCY, CONCURRENCY)
            cpu = engine.cpu_seconds()
            taken = await timed(act, COUNT, CONCURRENCY)
            used = {
                name: 100 * (seconds - cpu[name]) / taken.wall_seconds
                for name, seconds in engine.cpu_seconds().items()
            }
        each = ", ".join(f"{used[f'worker-{n}']:.0f} %" for n in range(workers))
        lines.append(
            f"| {workers} | {taken.per_second:.0f} | {used['temporal']:.0f} % | "
            f"{used['api']:.0f} % | {each} |"
        )
    return "\n".join(lines)
