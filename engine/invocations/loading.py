"""A plugin instance, loaded for one call of its code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import PluginCodeError, PluginPausedError
from engine.resources import Engine, webhook_path
from engine.sdk.children import ChildLimits
from engine.sdk.parameters import secret_properties
from engine.sdk.plugin import Community, InvocationContext, Plugin
from engine.sdk.process import GovernanceProcess as ProcessObject
from engine.sdk.registry import PluginDeclaration, Registry
from engine.sdk.state import State
from engine.store import communities
from engine.store.communities import EnabledInstance
from engine.store.database import utc_now
from engine.store.secrets import secret_values

log = structlog.get_logger()


@dataclass
class LoadedPlugin:
    """A plugin instance, ready for one call.

    Attributes:
        instance_id: The instance's id.
        declaration: What the plugin declares.
        plugin: The object that stands for the instance during the call.
        context: What the call is given, and what it did.
        hidden: The config's secrets, to be kept out of every text.
        paused_until: Until when its platform wants no calls, if it said so.
        processes: The objects that stand for governance processes in the call.
        isolated: Whether it is called in a process of its own, for it may take this one down.
        lost_as: What is counted if the call is lost with its worker.
    """

    instance_id: str
    declaration: PluginDeclaration
    plugin: Plugin
    context: InvocationContext
    hidden: tuple[str, ...]
    paused_until: datetime | None = None
    processes: list[ProcessObject] = field(default_factory=list)
    isolated: bool = False
    lost_as: str = ""

    @property
    def community(self) -> str:
        """The community's name."""
        return self.context.community.name

    @property
    def instance(self) -> tuple[str, str, str]:
        """Community, plugin and id of the instance."""
        return self.community, self.declaration.name, self.instance_id


async def load_plugin(
    engine: Engine, session: AsyncSession, enabled: EnabledInstance, key: str
) -> LoadedPlugin:
    """Load a plugin instance with config and state.

    Args:
        engine: What all activities share.
        session: An open session.
        enabled: The instance, just read.
        key: The idempotency key of the call.

    Returns:
        The instance, ready for one call.

    Raises:
        PluginPausedError: Its calls took workers down; it is not called for a while.
        PluginCodeError: The plugin is not installed in this worker.
    """
    if enabled.stopped_until is not None and enabled.stopped_until > utc_now():
        raise PluginPausedError(
            f"The plugin '{enabled.plugin}' is paused for community '{enabled.community}' until "
            f"{enabled.stopped_until.isoformat()}: its calls took workers down",
            (enabled.stopped_until - utc_now()).total_seconds(),
        )
    loaded = build_plugin(
        engine,
        instance_id=enabled.id,
        plugin=enabled.plugin,
        instance=enabled.instance,
        community=Community(enabled.community, enabled.readable_name),
        config=engine.secrets.decrypt(enabled.config_encrypted),
        state=await communities.load_state(session, enabled.id) if enabled.has_state else {},
        key=key,
    )
    loaded.paused_until = enabled.paused_until
    loaded.isolated = enabled.alone_until is not None and enabled.alone_until > utc_now()
    loaded.lost_as = key.partition("#")[0]
    return loaded


def build_plugin(
    engine: Engine,
    *,
    instance_id: str,
    plugin: str,
    instance: str,
    community: Community,
    config: dict[str, Any],
    state: dict[str, str],
    key: str,
) -> LoadedPlugin:
    """Make the object that stands for a plugin instance during one call.

    Args:
        engine: What all activities share.
        instance_id: The instance's id.
        plugin: The plugin's name.
        instance: The instance's name.
        community: The community.
        config: The config, opened.
        state: Encoded state by key.
        key: The idempotency key of the call.

    Returns:
        The instance, ready for one call.

    Raises:
        PluginCodeError: The plugin is not installed in this worker.
    """
    declaration = Registry.plugins.get(plugin)
    if declaration is None:
        raise PluginCodeError(f"The plugin '{plugin}' is not installed in this worker")
    context = InvocationContext(
        community=community,
        config=config,
        state=State(state, modules_of(declaration)),
        idempotency_key=key,
        webhook_url=engine.settings.base_url
        + webhook_path(community.name, instance, config.get("webhook_slug")),
        instance_name=instance,
        connections=engine.connections,
        timeout_seconds=engine.settings.invocation_timeout_seconds,
        response_max_bytes=engine.settings.response_max_bytes,
        event_max_bytes=engine.settings.event_max_bytes,
        log=log.bind(community=community.name, plugin=plugin, instance=instance, invocation=key),
        child_limits=ChildLimits(
            engine.settings.most_children,
            engine.settings.most_child_levels,
            engine.settings.request_max_bytes,
        ),
    )
    return LoadedPlugin(
        instance_id=instance_id,
        declaration=declaration,
        plugin=declaration.cls(context),
        context=context,
        hidden=secret_values(config, secret_properties(declaration.config_schema)),
    )


def modules_of(declaration: PluginDeclaration) -> Callable[[str], bool]:
    """The function that says which modules' classes a plugin's state may hold."""
    module = declaration.cls.__module__
    around = module.rpartition(".")[0]
    # A module of its own in a folder of plugins shares no package with its neighbours.
    package = around if _is_package(around) and not _is_package(module) else module

    def allowed(name: str) -> bool:
        return name == package or name.startswith(f"{package}.")

    return allowed


def _is_package(name: str) -> bool:
    return hasattr(sys.modules.get(name), "__path__")
