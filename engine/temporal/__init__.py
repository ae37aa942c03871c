"""The one holder of a Temporal client: what the engine asks of Temporal, as verbs."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import Client

from engine.settings import Settings
from engine.temporal.actions import Actions
from engine.temporal.background import Background
from engine.temporal.communities import Communities
from engine.temporal.connection import connect, ensure_search_attributes
from engine.temporal.processes import Processes
from engine.temporal.rpc import OUT_OF_REACH, Rpc

__all__ = ["Temporal", "connect", "ensure_search_attributes"]


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
    """

    def __init__(self, client: Client, settings: Settings) -> None:
        rpc = Rpc(client, settings)
        self.client = client
        self.actions = Actions(rpc)
        self.processes = Processes(rpc)
        self.communities = Communities(rpc)
        self.background = Background(rpc)

    async def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return await self.client.service_client.check_health(timeout=timedelta(seconds=3))
        except OUT_OF_REACH:
            return False
