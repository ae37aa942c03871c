"""A driver's endpoint that can be down, slow, broken, or gone, and remembers all it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Told:
    """One delivery as it arrived.

    Attributes:
        id: Its ``webhook-id``.
        body: Its body.
        taken: Whether it was answered with 2xx.
    """

    id: str
    body: dict[str, Any]
    taken: bool


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


class Driver:
    """Takes events and callbacks.

    Attributes:
        url: Its base URL; the same also after it was down.
        told: What arrived, in the order in which it did.
        answer: How it answers: ``ok``, ``late`` (after the engine has given up), ``500``, ``410``
            or ``cut``, which closes the connection after it has read the request.
        seconds: How long it takes before it answers.
        under_way: How many requests it is at.
    """

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.answer = "ok"
        self.seconds = 0.0
        self.under_way = 0
        self._port = 0
        self._server: _Server | None = None
        self.up()

    def up(self) -> None:
        """Take connections."""
        driver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                driver.under_way += 1
                try:
                    driver._take(self, json.loads(body))
                finally:
                    driver.under_way -= 1

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def ids(self, **wanted: Any) -> set[str]:
        """The ids under which something was told; ``wanted`` is what its body must hold."""
        return {item.id for item in self.told if _holds(item.body, wanted)}

    def again(self, **wanted: Any) -> int:
        """How often something arrived again that had been taken before."""
        taken: defaultdict[str, int] = defaultdict(int)
        for item in list(self.told):
            if item.taken and _holds(item.body, wanted):
                taken[item.id] += 1
        return sum(count - 1 for count in taken.values())

    def _take(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        how, name = self.answer, request.headers["webhook-id"]
        time.sleep(self.seconds)
        status = {"500": 500, "410": 410}.get(how, 200)
        self.told.append(Told(name, body, taken=how == "ok"))
        if how == "cut":
            request.close_connection = True
            return
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.end_headers()


def _holds(body: dict[str, Any], wanted: dict[str, Any]) -> bool:
    flat = {**body, **(body.get("data") or {})}
    return all(flat.get(name) == value for name, value in wanted.items())
