"""Row 7: a flood of webhooks, and what drivers notice of it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import Counter
from dataclasses import dataclass, field

import httpx
import psutil
from rich.progress import Progress

from bench.measure import Call, Timing, timed
from bench.running import COMMUNITY, HEADERS, SECRET, RunningEngine, running_engine

TITLE = "A flood of webhooks"
WEBHOOKS = 5_000
SENDERS = 100
MEBIBYTE = 2**20 - 2
NOTE = f"""\
{WEBHOOKS:,} webhooks from {SENDERS} senders at once: half of them signed, half with a wrong
signature, one in ten with a body of 1 MiB. Meanwhile a driver's actions, one after the other. The
senders share the machine."""


@dataclass
class _Flood:
    """What came of it.

    Attributes:
        answers: How many requests had which status.
        peak_megabytes: The most memory that the API held.
    """

    answers: Counter[int] = field(default_factory=Counter)
    peak_megabytes: float = 0.0


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
        resting = api.memory_info().rss / 1e6
        flood, during = await _flooded(engine, api, act)
        await engine.settled()
        after = api.memory_info().rss / 1e6
    told = ", ".join(f"{status}: {count}" for status, count in sorted(flood.answers.items()))
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
            f"| the most of it | **{flood.peak_megabytes:.0f} MB** |",
            f"| answers | {told} |",
        ]
    )


async def _flooded(engine: RunningEngine, api: psutil.Process, act: Call) -> tuple[_Flood, Timing]:
    flood, taken = _Flood(), Timing([], 0.0)
    small, large = b"nobody", b"x" * MEBIBYTE
    signed = {body: _signature(body) for body in (small, large)}
    left = iter(range(WEBHOOKS))
    path = f"/api/hooks/{COMMUNITY}/signed"

    with Progress(transient=True) as progress:
        task = progress.add_task("flooding", total=WEBHOOKS)

        async def send(http: httpx.AsyncClient) -> None:
            for number in left:
                body = small if number % 10 else large
                headers = {"X-Signature": signed[body] if number // 10 % 2 else "0" * 64}
                answer = await http.post(path, content=body, headers=headers)
                flood.answers[answer.status_code] += 1
                flood.peak_megabytes = max(flood.peak_megabytes, api.memory_info().rss / 1e6)
                progress.advance(task)

        async with httpx.AsyncClient(
            base_url=engine.url, timeout=120, limits=httpx.Limits(max_connections=SENDERS)
        ) as http:
            sending = asyncio.gather(*(send(http) for _ in range(SENDERS)))
            while not sending.done():
                part = await timed(act, 1, 1)
                taken.seconds.extend(part.seconds)
            await sending
    return flood, taken


def _shown(taken: Timing) -> str:
    return f"{taken.median_ms:.0f} ms, {taken.p95_ms:.0f} ms"


def _signature(body: bytes) -> str:
    return hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
