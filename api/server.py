"""The server process of the API."""

from __future__ import annotations

import asyncio
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.app import create_app
from engine.settings import Settings
from engine.store.readiness import open_keys
from engine.watchdog import watched_loop

STOP_SECONDS = 20
START_FAILED = 3


class _Server(uvicorn.Server):
    """Releases readers of the feed when it is signalled to stop, and waits for other requests."""

    def __init__(self, config: uvicorn.Config, stall_seconds: float, beats: int | None) -> None:
        super().__init__(config)
        self._stall_seconds = stall_seconds
        self._beats = beats

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal says to stop."""
        async with watched_loop(self._stall_seconds, self._beats):
            await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal that says to stop."""
        feed = getattr(self.config.app.state, "feed", None)  # type: ignore[union-attr]
        if feed is not None:
            feed.stop()
        super().handle_exit(sig, frame)


class Connection(HttpToolsProtocol):
    """A connection that is closed if no whole head of a request arrives on it in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._late.cancel()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """A head is there."""
        self._late.cancel()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next head, and longer than for its first byte."""
        super().on_response_complete()
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        settings: Settings = self.config.app.state.settings  # type: ignore[union-attr]
        self._late = self.loop.call_later(settings.request_arrival_seconds, self._give_up)

    def _give_up(self) -> None:
        # A request that was sent behind another one may be at work.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def serve_config(app: FastAPI, **options: Any) -> uvicorn.Config:
    """How an application is served.

    Args:
        app: The application.
        options: Further options of uvicorn's.

    Returns:
        The configuration.
    """
    return uvicorn.Config(app, http=Connection, log_config=None, access_log=False, **options)


def run(settings: Settings, beats: int | None = None) -> None:
    """Serve the API until the process is signalled to stop.

    Args:
        settings: The settings.
        beats: A file descriptor for heartbeats to the parent process.

    Raises:
        SettingsError: A setting does not work.
        RegistrationError: A plugin does not work.
        DatabaseUnfitError: The database cannot be used.
        SystemExit: The server could not start.
    """
    app = create_app(settings)
    # Inside the server its error would be a stack trace.
    asyncio.run(open_keys(settings))
    server = _Server(
        serve_config(
            app,
            host=settings.host,
            port=settings.port,
            timeout_graceful_shutdown=STOP_SECONDS,
        ),
        settings.stall_seconds,
        beats,
    )
    server.run()
    if not server.started:
        sys.exit(START_FAILED)
