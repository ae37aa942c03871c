"""A governance driver in one file, written with nothing but the HTTP contract in hand.

It enables two plugins for a community, performs an action, runs a vote and waits for the outcome at
its callback URL. Standard library only, as for the original gateway.

    python -m examples.driver --engine http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Callbacks:
    """Takes what the engine POSTs to the driver.

    Attributes:
        url: The address to send as ``callback_url``.
        received: The records, in the order in which they came.
    """

    def __init__(self) -> None:
        self.received: queue.Queue[dict[str, Any]] = queue.Queue()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.put(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Log nothing: the driver itself prints what it receives."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/outcome"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def completed(self, seconds: float) -> dict[str, Any]:
        """Wait for a completed record.

        Args:
            seconds: How long to wait for each callback.

        Returns:
            The record.

        Raises:
            queue.Empty: None came in time.
        """
        while True:
            record = self.received.get(timeout=seconds)
            if record["status"] == "completed":
                return record


class Engine:
    """The engine's HTTP API, for one community.

    Args:
        url: The API's base URL.
        community: The community's name.
    """

    def __init__(self, url: str, community: str) -> None:
        self._url = url.rstrip("/")
        self.community = community

    def request(self, method: str, path: str, body: Any = None) -> tuple[Any, dict[str, str]]:
        """Send a request.

        Args:
            method: The HTTP method.
            path: The path, with its slash.
            body: JSON data, if there is any.

        Returns:
            The answer's JSON (None if it is empty) and its headers.

        Raises:
            RuntimeError: The engine refused; the message is its ``detail``.
        """
        request = urllib.request.Request(  # noqa: S310
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-Metagov-Community": self.community},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                content = answer.read()
                return (json.loads(content) if content else None), dict(answer.headers)
        except urllib.error.HTTPError as error:
            problem = json.loads(error.read())
            raise RuntimeError(f"{method} {path}: {error.code} {problem['detail']}") from None


def main() -> None:
    """Run the driver once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engine", default="http://127.0.0.1:8000", help="base URL of the API")
    parser.add_argument("--community", default="my-community-1234")
    parser.add_argument("--loomio", help="JSON config of the loomio plugin, to enable it too")
    arguments = parser.parse_args()

    engine = Engine(arguments.engine, arguments.community)
    callbacks = Callbacks()
    plugins: list[dict[str, Any]] = [{"name": "randomness", "config": {"default_high": 6}}]
    if arguments.loomio:
        plugins.append({"name": "loomio", "config": json.loads(arguments.loomio)})
    community = {"name": engine.community, "readable_name": "Example", "plugins": plugins}
    engine.request("PUT", f"/api/internal/community/{engine.community}", community)
    hooks, _ = engine.request("GET", f"/api/internal/community/{engine.community}/hooks")
    print("webhooks to register:", hooks["hooks"])

    drawn, _ = engine.request("POST", "/api/internal/action/randomness.random-int", {})
    print("drawn by chance:", drawn["value"])

    vote = {"callback_url": callbacks.url, "options": ["soup", "salad"], "delay": 0.02}
    _, headers = engine.request(
        "POST", "/api/internal/process/randomness.delayed-stochastic-vote", vote
    )
    location = headers.get("Location") or headers["location"]
    record, _ = engine.request("GET", location)
    print("vote:", record["status"], "until", record["closing_at"])
    print("outcome by callback:", callbacks.completed(seconds=30)["outcome"])


if __name__ == "__main__":
    main()
