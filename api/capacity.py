"""How many requests are handled at once: one that is over it waits a little, then gets 503."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from api.bodies import discard
from api.problems import problem
from engine.errors import UnavailableError, describe
from engine.settings import Settings

log = structlog.get_logger()

MOST_WAITING = 200
UNLIMITED = ("/healthz", "/readyz")


@dataclass
class _Lane:
    """Requests of one kind.

    Attributes:
        name: What they are.
        turns: How many of them are worked on at once.
        waiting: How many wait for their turn.
        most_waiting: How many may wait.
    """

    name: str
    turns: asyncio.Semaphore
    most_waiting: int
    waiting: int = 0


class Turn:
    """A request's turn, as ``request.state.turn``.

    Args:
        turns: Where it was taken from.
    """

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns: asyncio.Semaphore | None = turns

    def give_back(self) -> None:
        """Let the next request have it; a second time does nothing."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.release()


class Capacity:
    """Keeps platforms that send webhooks, drivers that wait for news, and all others apart.

    A request that only waits for another server may give its turn back before its end.

    Args:
        app: The application.
        settings: The limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._patience = settings.capacity_wait_seconds
        self._webhooks = _lane("webhooks", settings.max_concurrent_webhooks)
        self._readers = _lane("readers", settings.max_concurrent_readers)
        self._requests = _lane("requests", settings.max_concurrent_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a request."""
        if scope["type"] != "http" or scope["path"] in UNLIMITED:
            await self._app(scope, receive, send)
            return
        lane = self._lane_of(scope)
        if not await self._turn(lane):
            log.warning("over capacity", lane=lane.name)
            await discard(receive)
            error = UnavailableError("The engine is over capacity; nothing was done, try again")
            await problem(describe(error))(scope, receive, send)
            return
        turn = scope.setdefault("state", {})["turn"] = Turn(lane.turns)
        try:
            await self._app(scope, receive, send)
        finally:
            turn.give_back()

    def _lane_of(self, scope: Scope) -> _Lane:
        if scope["path"].startswith("/api/hooks/"):
            return self._webhooks
        waits = scope["path"].startswith(("/api/internal/events", "/api/internal/process/"))
        return self._readers if waits and scope["method"] == "GET" else self._requests

    async def _turn(self, lane: _Lane) -> bool:
        if not lane.turns.locked():
            await lane.turns.acquire()
            return True
        if lane.waiting >= lane.most_waiting:
            return False
        lane.waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                await lane.turns.acquire()
        except TimeoutError:
            return False
        finally:
            lane.waiting -= 1
        return True


def _lane(name: str, at_once: int) -> _Lane:
    # Who waits costs a connection and little else.
    return _Lane(name, asyncio.Semaphore(at_once), most_waiting=max(MOST_WAITING, 10 * at_once))
