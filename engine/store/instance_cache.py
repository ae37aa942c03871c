"""Plugin instances as they were last read, so that a request need not read them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache
from sqlalchemy import ColumnElement, exists
from sqlmodel import col

from engine.store import communities
from engine.store.communities import PluginInstance
from engine.store.database import Database
from engine.store.secrets import SecretBox

MOST_INSTANCES = 10_000


@dataclass(frozen=True)
class KnownInstance:
    """A plugin instance as it was when it was read.

    Attributes:
        id: Its id.
        community: The community's name.
        plugin: The plugin's name.
        config_encrypted: Its config, as it is stored.
        config: Its config, opened; not to be changed.
    """

    id: str
    community: str
    plugin: str
    config_encrypted: str
    config: dict[str, Any] = field(repr=False, compare=False)

    def unchanged(self) -> ColumnElement[bool]:
        """The condition, for a statement, that the database still has it so.

        What is stored under this condition cannot rest on a stale reading.
        """
        return exists().where(
            col(PluginInstance.id) == self.id,
            col(PluginInstance.config_encrypted) == self.config_encrypted,
        )


class InstanceCache:
    """The plugin instances that a process of the engine has read.

    Args:
        database: The database.
        secrets: Opens configs.
    """

    def __init__(self, database: Database, secrets: SecretBox) -> None:
        self._database = database
        self._secrets = secrets
        self._known: LRUCache[tuple[str, str], KnownInstance] = LRUCache(MOST_INSTANCES)

    async def find(self, community: str, plugin: str) -> KnownInstance | None:
        """Give an instance, read now or before; only good for what asks if it is unchanged.

        Args:
            community: The community's name.
            plugin: The plugin's name.

        Returns:
            The instance, or None if the plugin is not enabled there.
        """
        known = self._known.get((community, plugin))
        return known if known is not None else await self.read(community, plugin)

    async def read(self, community: str, plugin: str) -> KnownInstance | None:
        """Read an instance.

        Args:
            community: The community's name.
            plugin: The plugin's name.

        Returns:
            The instance, or None if the plugin is not enabled there.
        """
        async with self._database.read() as session:
            row = await communities.find_instance(session, community, plugin)
        if row is None:
            self._known.pop((community, plugin), None)
            return None
        instance = self.opened(row)
        self._known[community, plugin] = instance
        return instance

    def opened(self, row: PluginInstance) -> KnownInstance:
        """Open the config of an instance.

        Args:
            row: The instance, just read.

        Returns:
            The instance.
        """
        return KnownInstance(
            id=row.id,
            community=row.community,
            plugin=row.plugin,
            config_encrypted=row.config_encrypted,
            config=self._secrets.decrypt(row.config_encrypted),
        )
