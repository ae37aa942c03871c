"""The one holder of a Temporal client: what the engine asks of Temporal, as verbs."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from engine.errors import UnavailableError
from engine.messages import SEARCH_ATTRIBUTES
from engine.settings import Settings, SettingsError
from engine.temporal.actions import Actions
from engine.temporal.background import Background
from engine.temporal.communities import Communities
from engine.temporal.connection import connect
from engine.temporal.namespace import (
    ensure_search_attributes,
    keep_closed_workflows,
    missing_search_attributes,
)
from engine.temporal.past import Past
from engine.temporal.processes import Processes
from engine.temporal.rpc import OUT_OF_REACH, Rpc, is_outage

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

    async def prepare(self) -> None:
        """Wait for the server, and prepare its namespace for the engine.

        For an embedded server it also sets how long ended workflows are kept.

        Raises:
            SettingsError: The server has no such namespace, or refuses.
            UnavailableError: It does not answer in time.
        """
        client, settings = self.client, self._rpc.settings
        try:
            await self._rpc.reach(lambda: ensure_search_attributes(client, SEARCH_ATTRIBUTES))
            if settings.temporal_address is None:
                days = settings.temporal_retention_days
                await self._rpc.reach(lambda: keep_closed_workflows(client, days))
        except (TimeoutError, *OUT_OF_REACH) as error:
            server = f"The Temporal server at {settings.temporal_target}"
            if isinstance(error, RPCError) and not is_outage(error):
                raise SettingsError(
                    f"{server} refuses to be prepared ({error.status.name.lower()}); see "
                    "METAGOV_TEMPORAL_API_KEY and METAGOV_TEMPORAL_NAMESPACE"
                ) from error
            raise UnavailableError(f"{server} does not answer") from error

    async def prepared(self) -> bool:
        """Whether a worker has prepared the server's namespace."""
        if not self._prepared:
            try:
                self._prepared = not await self._missing()
            except (SettingsError, UnavailableError):
                return False
        return self._prepared

    async def check_namespace(self) -> None:
        """Look whether the server has the namespace of the settings.

        Raises:
            SettingsError: It has not.
            UnavailableError: It does not answer.
        """
        await self._missing()

    async def _missing(self) -> list[str]:
        asked = missing_search_attributes(self.client, SEARCH_ATTRIBUTES)
        return await self._rpc.ask(asked, HEALTH_TIMEOUT)
