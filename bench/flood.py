"""Row 7: a flood of webhooks, and what drivers notice of it; as a program, its senders."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import sys
from collections import Counter

import httpx
import psutil

from bench.measure import Timing, timed
from bench.running import COMMUNITY, HEADERS, REPOSITORY, SECRET, running_engine

TITLE = "A flood of webhooks"
WEBHOOKS = 5_000
SENDERS = 100
MEBIBYTE = 2**20 - 2
NOTE = f"""\
{WEBHOOKS:,} webhooks from {SENDERS} senders at once: half of them signed, half with a wrong
signature, one in ten with a body of 1 MiB. Meanwhile a driver's actions, one after the other. The
senders are a process of their own, of the lowest priority: in life they are other machines."""


async def run() -> str:
    """Measure the row.

    Returns:
        Its part of the page.
    """
    async with running_engine() as engine:
        await engine.enable()

        async def act() -> None:
            path = "/api/internal/action/randomness.random-int"
            (await engine.http.post(path, headers=HEADERS)).raise_for_status()

        await timed(act, 50, 1)
        before = await timed(act, 200, 1)
        api = psutil.Process(engine.processes["api"].pid)
        resting = peak = api.memory_info().rss / 1e6
        senders = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.flood", engine.url, cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        answered = asyncio.create_task(senders.communicate())
        taken: list[float] = []
        while not answered.done():
            taken += (await timed(act, 1, 1)).seconds
            peak = max(peak, api.memory_info().rss / 1e6)
        answers: dict[str, int] = json.loads((await answered)[0])
        during = Timing(taken, sum(taken))
        await engine.settled()
        after = api.memory_info().rss / 1e6
    return "\n".join(
        [
            NOTE,
            "",
            "| measured | |",
            "| --- | --- |",
            f"| action before: median, p95 | {_shown(before)} |",
            f"| action meanwhile: median, p95 | {_shown(during)} |",
            f"| median beside that before | **{during.median_ms / before.median_ms:.2f}** |",
            f"| API's memory before, after | {resting:.0f} MB, {after:.0f} MB |",
            f"| the most of it | **{peak:.0f} MB** |",
            f"| answers | {', '.join(f'{kind}: {n}' for kind, n in sorted(answers.items()))} |",
        ]
    )


async def send(url: str) -> Counter[str]:
    """Send the flood.

    Args:
        url: The API's base URL.

    Returns:
        How many requests had which status, or broke off.
    """
    answers: Counter[str] = Counter()
    small, large = b"nobody", b"x" * MEBIBYTE
    signed = {body: _signature(body) for body in (small, large)}
    left = iter(range(WEBHOOKS))
    path = f"/api/hooks/{COMMUNITY}/signed"

    async def send_some(http: httpx.AsyncClient) -> None:
        for number in left:
            body = small if number % 10 else large
            headers = {"X-Signature": signed[body] if number // 10 % 2 else "0" * 64}
            try:
                answer = await http.post(path, content=body, headers=headers)
                answers[str(answer.status_code)] += 1
            except httpx.TransportError as error:
                answers[type(error).__name__] += 1

    limits = httpx.Limits(max_connections=SENDERS)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        await asyncio.gather(*(send_some(http) for _ in range(SENDERS)))
    return answers


def _shown(taken: Timing) -> str:
    return f"{taken.median_ms:.0f} ms, {taken.p95_ms:.0f} ms"


def _signature(body: bytes) -> str:
    return hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


if __name__ == "__main__":
    os.nice(19)
    print(json.dumps(asyncio.run(send(sys.argv[1]))))
