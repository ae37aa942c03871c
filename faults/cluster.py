"""An engine of several processes that can be killed, stopped and started one by one."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg

from cli.run import temporal_command
from engine.settings import Settings
from engine.store.database import open_database
from engine.store.schema import migrate
from sandbox.ports import free_ports

PLUGINS = Path(__file__).parent / "plugins"
REPOSITORY = Path(__file__).parent.parent
START_SECONDS = 60


@dataclass
class Program:
    """One process of the cluster.

    Attributes:
        name: What it is: ``temporal``, ``api-0``, ``worker-1`` ...
        command: Its command line.
        environment: Its environment.
        log: The file that takes its output.
        process: The process that runs.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.process is None or self.process.poll() is not None:
            with self.log.open("ab") as output:
                self.process = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    cwd=REPOSITORY,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )

    def send(self, number: int) -> None:
        """Send it a signal; SIGKILL is waited for."""
        assert self.process is not None
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(30)

    def stop(self) -> None:
        """End it for good."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(30)


@dataclass
class Cluster:
    """A Temporal server on its file, two API processes and two workers, all on one machine.

    Attributes:
        folder: Where all of their data lies.
        database_url: Their database.
        driver_url: Where events go.
        programs: The processes by name.
        apis: The base URLs of the API processes.
    """

    folder: Path
    database_url: str
    driver_url: str
    programs: dict[str, Program] = field(default_factory=dict)
    apis: list[str] = field(default_factory=list)

    @property
    def workers(self) -> list[Program]:
        """The workers."""
        return [program for name, program in self.programs.items() if name.startswith("worker")]

    async def start(self) -> None:
        """Start all of it and wait until it serves."""
        ports = free_ports(4)
        base = {
            "METAGOV_DATA_DIR": str(self.folder),
            "METAGOV_DATABASE_URL": self.database_url,
            "METAGOV_TEMPORAL_PORT": str(ports[0]),
            "METAGOV_TEMPORAL_UI_PORT": str(ports[1]),
            "METAGOV_DRIVER_EVENT_RECEIVER_URL": f"{self.driver_url}/events",
            "METAGOV_DELIVERY_FIRST_RETRY_SECONDS": "0.5",
            "METAGOV_DELIVERY_LONGEST_RETRY_SECONDS": "3",
            "METAGOV_DELIVERY_TIMEOUT_SECONDS": "2",
            "METAGOV_PLUGIN_PATH": str(PLUGINS),
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("METAGOV_")}
        settings = Settings(
            data_dir=self.folder,
            database_url=self.database_url,
            temporal_port=ports[0],
            temporal_ui_port=ports[1],
        )
        database = open_database(settings)
        await migrate(database)
        await database.close()
        self._add("temporal", temporal_command(settings, self.folder), inherited | base)
        python = [sys.executable, "-m", "cli"]
        for number, port in enumerate(ports[2:]):
            own = inherited | base | {"METAGOV_PORT": str(port)}
            self.apis.append(f"http://127.0.0.1:{port}")
            self._add(f"api-{number}", [*python, "api"], own)
            self._add(f"worker-{number}", [*python, "worker"], own)
        for program in self.programs.values():
            program.start()
        await self.serving()

    async def serving(self) -> None:
        """Start again what was killed, and wait until all of it serves.

        Raises:
            RuntimeError: It does not, in a minute.
        """
        for program in self.programs.values():
            program.start()
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        async with httpx.AsyncClient(timeout=5) as http:
            for url in self.apis:
                while not await _ready(http, url):
                    if asyncio.get_running_loop().time() > deadline:
                        raise RuntimeError(f"{url} does not get ready; see {self.folder}")
                    await asyncio.sleep(0.1)

    def kill(self, *names: str) -> None:
        """Kill processes with SIGKILL."""
        for name in names:
            self.programs[name].send(signal.SIGKILL)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Stop a process where it is, and let it go on at the end."""
        self.programs[name].send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.programs[name].send(signal.SIGCONT)

    def count(self, query: str) -> int:
        """Look into the database, past the engine; the query gives one number."""
        if self.database_url.startswith("sqlite"):
            connection = sqlite3.connect(self.database_url.partition("///")[2], timeout=5)
            try:
                return int(connection.execute(query).fetchone()[0])
            finally:
                connection.close()
        with psycopg.connect(self.database_url) as postgresql:
            row = postgresql.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def stop(self) -> None:
        """End all processes."""
        for program in reversed(list(self.programs.values())):
            program.stop()

    def _add(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        log = self.folder / f"{name}.log"
        self.programs[name] = Program(name, command, environment, log)


@asynccontextmanager
async def running_cluster(
    folder: Path, database_url: str, driver_url: str
) -> AsyncIterator[Cluster]:
    """Run a cluster.

    Args:
        folder: An empty folder for its data.
        database_url: Its database.
        driver_url: Where events go.

    Yields:
        The cluster, serving.
    """
    cluster = Cluster(folder, database_url, driver_url)
    async with AsyncExitStack() as stack:
        stack.callback(cluster.stop)
        await cluster.start()
        yield cluster


async def _ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False
