"""``make bench``: starts an engine and a bare worker on one Temporal server, and compares them."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy

from bench.bare import TASK_QUEUE, TIMEOUT, Signalled, Started, nothing
from bench.measure import Timing, in_turn

COMMUNITY = "bench"
HEADERS = {"X-Metagov-Community": COMMUNITY}
RESULTS = Path(__file__).parent.parent / "docs" / "performance.md"
ROWS = ("action-1", "action-20", "start-1", "start-20", "webhook-1", "webhook-20")
LABELS = {
    "action": "action | standalone activity",
    "start": "process start | update-with-start and one activity",
    "webhook": "webhook → callback | signal, one activity that POSTs",
}


class Receiver:
    """Takes POSTs and tells who waits for them."""

    def __init__(self) -> None:
        self.url = ""
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def expect(self, name: str) -> asyncio.Future[None]:
        """A future that is done once something is POSTed to /{name}."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[name] = future
        return future

    async def take(self, request: Request) -> Response:
        """Take a POST."""
        await request.body()
        future = self._waiting.pop(request.path_params["name"], None)
        if future is not None:
            future.set_result(None)
        return Response()


class Bench:
    """One engine, one bare worker, one Temporal server."""

    def __init__(self, http: httpx.AsyncClient, client: Client, receiver: Receiver) -> None:
        self._http = http
        self._client = client
        self._receiver = receiver

    async def enable(self) -> None:
        """Make the community that is measured with."""
        plugins = [
            {"name": "randomness", "config": {}},
            {"name": "tutorial", "config": {"api_key": "x"}},
        ]
        body = {"name": COMMUNITY, "readable_name": "", "plugins": plugins}
        answer = await self._http.put(f"/api/internal/community/{COMMUNITY}", json=body)
        answer.raise_for_status()

    async def action(self) -> None:
        """An action that does next to nothing."""
        path = "/api/internal/action/randomness.random-int"
        (await self._http.post(path, headers=HEADERS)).raise_for_status()

    async def bare_action(self) -> None:
        """A standalone activity that does nothing."""
        await self._client.execute_activity(
            nothing, "x", id=uuid4().hex, task_queue=TASK_QUEUE, start_to_close_timeout=TIMEOUT
        )

    async def start(self) -> None:
        """A process that waits afterwards."""
        path = "/api/internal/process/tutorial.show-of-hands"
        (await self._http.post(path, headers=HEADERS, json={})).raise_for_status()

    async def bare_start(self) -> None:
        """A workflow that runs one activity, started and asked in one round trip."""
        operation = WithStartWorkflowOperation(
            Started.run,
            id=uuid4().hex,
            task_queue=TASK_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        )
        await self._client.execute_update_with_start_workflow(
            Started.started, start_workflow_operation=operation
        )

    async def webhook(self) -> None:
        """From a webhook to the completed process' callback; one process waits for each."""
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
        await self._measured(
            name,
            self._http.post(
                f"/api/hooks/{community}/tutorial",
                json={"raised_by": "a", "account": "a", "data": {}},
            ),
        )

    async def bare_webhook(self) -> None:
        """From a signal to the POST of the activity that it leads to."""
        name = uuid4().hex
        handle = await self._client.start_workflow(Signalled.run, id=name, task_queue=TASK_QUEUE)
        await asyncio.sleep(0)
        await self._measured(name, handle.signal(Signalled.go, f"{self._receiver.url}/{name}"))

    async def _measured(self, name: str, trigger: object) -> None:
        """Only what lies between the trigger and the POST counts."""
        heard = self._receiver.expect(name)
        started = asyncio.get_running_loop().time()
        await trigger  # type: ignore[misc]
        await asyncio.wait_for(heard, 60)
        self.latest.append(asyncio.get_running_loop().time() - started)

    latest: list[float] = []


async def measure(rows: list[str], count: int) -> list[str]:
    """Measure rows.

    Args:
        rows: Their names.
        count: How many calls of each kind.

    Returns:
        The lines of the table.
    """
    lines = []
    with ExitStack() as stack:
        ports = _free_ports(3)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metagov-bench-")))
        stack.enter_context(_engine(folder, ports))
        target = f"127.0.0.1:{ports[1]}"
        stack.enter_context(_process("-m", "bench.bare", target))
        async with _receiver() as receiver:
            client = await Client.connect(target)
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{ports[0]}", timeout=90, limits=limits
            ) as http:
                bench = Bench(http, client, receiver)
                await bench.enable()
                for number, row in enumerate(rows, 1):
                    print(f"[{number}/{len(rows)}] {row} ...", file=sys.stderr, flush=True)
                    lines.append(await _row(bench, row, count))
    return lines


async def _row(bench: Bench, row: str, count: int) -> str:
    kind, _, concurrency = row.partition("-")
    many = int(concurrency)
    if kind == "webhook":
        ours, bare = await _between(bench, count // 4, many)
    else:
        calls = {
            "action": (bench.action, bench.bare_action),
            "start": (bench.start, bench.bare_start),
        }
        ours, bare = await in_turn(*calls[kind], count, many)
    return (
        f"| {LABELS[kind]} | {many} | {ours.median_ms:.1f} | {bare.median_ms:.1f} | "
        f"**{ours.median_ms / bare.median_ms:.2f}** | {ours.p95_ms:.1f} | {bare.p95_ms:.1f} | "
        f"{ours.per_second:.0f} | {bare.per_second:.0f} | "
        f"**{ours.per_second / bare.per_second:.2f}** |"
    )


async def _between(bench: Bench, count: int, many: int) -> tuple[Timing, Timing]:
    """Webhooks need something prepared for each call, which is not to be timed."""
    timings = []
    for call in (bench.webhook, bench.bare_webhook):
        bench.latest = []
        left = iter(range(max(many, count)))

        async def one_after_the_other(call: object = call, left: object = left) -> None:
            for _ in left:  # type: ignore[attr-defined]
                await call()  # type: ignore[operator]

        await asyncio.gather(*[one_after_the_other() for _ in range(many)])
        timings.append(Timing(bench.latest, sum(bench.latest) / many))
    return timings[0], timings[1]


@asynccontextmanager
async def _receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = Starlette(routes=[Route("/{name}", receiver.take, methods=["POST"])])
    # With its protocol named, accepted sockets get TCP_NODELAY from asyncio.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    receiver.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield receiver
    server.should_exit = True
    await task


@contextmanager
def _engine(folder: Path, ports: list[int]) -> Iterator[None]:
    environment = os.environ | {
        "METAGOV_DATA_DIR": str(folder),
        "METAGOV_PORT": str(ports[0]),
        "METAGOV_TEMPORAL_PORT": str(ports[1]),
        "METAGOV_TEMPORAL_UI_PORT": str(ports[2]),
        "METAGOV_LOG_LEVEL": "error",
        "METAGOV_WORKER_GRACE_SECONDS": "1",
    }
    with _process("-m", "cli", "run", environment=environment, output=True) as engine:
        assert engine.stdout is not None
        for line in engine.stdout:
            if b"Ctrl-C" in line:
                break
        yield


@contextmanager
def _process(
    *arguments: str, environment: dict[str, str] | None = None, output: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE if output else None,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT if output else signal.SIGKILL)
        process.wait(60)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def report(lines: list[str], count: int) -> str:
    """Put measured lines into a page.

    Args:
        lines: The table's lines.
        count: How many calls each is made of.

    Returns:
        The page.
    """
    cores = os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    machine = f"{cores} cores, {system}, Python {platform.python_version()}"
    return "\n".join(
        [
            "# Performance",
            "",
            "Written by `make bench ARGS=--write`; ratios hold, absolute figures drift with the",
            "machine.",
            "Each call of the engine stands beside the bare Temporal call that it rests on: same",
            "server, same run, in turn. API, engine worker, bare worker, Temporal server and the",
            "measuring process share the machine.",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {count} calls of each kind "
            f"({count // 4} for webhooks); SQLite. Times in ms.",
            "",
            "| engine | bare Temporal | at once | median | bare | ratio | p95 | bare p95 "
            "| per s | bare per s | ratio |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *lines,
            "",
            "An action is two transactions that reach the disk (accepted; done), two reads and one",
            "HTTP request more than the bare activity. A webhook → callback is six Temporal steps",
            "(two standalone activities, a signal, two workflow tasks, an activity) and three",
            "transactions beside a bare signal, one workflow task and one activity.",
            "",
        ]
    )


def main() -> None:
    """Measure, print the table, and write it down."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"which rows: {', '.join(ROWS)} (default: all)")
    parser.add_argument("--count", type=int, default=200, help="calls of each kind")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(ROWS)
    if unknown or not 20 <= arguments.count <= 10_000:
        parser.error(f"rows are {', '.join(ROWS)}; the count is from 20 to 10000")
    lines = asyncio.run(measure(arguments.rows or list(ROWS), arguments.count))
    page = report(lines, arguments.count)
    print(page)
    if arguments.write:
        RESULTS.write_text(page)


if __name__ == "__main__":
    main()
