"""Sends a twin's webhooks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx


class Sender:
    """Posts in the background of an event loop; it may be asked to from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Send from now on, in the loop that runs."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Send no more; what is under way is cut off."""
        self._loop = None
        for task in self._sending:
            task.cancel()

    def send(self, url: str, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """Post a JSON body once; the answer is ignored.

        Args:
            url: Where to.
            body: The body; bytes are sent as they are.
            headers: Further headers.
        """
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin, url, content, dict(headers or {}))

    def _begin(self, url: str, content: bytes, headers: dict[str, str]) -> None:
        task = asyncio.ensure_future(_post(url, content, headers))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


async def _post(url: str, content: bytes, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        # The platform only makes a note of a webhook that fails.
        with suppress(httpx.HTTPError, httpx.InvalidURL):
            await client.post(
                url, content=content, headers={"Content-Type": "application/json", **headers}
            )
