"""An engine to be measured: its processes, what they use, and processes of its that wait."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from rich.progress import Progress
from temporalio.client import Client

from cli.temporal_server import temporal_command
from engine.discovery import load_plugins
from engine.messages import SEARCH_ATTRIBUTES
from engine.resources import capabilities_of, open_engine
from engine.sdk.registry import Registry
from engine.settings import Settings
from engine.store import communities
from engine.store.database import open_database
from engine.store.processes import GovernanceProcess
from engine.store.schema import migrate
from engine.temporal import ensure_search_attributes
from sandbox.ports import free_ports

PLUGINS = Path(__file__).parent / "plugins"
REPOSITORY = Path(__file__).parent.parent
COMMUNITY = "bench"
SECRET = "a secret that signs webhooks"
HEADERS = {"X-Metagov-Community": COMMUNITY}
START_SECONDS = 60
STARTS_AT_ONCE = 30
BUSY_PERCENT = 15


@dataclass(frozen=True)
class Usage:
    """What a process used.

    Attributes:
        cpu_percent: Of one core, over the time measured.
        megabytes: Resident memory at its end.
    """

    cpu_percent: float
    megabytes: float

    def text(self) -> str:
        """CPU and memory, as a table's cell has them."""
        return f"{self.cpu_percent:.0f} % · {self.megabytes:.0f} MB"


@dataclass
class RunningEngine:
    """A Temporal server on its file, one API, some workers.

    Attributes:
        folder: Where their data lies.
        environment: What they are started with.
        url: The API's base URL.
        target: Where the Temporal server listens.
        processes: They themselves, by name.
        http: A client of the API.
    """

    folder: Path
    environment: dict[str, str]
    url: str
    target: str
    http: httpx.AsyncClient
    settings: Settings
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    async def start(self, workers: int = 1) -> None:
        """Start what does not run, and wait until it serves."""
        python = [sys.executable, "-m", "cli"]
        commands = {
            "temporal": temporal_command(self.settings, self.folder),
            "api": [*python, "api"],
        }
        for number in range(workers):
            commands[f"worker-{number}"] = [*python, "worker"]
        for name, command in commands.items():
            if name not in self.processes:
                with (self.folder / f"{name}.log").open("ab") as log:
                    self.processes[name] = subprocess.Popen(
                        command, env=self.environment, cwd=REPOSITORY, stdout=log, stderr=log
                    )
        deadline = time.monotonic() + START_SECONDS
        while not await self._ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the engine does not get ready; see {self.folder}")
            await asyncio.sleep(0.05)
        client = await Client.connect(self.target)
        await ensure_search_attributes(client, SEARCH_ATTRIBUTES)

    def kill(self, *names: str) -> None:
        """Kill processes; without names, all of them."""
        for name in names or list(self.processes):
            process = self.processes.pop(name)
            process.send_signal(signal.SIGKILL)
            process.wait(30)

    def cpu_seconds(self) -> dict[str, float]:
        """What CPU time each process has used so far."""
        return {name: _cpu(psutil.Process(p.pid)) for name, p in self.processes.items()}

    async def usage(self, seconds: float) -> dict[str, Usage]:
        """Measure what each process uses for a while."""
        before = self.cpu_seconds()
        await asyncio.sleep(seconds)
        return {
            name: Usage(
                100 * (used - before[name]) / seconds,
                psutil.Process(self.processes[name].pid).memory_info().rss / 1e6,
            )
            for name, used in self.cpu_seconds().items()
        }

    async def settled(self) -> None:
        """Wait until what was started has come to rest, two minutes at most."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if sum(used.cpu_percent for used in (await self.usage(2)).values()) < BUSY_PERCENT:
                return

    async def enable(self, upstream: str = "") -> None:
        """Make the community that is measured with."""
        plugins = [
            {"name": "randomness", "config": {}},
            {"name": "tutorial", "config": {"api_key": "x"}},
            {"name": "measured", "config": {"upstream": upstream}},
            {"name": "signed", "config": {"secret": SECRET}},
            {"name": "crowded", "config": {}},
        ]
        body = {"name": COMMUNITY, "readable_name": "", "plugins": plugins}
        answer = await self.http.put(f"/api/internal/community/{COMMUNITY}", json=body)
        answer.raise_for_status()

    async def add_pending(
        self, slug: str, count: int, plugin: str = "measured", *, keyed: bool = True
    ) -> list[str]:
        """Add processes that wait, past their start: rows and workflows, as a lost one is started.

        Args:
            slug: Their class' slug.
            count: How many.
            plugin: Their plugin.
            keyed: Whether each has its id as its key.

        Returns:
            Their ids.
        """
        load_plugins([PLUGINS])
        capabilities = capabilities_of(Registry.plugins[plugin].processes[slug])
        async with open_engine(self.settings, lazy=False) as engine:
            async with engine.database.write() as session:
                instance = await communities.find_instance(session, COMMUNITY, plugin)
                assert instance is not None
                rows = [
                    GovernanceProcess(
                        community=COMMUNITY,
                        plugin=plugin,
                        instance=plugin,
                        slug=slug,
                        instance_id=instance.id,
                        status="pending",
                    )
                    for _ in range(count)
                ]
                for row in rows:
                    row.correlation_key = row.id if keyed else None
                records = [row.record() for row in rows]
                session.add_all(rows)
            left = iter(records)

            async def start_some(progress: Progress) -> None:
                for record in left:
                    await engine.temporal.processes.ensure(record, capabilities, None)
                    progress.advance(task)

            with Progress(transient=True) as progress:
                task = progress.add_task(f"starting {count} processes", total=count)
                await asyncio.gather(*(start_some(progress) for _ in range(STARTS_AT_ONCE)))
        return [record.id for record in records]

    async def _ready(self) -> bool:
        try:
            return (await self.http.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False


@asynccontextmanager
async def running_engine(workers: int = 1) -> AsyncIterator[RunningEngine]:
    """Run an engine in a folder that is deleted afterwards.

    Args:
        workers: How many worker processes.

    Yields:
        The engine, serving.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metagov-bench-")))
        api, temporal, ui = free_ports(3)
        settings = Settings(
            data_dir=folder,
            port=api,
            temporal_port=temporal,
            temporal_ui_port=ui,
            plugin_path=(PLUGINS,),
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("METAGOV_")} | {
            "METAGOV_DATA_DIR": str(folder),
            "METAGOV_PORT": str(api),
            "METAGOV_TEMPORAL_PORT": str(temporal),
            "METAGOV_TEMPORAL_UI_PORT": str(ui),
            "METAGOV_PLUGIN_PATH": str(PLUGINS),
            "METAGOV_LOG_LEVEL": "error",
        }
        database = open_database(settings)
        await migrate(database)
        await database.close()
        url = f"http://127.0.0.1:{api}"
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
            engine = RunningEngine(
                folder, environment, url, f"127.0.0.1:{temporal}", http, settings
            )
            stack.callback(engine.kill)
            await engine.start(workers)
            yield engine


@contextmanager
def python_process(*arguments: str) -> Iterator[None]:
    """Run a Python process until the end of the block."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=REPOSITORY)
    try:
        yield
    finally:
        process.kill()
        process.wait(30)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
