"""Row 1: an action, a start, a webhook, beside the bare Temporal calls that they rest on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from uuid import uuid4

from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy

from bench.bare import TASK_QUEUE, TIMEOUT, Signalled, Started, nothing
from bench.measure import Call, Timing, in_turn
from bench.running import COMMUNITY, HEADERS, RunningEngine, python_process, running_engine
from bench.upstream import Upstream, upstream

TITLE = "The short ways"
COUNT = 200
CONCURRENCIES = (1, 20)
NOTE = """\
Same server, same run, in turn; API, worker, bare worker, server and the measuring process
share the machine. Times in ms. An action is two transactions that reach the disk (accepted;
done), two reads and one HTTP request more than the bare activity. A webhook → callback is six
Temporal steps (two standalone activities, a signal, two workflow tasks, an activity) and
three transactions beside a bare signal, one workflow task and one activity."""
HEAD = (
    "| engine | bare Temporal | at once | median | bare | ratio "
    "| p95 | bare p95 | per s | bare | ratio |\n" + "| --- " * 11 + "|"
)


async def run() -> str:
    """Measure the row.

    Returns:
        Its part of the page.
    """
    async with upstream() as receiver, running_engine() as engine:
        await engine.enable()
        with python_process("-m", "bench.bare", engine.target):
            ways = _Ways(engine, await Client.connect(engine.target), receiver)
            lines = [HEAD]
            for many in CONCURRENCIES:
                lines += [await ways.line(kind, many) for kind in ways.calls]
                lines.append(await ways.callback_line(many))
    return "\n".join([NOTE, "", *lines])


class _Ways:
    def __init__(self, engine: RunningEngine, client: Client, receiver: Upstream) -> None:
        self._http = engine.http
        self._client = client
        self._receiver = receiver
        self.calls: dict[str, tuple[Call, Call]] = {
            "action | standalone activity": (self._action, self._bare_action),
            "process start | update-with-start, one activity": (self._start, self._bare_start),
            "webhook accepted | activity started": (self._accept, self._bare_accept),
        }

    async def line(self, kind: str, many: int) -> str:
        ours, bare = await in_turn(*self.calls[kind], COUNT, many)
        return _line(kind, many, ours, bare)

    async def callback_line(self, many: int) -> str:
        timings = []
        for call in (self._webhook, self._bare_webhook):
            taken: list[float] = []
            left = iter(range(max(many, COUNT // 4)))

            async def one_after_the_other(
                call: object = call, left: object = left, taken: list[float] = taken
            ) -> None:
                for _ in left:  # type: ignore[attr-defined]
                    taken.append(await call())  # type: ignore[operator]

            await asyncio.gather(*[one_after_the_other() for _ in range(many)])
            timings.append(Timing(taken, sum(taken) / many))
        return _line("webhook → callback | signal, one activity that POSTs", many, *timings)

    async def _action(self) -> None:
        path = "/api/internal/action/randomness.random-int"
        (await self._http.post(path, headers=HEADERS)).raise_for_status()

    async def _bare_action(self) -> None:
        await self._client.execute_activity(
            nothing, "x", id=uuid4().hex, task_queue=TASK_QUEUE, start_to_close_timeout=TIMEOUT
        )

    async def _start(self) -> None:
        path = "/api/internal/process/tutorial.show-of-hands"
        (await self._http.post(path, headers=HEADERS, json={})).raise_for_status()

    async def _bare_start(self) -> None:
        operation = WithStartWorkflowOperation(
            Started.run,
            id=uuid4().hex,
            task_queue=TASK_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        )
        await self._client.execute_update_with_start_workflow(
            Started.started, start_workflow_operation=operation
        )

    async def _accept(self) -> None:
        path = f"/api/hooks/{COMMUNITY}/measured"
        (await self._http.post(path, content="nobody")).raise_for_status()

    async def _bare_accept(self) -> None:
        await self._client.start_activity(
            nothing, "x", id=uuid4().hex, task_queue=TASK_QUEUE, start_to_close_timeout=TIMEOUT
        )

    async def _webhook(self) -> float:
        """From a webhook to the completed process' callback; one community for each."""
        name = uuid4().hex
        community = f"{COMMUNITY}-{name[:8]}"
        plugins = [{"name": "tutorial", "config": {"api_key": "x"}}]
        body = {"name": community, "readable_name": "", "plugins": plugins}
        await self._http.put(f"/api/internal/community/{community}", json=body)
        started = await self._http.post(
            "/api/internal/process/tutorial.show-of-hands",
            headers={"X-Metagov-Community": community},
            json={"enough": 1, "callback_url": f"{self._receiver.url}/{name}"},
        )
        started.raise_for_status()
        raised = {"raised_by": "a", "account": "a", "data": {}}
        return await self._until(
            name, self._http.post(f"/api/hooks/{community}/tutorial", json=raised)
        )

    async def _bare_webhook(self) -> float:
        """From a signal to the POST of the activity that it leads to."""
        name = uuid4().hex
        handle = await self._client.start_workflow(Signalled.run, id=name, task_queue=TASK_QUEUE)
        return await self._until(name, handle.signal(Signalled.go, f"{self._receiver.url}/{name}"))

    async def _until(self, name: str, trigger: Awaitable[object]) -> float:
        posted = self._receiver.expect(f"/{name}")
        started = time.perf_counter()
        await trigger
        await asyncio.wait_for(posted, 60)
        return time.perf_counter() - started


def _line(kind: str, many: int, ours: Timing, bare: Timing) -> str:
    return (
        f"| {kind} | {many} | {ours.median_ms:.1f} | {bare.median_ms:.1f} | "
        f"**{ours.median_ms / bare.median_ms:.2f}** | {ours.p95_ms:.1f} | {bare.p95_ms:.1f} | "
        f"{ours.per_second:.0f} | {bare.per_second:.0f} | "
        f"**{ours.per_second / bare.per_second:.2f}** |"
    )
