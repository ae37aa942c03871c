"""The children of the engine's one process: how they start, show that they live, and stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import typer

from cli.beats import Beats
from engine.errors import EngineError
from engine.watchdog import STALLED

START_SECONDS = 60
STOP_SECONDS = 30
MOST_QUICK_FAILURES = 5
QUICK_SECONDS = 10
LOOK_SECONDS = 0.3
PROBE_SECONDS = 0.1
LAST_WORDS_SECONDS = 1

_STALLED = (STALLED, -signal.SIGPROF)


class StartError(EngineError):
    """The engine cannot start."""

    kind = "start"
    title = "The engine cannot start"


@dataclass
class Child:
    """A child process and how to start it again."""

    name: str
    command: list[str]
    environment: dict[str, str]
    # The file that takes its output; None: the terminal.
    output: Path | None = None
    beats: Beats | None = None
    process: subprocess.Popen[bytes] | None = None
    # On the monotonic clock.
    started: float = 0
    # How often in a row it ended soon after its start.
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
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process is not None and self.process.poll() is not None

    @property
    def ending(self) -> str:
        """How the process has ended, in words."""
        status = self.process.returncode if self.process is not None else 0
        if status in _STALLED:
            return "ended, for its event loop had stalled; see above"
        return how_it_ended(status)


def how_it_ended(status: int) -> str:
    """How a process has ended, by its return code as ``subprocess`` has it, in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        # Real-time signals have no names of their own.
        return f"ended by signal {-status}"


@dataclass
class Children:
    """The children of the engine, in the order in which they start.

    Attributes:
        record: The file in which they are noted.
        children: The children.
    """

    record: Path
    children: list[Child] = field(default_factory=list)

    def start(self, child: Child) -> Child:
        """Start a child and note it, so that a later engine can clear it away after a crash."""
        child.start()
        if child not in self.children:
            self.children.append(child)
        self._note()
        return child

    def wait_until_ready(
        self, child: Child, ready: Callable[[], bool], stopping: Callable[[], bool]
    ) -> None:
        """Wait until a child is ready; StartError if it, or another one, has ended."""
        deadline = time.monotonic() + START_SECONDS
        while not stopping() and not ready():
            for other in self.children:
                if other.ended:
                    log = f"; its log is {other.output}" if other.output else ""
                    raise StartError(f"{other.name} did not get ready: it {other.ending}{log}")
            if time.monotonic() > deadline:
                raise StartError(f"{child.name} did not get ready within {START_SECONDS} s")
            time.sleep(PROBE_SECONDS)

    def watch(self, stopping: Callable[[], bool]) -> None:
        """Start again what ends and what stands still."""
        while not stopping():
            self._kill_silent()
            self._restart_ended()
            time.sleep(LOOK_SECONDS)

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
                _warn(f"{child.name} did not stop; killing it")
                process.kill()
                process.wait()
        self.record.unlink(missing_ok=True)

    def _kill_silent(self) -> None:
        """Kill what has not shown for too long that its event loop comes round."""
        for child in self.children:
            silent = None if child.beats is None or child.ended else child.beats.look(LOOK_SECONDS)
            if silent is not None and child.process is not None:
                _warn(f"{child.name} has not come round for {silent:.0f} s; killing it")
                # Its watchdog's signal: if it can, it writes where it stands.
                child.process.send_signal(signal.SIGPROF)
                try:
                    child.process.wait(LAST_WORDS_SECONDS)
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()

    def _restart_ended(self) -> None:
        """Start again what has ended."""
        for child in self.children:
            if not child.ended:
                continue
            quick = time.monotonic() - child.started < QUICK_SECONDS
            child.quick_failures = child.quick_failures + 1 if quick else 0
            if child.quick_failures >= MOST_QUICK_FAILURES:
                raise StartError(
                    f"{child.name} ends as soon as it is started, the last time it "
                    f"{child.ending}; see its log"
                )
            _warn(f"{child.name} {child.ending}; starting it again")
            self.start(child)

    def _note(self) -> None:
        noted = [
            {"name": c.name, "pid": c.process.pid, "created": _created(c.process.pid)}
            for c in self.children
            if c.process is not None
        ]
        draft = self.record.with_suffix(".new")
        draft.write_text(json.dumps({"pid": os.getpid(), "children": noted}))
        draft.replace(self.record)


def record_file(data_dir: Path) -> Path:
    """The file in which an engine notes its children."""
    return data_dir / "engine.json"


def clear_away(data_dir: Path) -> None:
    """End the children that an engine left behind when it was killed."""
    try:
        noted: list[dict[str, Any]] = json.loads(record_file(data_dir).read_text())["children"]
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


def _warn(words: str) -> None:
    typer.secho(words, err=True, fg="yellow")
