"""Row 2: what a webhook costs beside processes that wait and that it does not concern."""

from __future__ import annotations

from bench.measure import timed
from bench.running import COMMUNITY, running_engine

TITLE = "A webhook beside pending processes"
COUNTS = (0, 100, 1_000, 10_000)
WEBHOOKS = 300
NOTE = """\
Webhooks that concern nobody, for processes with a key, one after the other: from the request
to its answer, which says that it is stored and handed over."""
HEAD = """| pending | median ms | p95 ms | beside none |
| --- | --- | --- | --- |"""


async def run() -> str:
    """Measure the row.

    Returns:
        Its part of the page.
    """
    lines = [NOTE, "", HEAD]
    async with running_engine() as engine:
        await engine.enable()

        async def accept() -> None:
            path = f"/api/hooks/{COMMUNITY}/measured"
            (await engine.http.post(path, content="nobody")).raise_for_status()

        await timed(accept, 50, 1)
        present, first = 0, 0.0
        for count in COUNTS:
            if count > present:
                await engine.add_pending("keyed", count - present)
                present = count
                await engine.settled()
            taken = await timed(accept, WEBHOOKS, 1)
            first = first or taken.median_ms
            lines.append(
                f"| {count} | {taken.median_ms:.1f} | {taken.p95_ms:.1f} | "
                f"**{taken.median_ms / first:.2f}** |"
            )
    return "\n".join(lines)
