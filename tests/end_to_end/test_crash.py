"""A kill -9 of everything, and a new start, lose nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx

from examples.driver import Callbacks
from sandbox.ports import free_ports
from tests.conftest import DURABLE_PLUGIN
from tests.end_to_end.conftest import EngineProcess, make_engine

VOTE = "process/randomness.delayed-stochastic-vote"


def test_processes_wait_through_a_kill_of_everything(engine: EngineProcess) -> None:
    """One that is due while all is dead, one that is closed after; each callback comes once."""
    callbacks = Callbacks()
    randomness: dict[str, object] = {"name": "randomness", "config": {}}
    engine.put("c", randomness)
    vote = {"options": ["a"], "callback_url": callbacks.url}
    due = engine.post("c", VOTE, vote | {"delay": 0.05})
    later = engine.post("c", VOTE, vote | {"delay": 10_000})
    assert (due.status_code, later.status_code) == (202, 202)
    engine.post("c", "action/randomness.set-lucky-number", {"parameters": {"number": 7}})
    engine.kill_everything()
    time.sleep(3.5)  # The first one's closing time passes meanwhile.
    engine.start()
    done = engine.wait_completed(due.headers["location"])
    assert done["outcome"] == {"winner": "a"}
    closed = httpx.delete(f"{engine.url}{later.headers['location']}", timeout=60)
    assert closed.status_code == 200
    delivered = [callbacks.completed(20)["id"], callbacks.completed(20)["id"]]
    assert sorted(delivered) == sorted([due.json()["id"], later.json()["id"]])
    kept = engine.post("c", "action/randomness.get-lucky-number", {})
    assert kept.json() == {"number": 7}
    time.sleep(2)  # A second delivery would come within the first retry's wait.
    assert callbacks.received.empty()


def test_a_callback_waits_for_a_driver_that_is_down(engine: EngineProcess) -> None:
    engine.put("c", {"name": "randomness", "config": {}})
    (port,) = free_ports(1)
    vote = {"options": ["a"], "delay": 0.01, "callback_url": f"http://127.0.0.1:{port}/x"}
    started = engine.post("c", VOTE, vote)
    engine.wait_completed(started.headers["location"])
    engine.kill_everything()
    engine.start()
    heard: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", port), Handler)
    server.timeout = 60
    server.handle_request()
    server.server_close()
    assert started.json()["id"].encode() in heard[0]


SLOW_PLUGIN = """
import os, time
from engine.plugins import GovernanceProcess, Plugin, ProcessStatus, Registry


def note(what):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(what + "\\n")


@Registry.plugin
class Slow(Plugin):
    name = "slow"

    @Registry.action(slug="act", description="takes its time")
    def act(self):
        note("act")
        time.sleep(25)


@Registry.governance_process
class SlowStart(GovernanceProcess):
    name = "start"
    plugin_name = "slow"

    def start(self, parameters):
        note("start")
        time.sleep(25)
        self.status = ProcessStatus.PENDING
"""


def test_what_may_be_found_or_repeated_is(tmp_path: Path) -> None:
    """A start is found by its look-up, an idempotent action is called again."""
    platform = tmp_path / "platform"
    settings = {"METAGOV_PLUGIN_PATH": str(DURABLE_PLUGIN)}
    engine = make_engine(tmp_path / "data", **settings)
    engine.start()
    try:
        engine.put("c", {"name": "durable", "config": {"platform": str(platform)}})
        asked: dict[str, dict[str, object]] = {
            "process/durable.vote": {"id": "made", "after": 8},
            "process/durable.vote ": {"id": "not made", "before": 8},
            "action/durable.again": {"parameters": {"id": "a", "seconds": 8}},
        }
        answers: dict[str, httpx.Response] = {}

        def ask(path: str) -> None:
            answers[path] = engine.post("c", path.strip(), asked[path])

        threads = [threading.Thread(target=ask, args=(path,)) for path in asked]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while not platform.exists() or len(platform.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(engine.children()["worker"], signal.SIGKILL)
        for thread in threads:
            thread.join(90)
        statuses = {path: answer.status_code for path, answer in answers.items()}
        assert statuses == {
            "process/durable.vote": 202,
            "process/durable.vote ": 202,
            "action/durable.again": 200,
        }
        lines = platform.read_text().splitlines()
        polls = [line for line in lines if line.startswith("poll ")]
        assert len(polls) == len(set(polls)) == 2
        assert lines.count("action a") == 2
    finally:
        engine.stop()


def test_effects_of_a_killed_worker_are_never_repeated(tmp_path: Path) -> None:
    """Rule 4: an effect with an unknown result is reported as unknown, not tried again."""
    folder, notes = tmp_path / "plugins", tmp_path / "notes"
    folder.mkdir()
    (folder / "slow.py").write_text(SLOW_PLUGIN)
    settings = {"METAGOV_PLUGIN_PATH": str(folder), "NOTES": str(notes)}
    engine = make_engine(tmp_path / "data", **settings)
    engine.start()
    try:
        callbacks = Callbacks()
        engine.put("c", {"name": "slow", "config": {}})
        answers: dict[str, httpx.Response] = {}

        def ask(path: str, body: dict[str, object]) -> None:
            answers[path] = engine.post("c", path, body)

        asked = [
            threading.Thread(target=ask, args=("action/slow.act", {})),
            threading.Thread(
                target=ask, args=("process/slow.start", {"callback_url": callbacks.url})
            ),
        ]
        for thread in asked:
            thread.start()
        deadline = time.monotonic() + 20
        while not notes.exists() or len(notes.read_text().split()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(engine.children()["worker"], signal.SIGKILL)
        for thread in asked:
            thread.join(90)
        for path in ("action/slow.act", "process/slow.start"):
            assert answers[path].status_code == 504, answers[path].text
            assert "not known" in answers[path].json()["detail"]
        delivered = callbacks.completed(20)
        assert delivered["errors"]["code"] == "start_outcome_unknown"
        assert sorted(notes.read_text().split()) == ["act", "start"]
    finally:
        engine.stop()
