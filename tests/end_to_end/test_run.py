"""``make run`` as its user sees it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import EngineProcess, make_engine


def test_it_says_where_everything_is_and_stops_cleanly(engine: EngineProcess) -> None:
    printed = "".join(engine.output)
    for words in (engine.url, f"{engine.url}/docs", "Temporal UI", "curl "):
        assert words in printed
    command = next(line.strip() for line in engine.output if line.strip().startswith("curl "))
    curl = subprocess.run(["/bin/sh", "-c", f"{command} -s"], capture_output=True, check=True)
    assert b'"plugins"' in curl.stdout
    ui = engine.environment["METAGOV_TEMPORAL_UI_PORT"]
    assert httpx.get(f"http://127.0.0.1:{ui}/", follow_redirects=True).status_code == 200
    children = list(engine.children().values())
    assert len(children) == 3
    assert engine.stop() == 0
    assert not [pid for pid in children if psutil.pid_exists(pid)]
    assert not (engine.data_dir / "engine.json").exists()


def test_a_second_start_says_that_it_runs(lasting_engine: EngineProcess) -> None:
    second = lasting_engine.popen()
    out, _ = second.communicate(timeout=30)
    assert second.returncode == 1
    assert "already running" in out
    assert lasting_engine.url in out


@pytest.mark.parametrize(
    "setting", ["METAGOV_PORT", "METAGOV_TEMPORAL_PORT", "METAGOV_TEMPORAL_UI_PORT"]
)
def test_a_taken_port_is_named_with_its_setting(tmp_path: Path, setting: str) -> None:
    engine = make_engine(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(engine.environment[setting])))
        taken.listen()
        process = engine.popen()
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert engine.environment[setting] in out
    assert setting in out
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("METAGOV_TEMPORAL_BIN", "/no/such/binary"),
        ("METAGOV_SECRET_KEY", "short"),
        ("METAGOV_PORT", "http"),
        ("METAGOV_PLUGIN_PATH", "/no/such/folder"),
        ("METAGOV_OUTBOUND_ALLOWED_NETWORKS", "everything"),
        ("METAGOV_DRIVER_WEBHOOK_SECRET", "!"),
    ],
)
def test_a_bad_setting_is_one_clear_line(tmp_path: Path, setting: str, value: str) -> None:
    process = make_engine(tmp_path).popen(**{setting: value})
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert setting in out
    assert "Traceback" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_it_runs_stops_it_as_well(tmp_path: Path, number: int) -> None:
    engine = make_engine(tmp_path / "data")
    process = engine.popen()
    # From here on it heeds signals.
    while not (engine.data_dir / "engine.lock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "Stopped; all data is kept." in out
    assert "Traceback" not in out


def test_a_child_that_dies_is_started_again(lasting_engine: EngineProcess) -> None:
    lasting_engine.put("c", {"name": "randomness", "config": {}})
    for name in ("worker", "API", "Temporal server"):
        os.kill(lasting_engine.children()[name], signal.SIGKILL)
        answer = _patiently(lasting_engine)
        assert answer.json()["value"] >= 0
        assert f"The {name} ended by SIGKILL; starting it again\n" in "".join(lasting_engine.output)


def _patiently(engine: EngineProcess) -> httpx.Response:
    import time

    deadline = time.monotonic() + 60
    while True:
        try:
            answer = engine.post("c", "action/randomness.random-int", {})
            if answer.status_code == 200:
                return answer
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_command_line_helps() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "cli", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for command in ("run", "api", "worker", "migrate", "secret-key"):
        assert command in printed


def test_readers_hold_up_no_stop(engine: EngineProcess) -> None:
    """Streams and long polls are let go at once when the engine stops."""
    ended: list[str] = []
    streaming = threading.Event()

    def stream() -> None:
        with httpx.stream("GET", f"{engine.url}/api/internal/events/stream", timeout=60) as answer:
            for line in answer.iter_lines():
                streaming.set()
                ended.append(line)

    def poll() -> None:
        answer = httpx.get(f"{engine.url}/api/internal/events", params={"wait": 60}, timeout=70)
        ended.append(str(answer.status_code))

    readers = [threading.Thread(target=stream), threading.Thread(target=poll)]
    for reader in readers:
        reader.start()
    assert streaming.wait(20)
    before = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - before < 15
    for reader in readers:
        reader.join(5)
        assert not reader.is_alive()
    assert "200" in ended
