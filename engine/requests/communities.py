"""Communities: brought into a desired state, read, deleted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import (
    BadRequestError,
    ConflictError,
    EngineError,
    OutcomeUnknownError,
    RecordedError,
    ResourceNotFoundError,
    Violation,
    describe,
)
from engine.requests.accepting import Once, accept, answering, hand_over
from engine.requests.documents import check
from engine.requests.instances import Instance, instance_of, instances_in
from engine.resources import Engine
from engine.sdk.parameters import fill_defaults, secret_properties
from engine.sdk.plugin import platform_id
from engine.sdk.registry import PluginDeclaration, Registry
from engine.store import communities
from engine.store.accepted import Idempotency
from engine.store.communities import (
    APPLIED,
    PLATFORM_ID_MAX_LENGTH,
    REFUSED,
    Community,
    CommunityChange,
)
from engine.store.communities import NAME_MAX_LENGTH as NAME_MAX_LENGTH
from engine.store.secrets import mask, unmask

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._~-]*$"
INSTANCE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
CHANGE_MARGIN_SECONDS = 30
ENDED = (APPLIED, REFUSED)


@dataclass(frozen=True)
class ShownPlugin:
    """A plugin instance as it is shown: without its secrets.

    Attributes:
        name: The plugin's name.
        instance: The instance's own name.
        id: Its id.
        community_platform_id: The platform's own id of the community, if there is one.
        community: The community's name.
        auth_type: How the platform knows the community, if the plugin says so.
        config: Its config.
    """

    name: str
    instance: str
    id: str
    community_platform_id: str | None
    community: str
    auth_type: str | None
    config: dict[str, Any]


@dataclass(frozen=True)
class ShownCommunity:
    """A community as it is shown: without its secrets.

    Attributes:
        name: Its name.
        readable_name: Its name for people.
        plugins: Its plugin instances.
    """

    name: str
    readable_name: str
    plugins: list[ShownPlugin]


async def put(
    engine: Engine,
    name: str,
    readable_name: str,
    plugins: Sequence[Mapping[str, Any]],
    scope: str,
    once: Once,
) -> tuple[ShownCommunity, bool]:
    """Bring a community into a desired state, all of it or nothing, once for each key.

    Args:
        engine: What is open.
        name: Its name.
        readable_name: Its name for people.
        plugins: The plugins that it has enabled then, each with ``name``, ``config`` and, if it is
            not the plugin's name, ``instance``.
        scope: What an idempotency key is for.
        once: The request's idempotency key.

    Returns:
        The community as stored, and whether it was created.

    Raises:
        BadRequestError: A plugin is not registered, or its config does not fit.
        UnavailableError: Nothing was done.
        RecordedError: A plugin refused.
        OutcomeUnknownError: It may yet come to this.
    """
    if not re.fullmatch(NAME_PATTERN[1:-1], name):
        raise BadRequestError("name: use letters, digits and . _ ~ -, a letter or digit first")
    desired = {
        "readable_name": readable_name,
        "plugins": await _complete(engine, name, plugins),
    }
    done = await _change(engine, name, desired, once.within(engine, scope))
    async with answering("change"):
        # The first request with this key may have been given another name.
        shown = await engine.database.recall(
            lambda session: _shown(engine, session, done.community)
        )
    return shown, done.created


async def delete(engine: Engine, name: str) -> None:
    """Delete a community; its plugins are disabled first.

    Args:
        engine: What is open.
        name: Its name.

    Raises:
        ResourceNotFoundError: There is none.
        UnavailableError: Nothing was done.
        OutcomeUnknownError: It may yet be deleted.
    """
    await _change(engine, name, None, None)


async def enable(
    engine: Engine,
    community: str | None,
    plugin: str,
    instance: str | None,
    config: Mapping[str, Any],
    key: str | None,
) -> tuple[ShownPlugin, bool]:
    """Enable one plugin instance of a community, or bring it to a config; others are left alone.

    Args:
        engine: What is open.
        community: The community's name.
        plugin: The plugin's name.
        instance: The instance's name; None: the plugin's.
        config: Its config.
        key: The request's idempotency key.

    Returns:
        The instance as stored, and whether it was made or made anew.

    Raises:
        BadRequestError: There is no such community or plugin, the instance's name is none or that
            of another plugin's, or the config does not fit.
        UnavailableError: Nothing was done.
        RecordedError: The plugin refused.
        OutcomeUnknownError: It may yet come to this.
    """
    if not community:
        raise BadRequestError("Missing required header 'X-Metagov-Community'")
    async with engine.database.read() as session:
        if await communities.get_community(session, community) is None:
            raise BadRequestError(f"Community '{community:.128}' not found")
        present = await instances_in(engine, session, community)
    entry = _entry(plugin, instance, config, present, "")
    name = entry["instance"]
    other = next((one for one in present if one.name == name and one.plugin != plugin), None)
    if other is not None:
        raise BadRequestError(
            f"Instance '{name}' of community '{community}' is one of plugin '{other.plugin}'"
        )
    once = Once(key, {"instance": instance, "config": config})
    scope = f"plugin {plugin} {community}"
    done = await _change(engine, community, {"with": entry}, once.within(engine, scope))
    async with answering("change"):
        shown = await engine.database.recall(lambda session: _shown(engine, session, community))
    found = next((one for one in shown.plugins if one.instance == name), None)
    if found is None:
        raise ConflictError(f"Instance '{name}' was enabled, and disabled again by another request")
    return found, done.created


async def disable(engine: Engine, community: str | None, plugin: str, instance_id: str) -> None:
    """Disable one plugin instance; others are left alone.

    Args:
        engine: What is open.
        community: The community's name, if the request says it.
        plugin: The plugin's name.
        instance_id: The instance's id.

    Raises:
        ResourceNotFoundError: The plugin has no such instance.
        UnavailableError: Nothing was done.
        OutcomeUnknownError: It may yet be disabled.
    """
    instance = await instance_of(engine, plugin, instance_id)
    if community is not None and instance.community != community:
        raise ResourceNotFoundError(
            f"Plugin '{plugin:.64}' has no instance {instance_id:.64} in community "
            f"'{community:.128}'"
        )
    await _change(engine, instance.community, {"without": instance.id}, None)


async def read(engine: Engine, name: str) -> ShownCommunity:
    """Read a community.

    Args:
        engine: What is open.
        name: Its name.

    Returns:
        The community as stored.

    Raises:
        ResourceNotFoundError: There is none.
    """
    async with engine.database.read() as session:
        return await _shown(engine, session, name)


async def enabled_plugins(engine: Engine, name: str) -> list[tuple[PluginDeclaration, Instance]]:
    """The plugins that a community has enabled, as far as they are registered.

    Args:
        engine: What is open.
        name: The community's name.

    Returns:
        Each with its instance.

    Raises:
        ResourceNotFoundError: There is no such community.
    """
    async with engine.database.read() as session:
        await _get(session, name)
        instances = await instances_in(engine, session, name)
    return [
        (Registry.plugins[instance.plugin], instance)
        for instance in instances
        if instance.plugin in Registry.plugins
    ]


async def _complete(
    engine: Engine, name: str, plugins: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Check the plugins of a desired state, fill in defaults and put masked secrets back."""
    async with engine.database.read() as session:
        present = await instances_in(engine, session, name)
    complete: list[dict[str, Any]] = []
    for index, item in enumerate(plugins):
        path = f"/plugins/{index}"
        entry = _entry(item["name"], item.get("instance"), item["config"], present, path)
        if any(other["instance"] == entry["instance"] for other in complete):
            raise _named_twice(entry, path, by_default=item.get("instance") is None)
        complete.append(entry)
    return complete


def _entry(
    plugin: str,
    instance: str | None,
    config: Mapping[str, Any],
    present: Sequence[Instance],
    path: str,
) -> dict[str, Any]:
    """Check one plugin of a desired state, fill in defaults and put masked secrets back."""
    declaration = Registry.plugins.get(plugin)
    if declaration is None:
        raise BadRequestError(
            f"No such plugin registered: {plugin:.128}",
            [Violation(f"{path}/name", "no such plugin registered")],
        )
    name = plugin if instance is None else instance
    # A plugin's own name may be longer, and have underscores.
    if name != plugin and not INSTANCE_NAME.fullmatch(name):
        message = "must be 1 to 63 small letters, digits and -, a letter or digit first"
        raise BadRequestError(
            f"instance: {message}, not '{name:.80}'", [Violation(f"{path}/instance", message)]
        )
    stored = next((one.config for one in present if (one.name, one.plugin) == (name, plugin)), None)
    hidden = secret_properties(declaration.config_schema)
    complete = unmask(dict(config), hidden, stored)
    complete = fill_defaults(complete, declaration.config_schema)
    check(complete, declaration.config_schema, f"{path}/config")
    _check_webhook_slug(complete, f"{path}/config/webhook_slug")
    found = platform_id(declaration.cls, complete) or ""
    if len(found) > PLATFORM_ID_MAX_LENGTH:
        where = f"{path}/config/{declaration.cls.community_platform_id_key}"
        message = f"must have at most {PLATFORM_ID_MAX_LENGTH} characters"
        raise BadRequestError(f"{where}: {message}", [Violation(where, message)])
    return {"name": plugin, "instance": name, "config": complete}


def _named_twice(entry: Mapping[str, Any], path: str, *, by_default: bool) -> BadRequestError:
    if by_default and entry["instance"] == entry["name"]:
        return BadRequestError(
            f"Plugin '{entry['name']}' is named twice; "
            'give each of its instances a name of its own by "instance"',
            [Violation(f"{path}/name", "named twice")],
        )
    return BadRequestError(
        f"Instance '{entry['instance']}' is named twice",
        [Violation(f"{path}/instance", "named twice")],
    )


def _check_webhook_slug(config: dict[str, Any], path: str) -> None:
    slug = config.get("webhook_slug")
    if slug in (None, ""):
        return
    if not isinstance(slug, str) or not re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", slug):
        message = "must be 1 to 128 letters, digits and . _ ~ -, for it stands in a URL"
        raise BadRequestError(f"{path}: {message}", [Violation(path, message)])


async def _change(
    engine: Engine, name: str, wanted: dict[str, Any] | None, once: Idempotency | None
) -> CommunityChange:
    """Have a change applied after those before it; gives what came of it."""
    change = CommunityChange(
        community=name,
        desired_encrypted=engine.secrets.encrypt(wanted) if wanted is not None else None,
    )
    async with engine.database.read() as session:
        if wanted is None or "plugins" not in wanted:
            await _get(session, name)
        present = len(await communities.instances_of(session, name))
    accepted = await accept(engine, change, change.id, once)
    async with answering("change"):
        done = await _read_change(engine, accepted)
        if done.status not in ENDED:
            named = len(wanted.get("plugins", [None])) if wanted else 0
            # Each plugin that comes or goes may be called once.
            done = await _apply(engine, done, calls=named + present)
        if done.error is not None:
            raise RecordedError(done.error)
        return done


async def _apply(engine: Engine, change: CommunityChange, calls: int) -> CommunityChange:
    """Have a change applied, unless nobody begins with it; gives what came of it."""

    async def withdraw(session: AsyncSession, error: EngineError) -> bool:
        reason = describe(error)
        return await communities.withdraw_change(engine.database, session, change.id, reason)

    seconds = engine.settings.invocation_timeout_seconds * max(1, calls) + CHANGE_MARGIN_SECONDS
    applied = engine.temporal.communities.apply_change(
        change.community, change.id, timedelta(seconds=seconds)
    )
    unknown = OutcomeUnknownError(
        "The change was begun, and there is no result in time; it may still be applied. "
        "The same request with the same Idempotency-Key returns its outcome"
    )
    try:
        await hand_over(engine, applied, withdraw, "The change may be applied", EngineError)
    except OutcomeUnknownError as error:
        unknown = error
    done = await _read_change(engine, change.id)
    if done.status not in ENDED:
        raise unknown
    return done


async def _read_change(engine: Engine, change_id: str) -> CommunityChange:
    return await engine.database.recall(lambda session: session.get_one(CommunityChange, change_id))


async def _shown(engine: Engine, session: AsyncSession, name: str) -> ShownCommunity:
    row = await _get(session, name)
    return ShownCommunity(
        name=row.name,
        readable_name=row.readable_name,
        plugins=[_shown_plugin(instance) for instance in await instances_in(engine, session, name)],
    )


def _shown_plugin(instance: Instance) -> ShownPlugin:
    """An instance without its secrets; of a plugin that is gone, all may be secret."""
    plugin = Registry.plugins.get(instance.plugin)
    hidden = secret_properties(plugin.config_schema) if plugin else instance.config
    return ShownPlugin(
        name=instance.plugin,
        instance=instance.name,
        id=instance.id,
        community_platform_id=instance.community_platform_id,
        community=instance.community,
        auth_type=plugin.cls.auth_type if plugin else None,
        config=mask(instance.config, hidden),
    )


async def _get(session: AsyncSession, name: str) -> Community:
    row = await communities.get_community(session, name)
    if row is None:
        raise ResourceNotFoundError(f"Community '{name:.128}' not found")
    return row
