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
    EngineError,
    OutcomeUnknownError,
    RecordedError,
    ResourceNotFoundError,
    Violation,
    describe,
)
from engine.requests.accepting import Once, accept, answering, hand_over
from engine.requests.documents import check
from engine.requests.instances import Instance, instances_in
from engine.resources import Engine
from engine.sdk.parameters import fill_defaults, secret_properties
from engine.sdk.registry import PluginDeclaration, Registry
from engine.store import communities, invocations
from engine.store.communities import APPLIED, REFUSED, Community, CommunityChange
from engine.store.communities import NAME_MAX_LENGTH as NAME_MAX_LENGTH
from engine.store.invocations import Idempotency
from engine.store.secrets import mask, unmask

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._~-]*$"
CHANGE_MARGIN_SECONDS = 30
ENDED = (APPLIED, REFUSED)


@dataclass(frozen=True)
class ShownCommunity:
    """A community as it is shown: without its secrets.

    Attributes:
        name: Its name.
        readable_name: Its name for people.
        plugins: Its plugins, each with ``name`` and ``config``.
    """

    name: str
    readable_name: str
    plugins: list[dict[str, Any]]


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
        plugins: The plugins that it has enabled then, each with ``name`` and ``config``.
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
        present = {one.plugin: one for one in await instances_in(engine, session, name)}
    complete: list[dict[str, Any]] = []
    for index, item in enumerate(plugins):
        plugin, path = item["name"], f"/plugins/{index}"
        declaration = Registry.plugins.get(plugin)
        if declaration is None:
            raise BadRequestError(
                f"No such plugin registered: {plugin:.128}",
                [Violation(f"{path}/name", "no such plugin registered")],
            )
        if any(other["name"] == plugin for other in complete):
            raise BadRequestError(
                f"Plugin '{plugin}' is named twice", [Violation(f"{path}/name", "named twice")]
            )
        stored = present[plugin].config if plugin in present else None
        hidden = secret_properties(declaration.config_schema)
        config = unmask(item["config"], hidden, stored)
        config = fill_defaults(config, declaration.config_schema)
        check(config, declaration.config_schema, f"{path}/config")
        _check_webhook_slug(config, f"{path}/config/webhook_slug")
        complete.append({"name": plugin, "config": config})
    return complete


def _check_webhook_slug(config: dict[str, Any], path: str) -> None:
    slug = config.get("webhook_slug")
    if slug in (None, ""):
        return
    if not isinstance(slug, str) or not re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", slug):
        message = "must be 1 to 128 letters, digits and . _ ~ -, for it stands in a URL"
        raise BadRequestError(f"{path}: {message}", [Violation(path, message)])


async def _change(
    engine: Engine, name: str, desired: dict[str, Any] | None, once: Idempotency | None
) -> CommunityChange:
    """Have a change applied after those before it; gives what came of it."""
    change = CommunityChange(
        community=name,
        desired_encrypted=engine.secrets.encrypt(desired) if desired is not None else None,
    )
    async with engine.database.read() as session:
        if desired is None:
            await _get(session, name)
        present = len(await communities.instances_of(session, name))
    accepted = await accept(engine, change, change.id, once)
    async with answering("change"):
        done = await _read_change(engine, accepted)
        if done.status not in ENDED:
            wanted = len(desired["plugins"]) if desired else 0
            # Each plugin that comes or goes may be called once.
            done = await _apply(engine, done, calls=wanted + present)
        if done.error is not None:
            raise RecordedError(done.error)
        return done


async def _apply(engine: Engine, change: CommunityChange, calls: int) -> CommunityChange:
    """Have a change applied, unless nobody begins with it; gives what came of it."""

    async def withdraw(session: AsyncSession, error: EngineError) -> bool:
        if not await communities.withdraw_change(
            engine.database, session, change.id, describe(error)
        ):
            return False
        await invocations.forget_key(session, change.id)
        return True

    seconds = engine.settings.invocation_timeout_seconds * max(1, calls) + CHANGE_MARGIN_SECONDS
    applied = engine.temporal.communities.apply_change(
        change.community, change.id, timedelta(seconds=seconds)
    )
    unknown = OutcomeUnknownError(
        "The change was begun, and there is no result in time; it may still be applied. "
        "The same request with the same Idempotency-Key tells what came of it"
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
        plugins=[
            {"name": instance.plugin, "config": _masked(instance)}
            for instance in await instances_in(engine, session, name)
        ],
    )


def _masked(instance: Instance) -> dict[str, Any]:
    """A config without its secrets; of a plugin that is gone, all of it may be secret."""
    declaration = Registry.plugins.get(instance.plugin)
    hidden = secret_properties(declaration.config_schema) if declaration else instance.config
    return mask(instance.config, hidden)


async def _get(session: AsyncSession, name: str) -> Community:
    row = await communities.get_community(session, name)
    if row is None:
        raise ResourceNotFoundError(f"Community '{name:.128}' not found")
    return row
