"""The public door: find the plugin instance, verify, store, and then have it handled."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from sqlalchemy import ColumnElement
from sqlalchemy.exc import DBAPIError, IntegrityError

from api.dependencies import EngineDependency, read_body
from api.hand_over import StoredWebhook
from api.problems import problem_responses
from engine.errors import (
    InvocationError,
    ResourceNotFoundError,
    SignatureError,
    is_storable,
)
from engine.invocations.loading import LoadedPlugin, build_plugin
from engine.invocations.plugin_code import call
from engine.invocations.threads import run_in_thread
from engine.resources import Engine
from engine.sdk.plugin import Community, Plugin
from engine.sdk.registry import PluginDeclaration, Registry
from engine.sdk.webhook import WebhookRequest, WebhookResponse
from engine.store import communities, webhooks
from engine.store.database import new_id, utc_now
from engine.store.instance_cache import KnownInstance
from engine.store.webhooks import RECEIVED, ReceivedWebhook, without_secrets

log = structlog.get_logger()


class _ChangedMeanwhileError(Exception):
    """The plugin instance is not as it was when it was read."""


router = APIRouter(prefix="/api/hooks", tags=["webhooks"])

LONGEST_DELIVERY_ID = 255
NOT_FOUND = "There is nothing at this address"
RESPONSES = problem_responses(401, 404, 408, 413, 503)

# The answer, and the webhook that is to be handled, if there is one.
Taken = tuple[Response, StoredWebhook | None]


@router.post("/{plugin}", summary="Receive a webhook of a whole platform", responses=RESPONSES)
async def receive_for_platform(plugin: str, request: Request, engine: EngineDependency) -> Response:
    """One URL for all communities: the plugin says which instances a request is for."""
    declaration = Registry.plugins.get(plugin)
    route = getattr(declaration.cls, "webhook_community", None) if declaration else None
    if declaration is None or route is None or not declaration.uses_webhooks:
        raise ResourceNotFoundError(NOT_FOUND)
    webhook = await _read(request, engine, declaration)
    wanted = await _wanted(engine, plugin, route, webhook)
    async with engine.database.read() as session:
        candidates = await communities.instances_of_plugin(session, plugin)
    found = [
        instance
        for instance in map(engine.instances.opened, candidates)
        if wanted and all(instance.config.get(key) == value for key, value in wanted.items())
    ]
    if not found:
        raise ResourceNotFoundError(NOT_FOUND)
    taken = [await _accept(engine, declaration, instance, webhook, slug=None) for instance in found]
    return await _answer(request, taken)


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


@router.post(
    "/{community}/{plugin}",
    summary="Receive a webhook of a community's plugin",
    responses=RESPONSES,
)
async def receive(
    community: str, plugin: str, request: Request, engine: EngineDependency
) -> Response:
    """For plugins whose config sets no ``webhook_slug``."""
    return await _receive(engine, request, community, plugin, "")


@router.post(
    "/{community}/{plugin}/{webhook_slug}",
    summary="Receive a webhook of a community's plugin, at a hard-to-guess address",
    responses=RESPONSES,
)
async def receive_at_slug(
    community: str, plugin: str, webhook_slug: str, request: Request, engine: EngineDependency
) -> Response:
    """For plugins whose config sets this ``webhook_slug``."""
    return await _receive(engine, request, community, plugin, webhook_slug)


async def _receive(
    engine: Engine, request: Request, community: str, plugin: str, slug: str
) -> Response:
    declaration = Registry.plugins.get(plugin)
    if declaration is None or not declaration.uses_webhooks:
        raise ResourceNotFoundError(NOT_FOUND)
    instance = await engine.instances.find(community, plugin)
    if not _is_at(instance, slug) or _answers(declaration):
        # What was read before serves only what is stored, which asks whether it is unchanged.
        instance = await engine.instances.read(community, plugin)
    if instance is None or not _is_at(instance, slug):
        raise ResourceNotFoundError(NOT_FOUND)
    webhook = await _read(request, engine, declaration)
    return await _answer(request, [await _accept(engine, declaration, instance, webhook, slug)])


async def _answer(request: Request, taken: list[Taken]) -> Response:
    """Have what was stored handled, without keeping other webhooks waiting; gives the answer."""
    request.state.turn.give_back()
    await request.state.hand_over.hand_over([stored for _, stored in taken if stored is not None])
    return taken[-1][0]


def _is_at(instance: KnownInstance | None, slug: str) -> bool:
    """Whether a plugin instance receives webhooks at an address that ends so."""
    if instance is None:
        return False
    expected = str(instance.config.get("webhook_slug") or "")
    return hmac.compare_digest(expected.encode(), slug.encode("utf-8", "surrogateescape"))


def _answers(declaration: PluginDeclaration) -> bool:
    return declaration.cls.answer_webhook is not Plugin.answer_webhook


async def _read(request: Request, engine: Engine, declaration: PluginDeclaration) -> WebhookRequest:
    most = declaration.cls.webhook_max_bytes or engine.settings.request_max_bytes
    return WebhookRequest(
        body=await read_body(request, most),
        headers=dict(request.headers),
        query=dict(request.query_params),
        path=request.url.path,
    )


async def _accept(
    engine: Engine,
    declaration: PluginDeclaration,
    instance: KnownInstance,
    webhook: WebhookRequest,
    slug: str | None,
) -> Taken:
    """Verify, answer at once where the plugin does so, else store."""
    config = deepcopy(instance.config)
    loaded = build_plugin(
        engine,
        instance_id=instance.id,
        plugin=instance.plugin,
        community=Community(instance.community),
        config=config,
        state={},
        key=new_id(),
    )
    if not await _verified(loaded, config, webhook):
        current = await engine.instances.read(instance.community, instance.plugin)
        if current != instance:
            return await _accept_now(engine, declaration, current, webhook, slug)
        log.warning("webhook refused", community=instance.community, plugin=instance.plugin)
        raise SignatureError("The webhook's signature does not verify")
    if _answers(declaration):
        answer = await call(
            loaded,
            f"answer_webhook of '{declaration.name}'",
            loaded.plugin.answer_webhook,
            webhook,
        )
        if isinstance(answer, WebhookResponse):
            return _as_response(answer), None
    row = ReceivedWebhook(
        id=new_id(),
        instance_id=instance.id,
        community=instance.community,
        plugin=instance.plugin,
        delivery_id=await _delivery_id(loaded, webhook),
        path=webhook.path,
        query=dict(webhook.query),
        headers=without_secrets(webhook.headers),
        body=webhook.body,
    )
    try:
        webhook_id = await _store_once(engine, row, instance.unchanged())
    except _ChangedMeanwhileError:
        current = await engine.instances.read(instance.community, instance.plugin)
        return await _accept_now(engine, declaration, current, webhook, slug)
    stored = StoredWebhook(instance.community, instance.plugin, webhook_id) if webhook_id else None
    return Response(status_code=200), stored


async def _accept_now(
    engine: Engine,
    declaration: PluginDeclaration,
    current: KnownInstance | None,
    webhook: WebhookRequest,
    slug: str | None,
) -> Taken:
    """Take a webhook whose plugin instance is not as it was read."""
    if current is None or (slug is not None and not _is_at(current, slug)):
        raise ResourceNotFoundError(NOT_FOUND)
    return await _accept(engine, declaration, current, webhook, slug)


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


def _as_response(answer: WebhookResponse) -> Response:
    if isinstance(answer.body, dict):
        return Response(
            json.dumps(answer.body),
            status_code=answer.status,
            media_type=answer.content_type or "application/json",
        )
    return Response(
        answer.body, status_code=answer.status, media_type=answer.content_type or "text/plain"
    )
