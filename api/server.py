"""The server process of the API."""

from __future__ import annotations

import sys
from types import FrameType

import uvicorn

from api.app import create_app
from engine.settings import Settings

STOP_SECONDS = 20
START_FAILED = 3


class _Server(uvicorn.Server):
    """Lets readers of the feed go at once when it is told to stop, and waits for other requests."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal that says to stop."""
        feed = getattr(self.config.app.state, "feed", None)  # type: ignore[union-attr]
        if feed is not None:
            feed.stop()
        super().handle_exit(sig, frame)


def run(settings: Settings) -> None:
    """Serve the API until the process is told to stop.

    Args:
        settings: The settings.

    Raises:
        SettingsError: A setting does not work.
        RegistrationError: A plugin does not work.
        SystemExit: The server could not start.
    """
    server = _Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )
    server.run()
    if not server.started:
        sys.exit(START_FAILED)
