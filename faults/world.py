"""What surrounds the engine in the fault suite: the driver, the platforms, and the clients."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from faults.client import Client
from faults.cluster import Cluster
from faults.driver import Driver
from faults.platform import EffectCounter, effect
from faults.postgresql import PostgreSQL
from sandbox.loomio.state import GROUP, LoomioTwin

COMMUNITY = "faults"
PAUSE_SECONDS = 0.1


class World:
    """What surrounds the engine.

    Args:
        cluster: The engine.
        driver: The driver's endpoint.
        twin: A Loomio server.
        platform: The platform behind the suite's own plugins: a file.
        chance: The source of all chance.
        postgresql: The database server, where it is one.

    Attributes:
        client: Asks the engine.
    """

    def __init__(
        self,
        cluster: Cluster,
        driver: Driver,
        twin: LoomioTwin,
        platform: Path,
        chance: random.Random,
        postgresql: PostgreSQL | None = None,
    ) -> None:
        self.cluster = cluster
        self.driver = driver
        self.twin = twin
        self.random = chance
        self.postgresql = postgresql
        self.client = Client(cluster.apis, chance)
        self._config = {"platform": str(platform)}
        self._effects = EffectCounter(platform)
        self._alone: list[str] = []

    async def enable(self) -> None:
        """Make the community that most of it happens in."""
        loomio = {"server_url": self.twin.base_url, "api_key": self.twin.api_key, "group_id": GROUP}
        await self.make_community(COMMUNITY, "durable", "voting", "composing", loomio=loomio)
        server = f"{self.cluster.apis[0]}/api/hooks/{COMMUNITY}/loomio"
        self.twin.add_chatbot({"server": server})

    async def make_community(self, name: str, *plugins: str, **others: dict[str, object]) -> None:
        """Make a community.

        Args:
            name: Its name.
            plugins: The suite's own plugins that it has.
            others: Configs of others.
        """
        configs = {**{plugin: self._config for plugin in plugins}, **others}
        body = {
            "name": name,
            "plugins": [{"name": key, "config": value} for key, value in configs.items()],
        }
        path = f"/api/internal/community/{name}"
        answer = await self.client.ask("PUT", path, json=body)
        while answer.status_code == 504:
            # It says what the community is to be, so it may be said again.
            answer = await self.client.ask("PUT", path, json=body)
        answer.raise_for_status()

    @asynccontextmanager
    async def lone_community(self) -> AsyncIterator[str]:
        """Have a community with the plugin ``voting`` to oneself.

        Yields:
            Its name.
        """
        if self._alone:
            name = self._alone.pop()
        else:
            name = f"alone-{uuid4().hex[:8]}"
            await self.make_community(name, "voting")
        yield name
        self._alone.append(name)

    async def settled(self) -> None:
        """Wait until the engine has nothing left to send or to handle: what comes twice has come.

        Raises:
            TimeoutError: It has, after all patience.
        """
        waiting = (
            "SELECT (SELECT count(*) FROM outbox_item WHERE status = 'pending')"
            " + (SELECT count(*) FROM received_webhook WHERE status = 'received')"
        )
        async with asyncio.timeout(self.client.patience_seconds):
            while await asyncio.to_thread(self.cluster.count, waiting):
                await asyncio.sleep(PAUSE_SECONDS)

    def made(self, text: str) -> int:
        """How often an effect was made on the platform that is a file."""
        return self._effects.count(text)

    def note(self, text: str) -> None:
        """Have something happen on that platform."""
        effect(self._config, text)

    async def close(self) -> None:
        """Let go of what it holds."""
        await self.client.close()
