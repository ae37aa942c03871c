"""Serves a twin on a free port of loopback, in a thread, or from the command line."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import typer
import uvicorn
from fastapi import FastAPI

from sandbox.people import clock
from sandbox.twin import Twin


class ServedTwin(Twin, ABC):
    """As a context manager, a twin runs in a thread.

    Attributes:
        app: The ASGI application.
        base_url: Under which its links lead to it; set anew where it is run.
        sender: Sends its webhooks while it is served.
        port: Where it is served; 0: on a free port.
        skew: How far its clock is ahead.
    """

    app: FastAPI
    port: int = 0
    _server: uvicorn.Server
    _thread: threading.Thread

    def __init__(self) -> None:
        super().__init__("")

    @abstractmethod
    def expire(self) -> None:
        """Do what the platform's background job does when time has passed."""

    def at(self, port: int) -> Self:
        """Have it served on a port of its own.

        Args:
            port: The port.

        Returns:
            The twin.
        """
        self.port = port
        return self

    def __enter__(self) -> Self:
        """Serve it; ``base_url`` says where."""
        listener = listen(self.port)
        self.base_url = url_of(listener)
        config = uvicorn.Config(self.app, log_config=None, timeout_graceful_shutdown=2)
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the twin did not start")
            time.sleep(0.01)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(10)

    @asynccontextmanager
    async def alive(self, app: FastAPI) -> AsyncIterator[None]:
        """The application's lifespan: webhooks are sent, and the background job runs.

        Args:
            app: The application.

        Yields:
            While it is served.
        """
        self.sender.start()
        job = asyncio.create_task(self._job())
        try:
            yield
        finally:
            job.cancel()
            self.sender.stop()

    async def _job(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.expire()


def listen(port: int) -> socket.socket:
    """Take a port of loopback.

    Args:
        port: The port; 0 for a free one.

    Returns:
        The socket.

    Raises:
        BadParameter: The port cannot be had.
    """
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise typer.BadParameter(f"port {port} cannot be had: {error.strerror}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL of what is served on a socket."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def add_clock(app: FastAPI, twin: ServedTwin) -> None:
    """Let the twin's clock be put forward."""
    app.include_router(clock)
