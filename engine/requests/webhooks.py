"""Webhooks: find the plugin instance, verify, store, and then have them handled."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import ColumnElement
from sqlalchemy.exc import DBAPIError, IntegrityError

from engine.errors import InvocationError, ResourceNotFoundError, SignatureError, is_storable
from engine.invocations.loading import LoadedPlugin, build_plugin
from engine.invocations.plugin_code import call
from engine.invocations.threads import run_in_thread
from engine.requests.hand_over import StoredWebhook
from engine.requests.instances import Instance, instance_at, instances_of_plugin
from engine.resources import Engine
from engine.sdk.plugin import Community, Plugin
from engine.sdk.registry import PluginDeclaration, Registry
from engine.sdk.webhook import WebhookRequest, WebhookResponse
from engine.store import webhooks
from engine.store.database import new_id, utc_now
from engine.store.webhooks import RECEIVED, ReceivedWebhook, without_secrets

log = structlog.get_logger()

LONGEST_DELIVERY_ID = 255
NOT_FOUND = "There is nothing at this address"

# Reads a webhook of so many bytes at most.
Read = Callable[[int], Awaitable[WebhookRequest]]


@dataclass(frozen=True)
class Taken:
    """A webhook that was taken.

    Attributes:
        answer: What its platform is answered; None: that it was taken.
        to_handle: The stored webhook, unless it needs no handling.
    """

    answer: WebhookResponse | None = None
    to_handle: StoredWebhook | None = None


class _ChangedMeanwhileError(Exception):
    """The plugin instance is not as it was when it was read."""


async def receive(engine: Engine, community: str, name: str, slug: str, read: Read) -> Taken:
    """Take a webhook of a plugin instance of a community.

    Args:
        engine: What is open.
        community: The community's name.
        name: The instance's name.
        slug: The last part of its address; empty if there is none.
        read: Reads the webhook, of so many bytes at most.

    Returns:
        What was taken.

    Raises:
        ResourceNotFoundError: No plugin instance receives at this address.
        SignatureError: It does not verify.
    """
    webhook: WebhookRequest | None = None
    while True:
        instance = await instance_at(engine, community, name)
        if instance is None or not _is_at(instance, slug):
            raise ResourceNotFoundError(NOT_FOUND)
        plugin = _receiving(instance.plugin)
        webhook = webhook or await read(_most_bytes(engine, plugin))
        with suppress(_ChangedMeanwhileError):
            return await _take(engine, plugin, instance, webhook)


async def receive_for_platform(engine: Engine, name: str, read: Read) -> list[Taken]:
    """Take a webhook of a whole platform, for the plugin instances that it concerns.

    Args:
        engine: What is open.
        name: The name of the plugin, which says which instances those are.
        read: Reads the webhook, of so many bytes at most.

    Returns:
        What was taken, for each instance.

    Raises:
        ResourceNotFoundError: It concerns none.
        SignatureError: It does not verify.
    """
    plugin = _receiving(name)
    route = getattr(plugin.cls, "webhook_community", None)
    if route is None:
        raise ResourceNotFoundError(NOT_FOUND)
    webhook = await read(_most_bytes(engine, plugin))
    wanted = await _wanted(engine, name, route, webhook)
    while True:
        concerned = [
            instance
            for instance in await instances_of_plugin(engine, name)
            if wanted and all(instance.config.get(key) == value for key, value in wanted.items())
        ]
        if not concerned:
            raise ResourceNotFoundError(NOT_FOUND)
        with suppress(_ChangedMeanwhileError):
            return [await _take(engine, plugin, one, webhook) for one in concerned]


async def _wanted(
    engine: Engine,
    plugin: str,
    route: Callable[[WebhookRequest], Mapping[str, Any] | None],
    webhook: WebhookRequest,
) -> dict[str, Any]:
    """What the config holds of the instances that a platform's webhook is for."""
    try:
        async with asyncio.timeout(engine.settings.invocation_timeout_seconds):
            wanted: dict[str, Any] = await run_in_thread(
                lambda: dict(route(webhook) or {}), name=f"webhook_community of '{plugin}'"
            )
            return wanted
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        log.warning("webhook not routed", plugin=plugin, reason=type(error).__name__)
        raise ResourceNotFoundError(NOT_FOUND) from None


def _receiving(name: str) -> PluginDeclaration:
    plugin = Registry.plugins.get(name)
    if plugin is None or not plugin.uses_webhooks:
        raise ResourceNotFoundError(NOT_FOUND)
    return plugin


def _most_bytes(engine: Engine, plugin: PluginDeclaration) -> int:
    return plugin.cls.webhook_max_bytes or engine.settings.request_max_bytes


def _is_at(instance: Instance, slug: str) -> bool:
    """Whether a plugin instance receives webhooks at an address that ends so."""
    expected = str(instance.config.get("webhook_slug") or "")
    return hmac.compare_digest(expected.encode(), slug.encode("utf-8", "surrogateescape"))


async def _take(
    engine: Engine, plugin: PluginDeclaration, instance: Instance, webhook: WebhookRequest
) -> Taken:
    """Verify, answer at once where the plugin does so, else store."""
    config = deepcopy(instance.config)
    loaded = build_plugin(
        engine,
        instance_id=instance.id,
        plugin=instance.plugin,
        instance=instance.name,
        community=Community(instance.community),
        config=config,
        state={},
        key=new_id(),
    )
    if not await _verified(loaded, config, webhook):
        log.warning("webhook refused", community=instance.community, instance=instance.name)
        raise SignatureError("The webhook's signature does not verify")
    if plugin.cls.answer_webhook is not Plugin.answer_webhook:
        answer = await call(
            loaded, f"answer_webhook of '{plugin.name}'", loaded.plugin.answer_webhook, webhook
        )
        if isinstance(answer, WebhookResponse):
            return Taken(answer=answer)
    row = ReceivedWebhook(
        instance_id=instance.id,
        community=instance.community,
        plugin=instance.plugin,
        instance=instance.name,
        delivery_id=await _delivery_id(loaded, webhook),
        path=webhook.path,
        query=dict(webhook.query),
        headers=without_secrets(webhook.headers),
        body=webhook.body,
    )
    webhook_id = await _store_once(engine, row, instance.unchanged())
    if webhook_id is None:
        return Taken()
    return Taken(
        to_handle=StoredWebhook(instance.community, instance.plugin, instance.name, webhook_id)
    )


async def _verified(loaded: LoadedPlugin, config: dict[str, Any], webhook: WebhookRequest) -> bool:
    own_method = getattr(loaded.plugin, "verify_webhook", None)
    if own_method is not None:
        try:
            verdict = await call(
                loaded, f"verify_webhook of '{loaded.declaration.name}'", own_method, webhook
            )
        except InvocationError:
            return False
        return verdict is True
    scheme = loaded.declaration.cls.webhook_signature
    return scheme is None or scheme.verify(webhook, config, utc_now())


async def _delivery_id(loaded: LoadedPlugin, webhook: WebhookRequest) -> str | None:
    """The platform's own id of a webhook, if it can be read."""
    try:
        found = await call(
            loaded,
            f"webhook_id of '{loaded.declaration.name}'",
            loaded.plugin.webhook_id,
            webhook,
        )
    except InvocationError:
        return None
    if not isinstance(found, str) or not is_storable(found):
        return None
    return found if 0 < len(found) <= LONGEST_DELIVERY_ID else None


async def _store_once(
    engine: Engine, row: ReceivedWebhook, unchanged: ColumnElement[bool]
) -> str | None:
    """Store a webhook unless it came before; gives the id of the one to handle, if there is one."""
    try:
        accept = webhooks.insert_in_order(engine.database, row, unchanged)
        if not await engine.database.execute(accept):
            raise _ChangedMeanwhileError
    except DBAPIError as error:
        if error.connection_invalidated:
            return await _stored_after_all(engine, row, error)
        if not isinstance(error, IntegrityError) or row.delivery_id is None:
            raise
        async with engine.database.read() as session:
            first = await webhooks.find_delivery(session, row.instance_id, row.delivery_id)
        if first is None:
            raise
        return first.id if first.status == RECEIVED else None
    return row.id


async def _stored_after_all(engine: Engine, row: ReceivedWebhook, error: DBAPIError) -> str:
    """Whether the database stored a webhook though it went away before it said so."""
    found = await engine.database.recall(lambda session: webhooks.get_webhook(session, row.id))
    if found is None:
        raise error
    return row.id
