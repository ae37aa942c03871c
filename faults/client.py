"""A client that asks as drivers and platforms do: again and again, until it is answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx

PATIENCE_SECONDS = 150.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
# Longer than the engine itself waits for the longest call.
ANSWER_SECONDS = 900.0


class Client:
    """Sends requests to an engine's API processes.

    Args:
        apis: Their base URLs.
        chance: Chooses among them.

    Attributes:
        patience_seconds: How long to go on asking.
    """

    def __init__(self, apis: list[str], chance: random.Random) -> None:
        self.patience_seconds = PATIENCE_SECONDS
        self._apis = apis
        self._chance = chance
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=5),
            limits=httpx.Limits(max_connections=500),
            trust_env=False,
        )

    async def ask(
        self,
        method: str,
        path: str,
        *,
        api: int | None = None,
        refused: Callable[[httpx.Response], None] | None = None,
        **sent: Any,
    ) -> httpx.Response:
        """Send a request, and send it again after 503 and after a broken connection.

        Args:
            method: The HTTP method.
            path: The path.
            api: Which API process; default: any, another one each time.
            refused: Called with each 503 that came before any connection broke: what it says of
                the request is then said of all that was sent.
            sent: Body and headers.

        Returns:
            The first other answer.

        Raises:
            TimeoutError: There is none while patience lasts.
        """
        broken, pause = False, FIRST_PAUSE_SECONDS
        async with asyncio.timeout(self.patience_seconds):
            while True:
                number = self._chance.randrange(len(self._apis)) if api is None else api
                try:
                    answer = await self._http.request(method, self._apis[number] + path, **sent)
                    if answer.status_code != 503:
                        return answer
                    if refused is not None and not broken:
                        refused(answer)
                except httpx.HTTPError:
                    broken = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()
