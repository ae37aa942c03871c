"""The one place that finds the plugin instance that a request is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import BadRequestError
from engine.resources import Engine
from engine.store import communities
from engine.store.communities import PluginInstance


@dataclass(frozen=True)
class Chosen:
    """How a request says which plugin instance it is for.

    Attributes:
        community: The community's name; None or empty if it is not named.
        plugin: The plugin's name.
    """

    community: str | None
    plugin: str


@dataclass(frozen=True)
class Instance:
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
    config_encrypted: str = field(repr=False)
    config: dict[str, Any] = field(repr=False)

    def unchanged(self) -> ColumnElement[bool]:
        """The condition, for a statement, that the database still has it so."""
        return communities.is_still(self.id, self.config_encrypted)


async def find_instance(engine: Engine, chosen: Chosen) -> Instance:
    """Find the plugin instance that a request is for.

    Args:
        engine: What is open.
        chosen: What the request says.

    Returns:
        The instance.

    Raises:
        BadRequestError: There is no header, no such community, or the plugin is not enabled.
    """
    if not chosen.community:
        raise BadRequestError("Missing required header 'X-Metagov-Community'")
    instance = await instance_at(engine, chosen.community, chosen.plugin)
    if instance is not None:
        return instance
    async with engine.database.read() as session:
        community = await communities.get_community(session, chosen.community)
    if community is None:
        raise BadRequestError(f"Community '{chosen.community:.128}' not found")
    raise BadRequestError(
        f"Plugin '{chosen.plugin}' not enabled for community '{chosen.community}'"
    )


async def instance_at(engine: Engine, community: str, plugin: str) -> Instance | None:
    """Find the plugin instance that an address names.

    Args:
        engine: What is open.
        community: The community's name.
        plugin: The plugin's name.

    Returns:
        The instance, or None.
    """
    async with engine.database.read() as session:
        row = await communities.find_instance(session, community, plugin)
    return _opened(engine, row) if row is not None else None


async def instances_in(engine: Engine, session: AsyncSession, community: str) -> list[Instance]:
    """The plugin instances of a community, in the order in which it named them.

    Args:
        engine: What is open.
        session: An open session.
        community: The community's name.

    Returns:
        The instances.
    """
    rows = await communities.instances_of(session, community)
    return [_opened(engine, row) for row in rows]


async def instances_of_plugin(engine: Engine, plugin: str) -> list[Instance]:
    """The instances of a plugin in all communities.

    Args:
        engine: What is open.
        plugin: The plugin's name.

    Returns:
        The instances.
    """
    async with engine.database.read() as session:
        rows = await communities.instances_of_plugin(session, plugin)
    return [_opened(engine, row) for row in rows]


def _opened(engine: Engine, row: PluginInstance) -> Instance:
    return Instance(
        id=row.id,
        community=row.community,
        plugin=row.plugin,
        config_encrypted=row.config_encrypted,
        config=engine.secrets.decrypt(row.config_encrypted),
    )
