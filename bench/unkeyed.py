"""Row 9: what a webhook without a key costs beside processes that it does not concern."""

from __future__ import annotations

import asyncio

from bench.running import COMMUNITY, RunningEngine, running_engine

TITLE = "A webhook without a key that concerns nobody"
COUNTS = (0, 100, 1_000)
WEBHOOKS = 100
NOTE = f"""\
CPU time of server, API and worker together for each of {WEBHOOKS} webhooks, from the first request
until all are handled: of a plugin whose webhooks carry a key, and of one whose webhooks carry none,
each beside so many pending processes of its own."""
HEAD = """| pending | with a key ms | without ms | ratio |
| --- | --- | --- | --- |"""


async def run() -> str:
    """Measure the row.

    Returns:
        Its part of the page.
    """
    lines = [NOTE, "", HEAD]
    async with running_engine() as engine:
        await engine.enable()
        present = 0
        for count in COUNTS:
            await engine.add_pending("keyed", count - present)
            await engine.add_pending("keyless", count - present, "crowded", keyed=False)
            present = count
            await engine.settled()
            keyed, unkeyed = 0.0, 0.0
            # The first of each reads what those after it know.
            for number in range(4):
                with_key = await _cpu_of(engine, "measured")
                without = await _cpu_of(engine, "crowded")
                if number:
                    keyed, unkeyed = keyed + with_key, unkeyed + without
            each = 1000 / (3 * WEBHOOKS)
            lines.append(
                f"| {count:,} | {keyed * each:.1f} | {unkeyed * each:.1f} | "
                f"**{unkeyed / keyed:.2f}** |"
            )
    return "\n".join(lines)


async def _cpu_of(engine: RunningEngine, plugin: str) -> float:
    """The CPU seconds of all processes until some webhooks are handled."""
    before = sum(engine.cpu_seconds().values())
    for _ in range(WEBHOOKS):
        path = f"/api/hooks/{COMMUNITY}/{plugin}"
        (await engine.http.post(path, content="nobody")).raise_for_status()
    waiting = {"community": COMMUNITY, "status": "received", "limit": "1"}
    while (await engine.http.get("/api/internal/webhooks", params=waiting)).json()["webhooks"]:
        await asyncio.sleep(0.2)
    return sum(engine.cpu_seconds().values()) - before
