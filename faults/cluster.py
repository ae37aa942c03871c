"""An engine of several processes that can be killed, stopped and started one by one."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg

from cli.temporal_server import temporal_command
from engine.settings import Settings
from engine.store.database import open_database
from engine.store.schema import migrate
from sandbox.ports import free_ports

PLUGINS = Path(__file__).parent / "plugins"
REPOSITORY = Path(__file__).parent.parent
START_SECONDS = 300
SUPERVISOR_SECONDS = 0.3
# Calls may take a minute; waits are short, so that nothing has to be down for long.
SETTINGS = {
    "METAGOV_INVOCATION_TIMEOUT_SECONDS": "90",
    "METAGOV_WORKER_WAIT_SECONDS": "5",
    "METAGOV_WORKER_GRACE_SECONDS": "5",
    "METAGOV_CLOSE_WAIT_SECONDS": "180",
    "METAGOV_DELIVERY_FIRST_RETRY_SECONDS": "0.5",
    "METAGOV_DELIVERY_LONGEST_RETRY_SECONDS": "3",
    "METAGOV_DELIVERY_TIMEOUT_SECONDS": "2",
    # The actions that are lost here are innocent: workers are killed from outside.
    "METAGOV_MOST_LOST_ACTIONS": "1000000",
}


@dataclass
class Program:
    """One process of the cluster.

    Attributes:
        name: What it is: ``temporal``, ``api-0``, ``worker-1`` ...
        command: Its command line.
        environment: Its environment.
        log: The file that takes its output.
        process: The process that runs.
        wanted: Whether it is to run: what ends though it is wanted is started again.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = True

    def start(self) -> None:
        """Start it, unless it runs."""
        self.wanted = True
        if not self.runs:
            with self.log.open("ab") as output:
                self.process = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    cwd=REPOSITORY,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it, until it is started again; SIGKILL is waited for."""
        self.wanted = False
        self.send(number)
        if number == signal.SIGKILL and self.process is not None:
            self.process.wait(30)

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """End it for good."""
        self.wanted = False
        if self.process is not None and self.process.poll() is None:
            # One that is stopped would not end.
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(30)


@dataclass
class Cluster:
    """A Temporal server on its file, two API processes and two workers, all on one machine.

    They are kept running, as a supervisor does it, but for those that are ended on purpose.

    Attributes:
        folder: Where all of their data lies.
        database_url: Their database.
        driver_url: Where events go.
        programs: The processes by name.
        apis: The base URLs of the API processes.
        temporal: Host and port of the Temporal server.
    """

    folder: Path
    database_url: str
    driver_url: str
    programs: dict[str, Program] = field(default_factory=dict)
    apis: list[str] = field(default_factory=list)
    temporal: str = ""

    @property
    def workers(self) -> list[Program]:
        """The workers."""
        return [program for name, program in self.programs.items() if name.startswith("worker")]

    async def start(self) -> None:
        """Start all of it and wait until it serves."""
        ports = free_ports(4)
        self.temporal = f"127.0.0.1:{ports[0]}"
        environment = self.environment(ports[0], ports[1])
        settings = Settings(
            data_dir=self.folder,
            database_url=self.database_url,
            temporal_port=ports[0],
            temporal_ui_port=ports[1],
        )
        database = open_database(settings)
        await migrate(database)
        await database.close()
        self.add("temporal", temporal_command(settings, self.folder), environment)
        python = [sys.executable, "-m", "cli"]
        for number, port in enumerate(ports[2:]):
            own = environment | {"METAGOV_PORT": str(port)}
            self.apis.append(f"http://127.0.0.1:{port}")
            self.add(f"api-{number}", [*python, "api"], own)
            self.add(f"worker-{number}", [*python, "worker"], own)
        for program in self.programs.values():
            program.start()
        await self.serving()

    def environment(self, temporal_port: int, ui_port: int) -> dict[str, str]:
        """The environment of its processes: this one's, with settings of its own."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("METAGOV_")}
        return {
            **inherited,
            "METAGOV_DATA_DIR": str(self.folder),
            "METAGOV_DATABASE_URL": self.database_url,
            "METAGOV_TEMPORAL_PORT": str(temporal_port),
            "METAGOV_TEMPORAL_UI_PORT": str(ui_port),
            "METAGOV_DRIVER_EVENT_RECEIVER_URL": f"{self.driver_url}/events",
            "METAGOV_PLUGIN_PATH": str(PLUGINS),
            **SETTINGS,
        }

    async def serving(self) -> None:
        """Start again what was killed, and wait until all of it serves.

        Raises:
            RuntimeError: It does not, in five minutes.
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
        """Kill processes with SIGKILL; they stay away until they are started."""
        for name in names:
            self.programs[name].end()

    @contextmanager
    def frozen(self, *names: str) -> Iterator[None]:
        """Stop processes where they are, and let them go on at the end."""
        for name in names:
            self.programs[name].send(signal.SIGSTOP)
        try:
            yield
        finally:
            for name in names:
                self.programs[name].send(signal.SIGCONT)

    async def supervise(self) -> None:
        """Start again whatever ends by itself, as a supervisor does, until it is cancelled."""
        while True:
            await asyncio.sleep(SUPERVISOR_SECONDS)
            for program in self.programs.values():
                if program.wanted:
                    program.start()

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

    def change(self, statement: str) -> int:
        """Change the SQLite database behind the engine's back; gives the number of rows."""
        connection = sqlite3.connect(self.database_url.partition("///")[2], timeout=20)
        try:
            with connection:
                return connection.execute(statement).rowcount
        finally:
            connection.close()

    def forget_temporal(self) -> None:
        """Delete the file of the Temporal server, which must not run."""
        for file in self.folder.glob("temporal.sqlite*"):
            file.unlink()

    def stop(self) -> None:
        """End all processes."""
        for program in reversed(list(self.programs.values())):
            program.stop()

    def add(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Add a process."""
        log = self.folder / f"{name}.log"
        self.programs[name] = Program(name, command, environment, log)


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Cluster]:
    """Run a cluster.

    Args:
        cluster: The cluster; its folder is there and empty.

    Yields:
        The cluster, serving.
    """
    try:
        await cluster.start()
        supervising = asyncio.create_task(cluster.supervise())
        try:
            yield cluster
        finally:
            supervising.cancel()
    finally:
        cluster.stop()


async def _ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False
