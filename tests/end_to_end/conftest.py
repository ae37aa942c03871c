"""The engine as its users run it: real processes, started by the command that the README names."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from sandbox.ports import free_ports
from tests.conftest import REPOSITORY
from tests.server_processes import ending_with_us


@dataclass
class EngineProcess:
    """``metagov run``, with data and ports of its own; ``source`` is the code that runs."""

    data_dir: Path
    environment: dict[str, str]
    url: str
    source: Path = REPOSITORY
    process: subprocess.Popen[str] | None = None
    output: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Start it and wait until it says that it runs."""
        self.output.clear()
        self.process = self.popen()
        running = threading.Event()
        threading.Thread(target=self._read, args=(self.process, running), daemon=True).start()
        if not running.wait(60):
            raise AssertionError("".join(self.output[-50:]))

    def popen(self, **changed: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ending_with_us([sys.executable, "-m", "cli", "run"], signal.SIGTERM),
            env=self.environment | changed,
            cwd=self.source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _read(self, process: subprocess.Popen[str], running: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.output.append(line)
            if "Ctrl-C stops it" in line:
                running.set()

    def children(self) -> dict[str, int]:
        """The process ids of its children, by what they are."""
        noted = json.loads((self.data_dir / "engine.json").read_text())["children"]
        return {re.sub("^The ", "", item["name"]): item["pid"] for item in noted}

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop it and give its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill_everything(self) -> None:
        """SIGKILL to all of its processes."""
        assert self.process is not None
        pids = [self.process.pid, *self.children().values()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=10)

    def put(self, name: str, *plugins: dict[str, object]) -> None:
        body = {"name": name, "readable_name": "", "plugins": list(plugins)}
        answer = httpx.put(f"{self.url}/api/internal/community/{name}", json=body, timeout=60)
        assert answer.status_code in (200, 201), answer.text

    def post(self, community: str, path: str, body: dict[str, object]) -> httpx.Response:
        return httpx.post(
            f"{self.url}/api/internal/{path}",
            json=body,
            headers={"X-Metagov-Community": community},
            timeout=60,
        )

    def wait_completed(self, location: str, seconds: float = 60) -> dict[str, object]:
        deadline = time.monotonic() + seconds
        while True:
            record: dict[str, object] = httpx.get(
                f"{self.url}{location}", params={"wait": 20}, timeout=60
            ).json()
            if record["status"] == "completed" or time.monotonic() > deadline:
                return record


def make_engine(data_dir: Path, **settings: str) -> EngineProcess:
    api, temporal, ui = free_ports(3)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("METAGOV_")}
    environment |= {
        "METAGOV_DATA_DIR": str(data_dir),
        "METAGOV_PORT": str(api),
        "METAGOV_TEMPORAL_PORT": str(temporal),
        "METAGOV_TEMPORAL_UI_PORT": str(ui),
        "METAGOV_WORKER_GRACE_SECONDS": "2",
        "METAGOV_DELIVERY_FIRST_RETRY_SECONDS": "0.5",
        "METAGOV_DELIVERY_LONGEST_RETRY_SECONDS": "2",
        **settings,
    }
    return EngineProcess(data_dir, environment, f"http://127.0.0.1:{api}")


@pytest.fixture(scope="module")
def lasting_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One for the tests of a file that leave it running."""
    engine = make_engine(tmp_path_factory.mktemp("engine") / "data")
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    """A running engine."""
    engine = make_engine(tmp_path / "data")
    engine.start()
    yield engine
    if engine.process is not None and engine.process.poll() is None:
        engine.stop()
