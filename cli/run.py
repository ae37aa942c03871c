"""The one-command engine: a Temporal server, the API and a worker as children of one process.

That process stays as long as the engine runs, and imports little.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from cli.beats import Beats
from cli.supervisor import (
    PROBE_SECONDS,
    START_SECONDS,
    Child,
    Children,
    StartError,
    how_it_ended,
    record_file,
)
from cli.temporal_server import temporal_command
from engine.settings import Settings

OURS = [sys.executable, "-m", "cli"]
# A child ends by itself when its loop stalls; it is killed if it cannot even do that.
SILENCE_OF_STALLS = 2
READY_TIMEOUT_SECONDS = 6


def run_embedded(settings: Settings) -> int:
    """Run the engine until it is signalled to stop; gives the exit status."""
    data_dir = _data_folder(settings)
    with engine_lock(data_dir) as locked, _signals() as stopping:
        if not locked:
            typer.echo(f"Metagov Engine is already running on this data ({data_dir}).")
            typer.echo(f"  API   {settings.api_url}")
            return 1
        status = _prepare(data_dir, stopping)
        if status != 0 and not stopping():
            return status
        children = Children(record_file(data_dir))
        try:
            if not stopping():
                _start(settings, children, data_dir, stopping)
            if not stopping():
                _greet(settings)
            children.watch(stopping)
            typer.echo("Stopping …")
        finally:
            children.stop()
    typer.echo("Stopped; all data is kept.")
    return 0


def _data_folder(settings: Settings) -> Path:
    """The data folder, made if it is not there."""
    path = settings.data_dir.resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        for name in ("engine.lock", "engine.json", "temporal.log"):
            if (path / name).exists():
                with (path / name).open("ab"):
                    pass
    except OSError as error:
        raise StartError(
            f"METAGOV_DATA_DIR: {error.filename or path} cannot be used ({error.strerror}); it "
            "must be a folder in which this user may write all files"
        ) from None
    return path


@contextmanager
def engine_lock(data_dir: Path) -> Iterator[bool]:
    """Hold the lock of a data folder, which the system takes back however this process ends."""
    with (data_dir / "engine.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Note SIGINT and SIGTERM instead of dying from them."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare(data_dir: Path, stopping: Callable[[], bool]) -> int:
    """Run the preparation in a process of its own; gives its exit status."""
    process = subprocess.Popen([*OURS, "prepare", str(data_dir)], stdin=subprocess.DEVNULL)
    while True:
        try:
            status = process.wait(PROBE_SECONDS)
            break
        except subprocess.TimeoutExpired:
            if stopping():
                process.terminate()
    if status < 0 and not stopping():
        raise StartError(f"The preparation {how_it_ended(status)}")
    return status


def _start(
    settings: Settings, children: Children, data_dir: Path, stopping: Callable[[], bool]
) -> None:
    environment = {"METAGOV_LOG_FORMAT": "console", **os.environ}
    if settings.temporal_address is None:
        command = temporal_command(settings, data_dir)
        log = data_dir / "temporal.log"
        server = children.start(Child("The Temporal server", command, environment, output=log))
        children.wait_until_ready(server, lambda: _listens(settings), stopping)

    def child(name: str, command: str, beats: Beats) -> Child:
        return children.start(Child(name, [*OURS, command], environment, beats=beats))

    silence = SILENCE_OF_STALLS * settings.stall_seconds
    api = child("The API", "api", Beats(START_SECONDS, silence))
    worker = child("The worker", "worker", beats := Beats(START_SECONDS, silence))
    children.wait_until_ready(worker, beats.ready, stopping)
    children.wait_until_ready(api, lambda: _answers(settings), stopping)


def _listens(settings: Settings) -> bool:
    """Whether the embedded Temporal server takes connections; our worker waits for the rest."""
    try:
        socket.create_connection((settings.host, settings.temporal_port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(settings: Settings) -> bool:
    """Whether the API says that the engine can do its work."""
    api = http.client.HTTPConnection(settings.host, settings.port, timeout=READY_TIMEOUT_SECONDS)
    try:
        api.request("GET", "/readyz")
        return api.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        api.close()


def _greet(settings: Settings) -> None:
    ui = f"http://{settings.host}:{settings.temporal_ui_port}"
    lines = [
        "",
        "Metagov Engine is running.",
        f"  API          {settings.api_url}",
        f"  API docs     {settings.api_url}/docs",
        *([f"  Temporal UI  {ui}"] if settings.temporal_address is None else []),
        f"  Data         {settings.data_dir.resolve()}",
        "",
        "A first call, in another terminal:",
        f"  curl {settings.api_url}/api/internal/plugins",
        "",
        "Ctrl-C stops it.",
    ]
    typer.echo("\n".join(lines))
    sys.stdout.flush()
