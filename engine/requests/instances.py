"""The one place that finds the plugin instance that a request is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import BadRequestError, ResourceNotFoundError
from engine.resources import Engine
from engine.sdk.plugin import platform_id
from engine.sdk.registry import Registry
from engine.store import communities
from engine.store.communities import PluginInstance


@dataclass(frozen=True)
class Chosen:
    """How a request says which plugin instance it is for.

    Attributes:
        community: The community's name; None or empty if it is not named.
        plugin: The plugin's name.
        instance: The instance's name, if it is named.
        community_platform_id: The platform's own id of the community, if it is named.
    """

    community: str | None
    plugin: str
    instance: str | None = None
    community_platform_id: str | None = None


@dataclass(frozen=True)
class Instance:
    """A plugin instance as it was when it was read.

    Attributes:
        id: Its id.
        community: The community's name.
        plugin: The plugin's name.
        name: The instance's own name, unique in the community.
        config_encrypted: Its config, as it is stored.
        config: Its config, opened; not to be changed.
    """

    id: str
    community: str
    plugin: str
    name: str
    config_encrypted: str = field(repr=False)
    config: dict[str, Any] = field(repr=False)

    @property
    def community_platform_id(self) -> str | None:
        """The platform's own id of the community, if there is one."""
        plugin = Registry.plugins.get(self.plugin)
        return platform_id(plugin.cls, self.config) if plugin else None

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
        BadRequestError: There is no header, no such community or instance, the plugin is not
            enabled, or several instances are what the request says.
    """
    if not chosen.community:
        raise BadRequestError("Missing required header 'X-Metagov-Community'")
    async with engine.database.read() as session:
        rows = await communities.instances_of_plugin_in(session, chosen.community, chosen.plugin)
    found = [_opened(engine, row) for row in rows]
    if not found:
        raise await _not_enabled(engine, chosen)
    if chosen.instance is not None:
        named = [one for one in found if one.name == chosen.instance]
        if not named:
            raise await _no_such_instance(engine, chosen, found)
        found = named
    if chosen.community_platform_id is not None:
        found = [one for one in found if one.community_platform_id == chosen.community_platform_id]
        if not found:
            of = f"Instance '{chosen.instance}' of plugin" if chosen.instance else "Plugin"
            raise BadRequestError(
                f"{of} '{chosen.plugin}' with community_platform_id "
                f"'{chosen.community_platform_id:.128}' not enabled for community "
                f"'{chosen.community}'"
            )
    if len(found) > 1:
        raise _several(chosen, found)
    return found[0]


async def instance_at(engine: Engine, community: str, name: str) -> Instance | None:
    """Find the plugin instance that an address names, if there is one."""
    async with engine.database.read() as session:
        row = await communities.find_instance(session, community, name)
    return _opened(engine, row) if row is not None else None


async def instance_of(engine: Engine, plugin: str, instance_id: str) -> Instance:
    """Find a plugin instance by its id; ResourceNotFoundError without one."""
    async with engine.database.read() as session:
        row = await session.get(PluginInstance, instance_id)
    if row is None or row.plugin != plugin:
        raise ResourceNotFoundError(f"Plugin '{plugin:.64}' has no instance {instance_id:.64}")
    return _opened(engine, row)


async def instances_in(engine: Engine, session: AsyncSession, community: str) -> list[Instance]:
    """The plugin instances of a community, in the order in which it named them."""
    rows = await communities.instances_of(session, community)
    return [_opened(engine, row) for row in rows]


async def instances_of_plugin(engine: Engine, plugin: str) -> list[Instance]:
    """The instances of a plugin in all communities."""
    async with engine.database.read() as session:
        rows = await communities.instances_of_plugin(session, plugin)
    return [_opened(engine, row) for row in rows]


def _opened(engine: Engine, row: PluginInstance) -> Instance:
    return Instance(
        id=row.id,
        community=row.community,
        plugin=row.plugin,
        name=row.instance,
        config_encrypted=row.config_encrypted,
        config=engine.secrets.decrypt(row.config_encrypted),
    )


async def _not_enabled(engine: Engine, chosen: Chosen) -> BadRequestError:
    async with engine.database.read() as session:
        community = await communities.get_community(session, chosen.community or "")
    if community is None:
        return BadRequestError(f"Community '{chosen.community:.128}' not found")
    return BadRequestError(
        f"Plugin '{chosen.plugin}' not enabled for community '{chosen.community}'"
    )


async def _no_such_instance(
    engine: Engine, chosen: Chosen, there: Sequence[Instance]
) -> BadRequestError:
    named = await instance_at(engine, chosen.community or "", chosen.instance or "")
    if named is not None:
        return BadRequestError(
            f"Instance '{named.name}' of community '{named.community}' is one of plugin "
            f"'{named.plugin}', not of '{chosen.plugin}'"
        )
    names = ", ".join(f"'{one.name}'" for one in there)
    return BadRequestError(
        f"Plugin '{chosen.plugin}' has no instance '{chosen.instance:.64}' in community "
        f"'{chosen.community}'; it has {names}"
    )


def _several(chosen: Chosen, found: Sequence[Instance]) -> BadRequestError:
    names = ", ".join(f"'{one.name}'" for one in found)
    plugin = Registry.plugins.get(chosen.plugin)
    if plugin is not None and plugin.cls.community_platform_id_key is None:
        return BadRequestError(
            f"Plugin '{chosen.plugin}' has multiple instances for community "
            f"'{chosen.community}': {names}. Please name one by the header X-Metagov-Instance."
        )
    if chosen.community_platform_id is None:
        return BadRequestError(
            f"Plugin '{chosen.plugin}' has multiple instances for community "
            f"'{chosen.community}'. Please specify community_platform_id."
        )
    return BadRequestError(
        f"Plugin '{chosen.plugin}' has multiple instances with community_platform_id "
        f"'{chosen.community_platform_id:.128}' in community '{chosen.community}': {names}; "
        "name one of them by the header X-Metagov-Instance"
    )
