"""A driver's endpoint that can be down, slow, broken, or gone, and remembers all it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Delivery:
    """One delivery as it arrived.

    Attributes:
        id: Its ``webhook-id``.
        subject: What it is about: the end of a callback's path, or what an event's data names.
        body: Its body.
        taken: Whether it was answered with 2xx.
        moment: When it arrived, on the monotonic clock.
    """

    id: str
    subject: str
    body: dict[str, Any]
    taken: bool
    moment: float


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore it: senders are killed in the middle of a delivery."""


class Driver:
    """Takes events and callbacks.

    Attributes:
        url: Its base URL; the same also after it was down.
        answer: How it answers: ``ok``, ``late`` (after the engine has given up), ``500``, ``410``
            or ``cut``, which closes the connection after it has read the request.
        seconds: How long it takes before it answers.
        under_way: How many requests it is handling.
    """

    def __init__(self) -> None:
        self._deliveries: defaultdict[str, list[Delivery]] = defaultdict(list)
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

    def received(self, subject: str, **wanted: Any) -> list[Delivery]:
        """What arrived about something.

        Args:
            subject: What.
            wanted: What the body must hold.

        Returns:
            The deliveries, in the order in which they came.
        """
        return [
            item
            for item in list(self._deliveries.get(subject, ()))
            if all(item.body.get(name) == value for name, value in wanted.items())
        ]

    def again(self, subject: str, **wanted: Any) -> int:
        """How often something arrived again that had been taken before."""
        taken = Counter(item.id for item in self.received(subject, **wanted) if item.taken)
        return sum(count - 1 for count in taken.values())

    def taken(self) -> set[str]:
        """The ids of all that it has answered with 2xx."""
        return {
            item.id for items in list(self._deliveries.values()) for item in items if item.taken
        }

    def _take(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        how, name = self.answer, request.headers["webhook-id"]
        time.sleep(self.seconds)
        status = {"500": 500, "410": 410}.get(how, 200)
        subject = _subject(request.path, body)
        taken = how == "ok"
        self._deliveries[subject].append(Delivery(name, subject, body, taken, time.monotonic()))
        if how == "cut":
            request.close_connection = True
            return
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.end_headers()


def _subject(path: str, body: dict[str, Any]) -> str:
    if path.startswith("/callback/"):
        return path.removeprefix("/callback/")
    data = body.get("data") or {}
    return str(data.get("id") or data.get("text") or "")
