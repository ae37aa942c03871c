"""A kill -9 of everything, and a new start, lose nothing."""

from __future__ import annotations

import time

from examples.driver import Callbacks
from tests.end_to_end.conftest import EngineProcess

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
    import httpx

    closed = httpx.delete(f"{engine.url}{later.headers['location']}", timeout=60)
    assert closed.status_code == 200
    told = [callbacks.completed(20)["id"], callbacks.completed(20)["id"]]
    assert sorted(told) == sorted([due.json()["id"], later.json()["id"]])
    kept = engine.post("c", "action/randomness.get-lucky-number", {})
    assert kept.json() == {"number": 7}
    time.sleep(2)  # A second telling would come within the first retry's wait.
    assert callbacks.received.empty()


def test_a_callback_waits_for_a_driver_that_is_down(engine: EngineProcess) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from tests.servers import free_port

    engine.put("c", {"name": "randomness", "config": {}})
    port = free_port()
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
