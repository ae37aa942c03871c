"""The one holder of a Temporal client: what the engine asks of Temporal, as verbs."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import Client

from engine.errors import UnavailableError
from engine.messages import SEARCH_ATTRIBUTES
from engine.settings import Settings
from engine.temporal.actions import Actions
from engine.temporal.background import Background
from engine.temporal.communities import Communities
from engine.temporal.connection import (
    connect,
    ensure_search_attributes,
    missing_search_attributes,
)
from engine.temporal.past import Past
from engine.temporal.processes import Processes
from engine.temporal.rpc import Rpc

__all__ = ["Temporal", "connect", "ensure_search_attributes"]

HEALTH_TIMEOUT = timedelta(seconds=3)


class Temporal:
    """What the engine asks of Temporal.

    Args:
        client: A connected client.
        settings: The settings.

    Attributes:
        client: The client.
        actions: Actions, whose end is waited for.
        processes: The workflows of governance processes.
        communities: The workflows that change communities.
        background: Activities that nobody waits for.
        past: What was done since a backup.
    """

    def __init__(self, client: Client, settings: Settings) -> None:
        self._rpc = rpc = Rpc(client, settings)
        self.client = client
        self.actions = Actions(rpc)
        self.processes = Processes(rpc)
        self.communities = Communities(rpc)
        self.background = Background(rpc)
        self.past = Past(rpc)
        self._prepared = False

    async def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return await self._rpc.ask(
                self.client.service_client.check_health(timeout=HEALTH_TIMEOUT), HEALTH_TIMEOUT
            )
        except UnavailableError:
            return False

    async def prepared(self) -> bool:
        """Whether a worker has made the engine's search attributes known to the server."""
        if not self._prepared:
            asked = missing_search_attributes(self.client, SEARCH_ATTRIBUTES)
            try:
                self._prepared = not await self._rpc.ask(asked, HEALTH_TIMEOUT)
            except UnavailableError:
                return False
        return self._prepared
