"""Row 8: ten thousand webhooks for one process. Takes ten minutes: only run when it is named."""

from __future__ import annotations

import asyncio
import time

import httpx
from rich.progress import Progress

from bench.running import COMMUNITY, running_engine
from engine.messages import process_workflow_id
from engine.resources import open_engine
from engine.store import communities
from engine.store.webhooks import ReceivedWebhook

TITLE = "Ten thousand webhooks for one process"
WEBHOOKS = 10_000
LONGEST_SECONDS = 1_800
NOTE = f"""\
{WEBHOOKS:,} stored webhooks, signalled one after the other to one process, which handles them one
at a time and notes any that comes out of turn. The server's own threshold, 4,096 events, decides
when the workflow continues as new."""


async def run() -> str:
    """Measure the row.

    Returns:
        Its part of the page.
    """
    async with running_engine() as running:
        await running.enable()
        (process_id,) = await running.add_pending("keyed", 1)
        began = time.monotonic()
        async with open_engine(running.settings, lazy=False) as engine:
            async with engine.database.write() as session:
                instance = await communities.find_instance(session, COMMUNITY, "measured")
                assert instance is not None
                rows = [
                    ReceivedWebhook(
                        instance_id=instance.id,
                        community=COMMUNITY,
                        plugin="measured",
                        instance="measured",
                        path="",
                        body=f"{process_id} {number}".encode(),
                        status="handled",
                    )
                    for number in range(1, WEBHOOKS + 1)
                ]
                references = [row.reference for row in rows]
                session.add_all(rows)
            for reference in references:
                await engine.temporal.processes.receive_webhook(
                    COMMUNITY, "measured.keyed", process_id, reference
                )
            signalled = time.monotonic() - began
            outcome = await _all_handled(running.http, process_id)
            took = time.monotonic() - began
            workflow_id = process_workflow_id(COMMUNITY, "measured.keyed", process_id)
            lengths = [
                execution.history_length
                async for execution in engine.temporal.client.list_workflows(
                    f"WorkflowId = '{workflow_id}'"
                )
            ]
    return "\n".join(
        [
            NOTE,
            "",
            "| measured | |",
            "| --- | --- |",
            f"| handled | **{outcome['heard']}** of {WEBHOOKS} |",
            f"| out of turn | **{outcome['out_of_turn']}** |",
            f"| signalled in | {signalled:.0f} s |",
            f"| handled in | {took:.0f} s ({WEBHOOKS / took:.0f} a second) |",
            f"| runs of the workflow | {len(lengths)} |",
            f"| longest history | {max(lengths)} events |",
        ]
    )


async def _all_handled(http: httpx.AsyncClient, process_id: str) -> dict[str, int]:
    path = f"/api/internal/process/measured.keyed/{process_id}"
    with Progress(transient=True) as progress:
        task = progress.add_task("handling", total=WEBHOOKS)
        async with asyncio.timeout(LONGEST_SECONDS):
            while True:
                record = (await http.get(path)).json()
                outcome: dict[str, int] = record["outcome"]
                progress.update(task, completed=outcome.get("heard", 0))
                if outcome.get("heard", 0) >= WEBHOOKS:
                    return outcome
                await asyncio.sleep(1)
