"""Handles stored webhooks: first the plugin's receiver, then the processes that they concern."""

from __future__ import annotations

import asyncio

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity

from engine.activities.heartbeat import give_up, try_again, with_heartbeat
from engine.activities.invocation import (
    LoadedPlugin,
    call,
    hand_out,
    load_plugin,
    store_effects,
)
from engine.errors import EngineError, describe
from engine.messages import ReceiveWebhook
from engine.resources import Engine
from engine.sdk.webhook import WebhookRequest
from engine.store import invocations, processes, webhooks
from engine.store.database import utc_now
from engine.store.invocations import DONE, Invocation
from engine.store.webhooks import FAILED, HANDLED, RECEIVED, ReceivedWebhook

log = structlog.get_logger()

MOST_TRIES = 8
MOST_SIGNALS_AT_ONCE = 20


class WebhookActivities:
    """The activity that handles a stored webhook.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="receive_webhook")
    async def receive_webhook(self, webhook: ReceiveWebhook) -> None:
        """Hand a stored webhook to the plugin's receiver and to the processes that it concerns.

        Args:
            webhook: Which webhook.

        Raises:
            ApplicationError: The receiver failed; it is tried again, some times.
        """
        await with_heartbeat(self._handle(webhook.webhook_id))

    async def _handle(self, webhook_id: str) -> None:
        async with self._engine.database.read() as session:
            found = await webhooks.find_with_instance(session, webhook_id)
            if found is None or found[0].status != RECEIVED:
                return
            row, enabled = found
            mark = f"webhook:{row.reference}"
            loaded = await load_plugin(self._engine, session, enabled, mark) if enabled else None
        if loaded is None:
            await self._finish(row, FAILED, {"detail": "the plugin was disabled meanwhile"})
            return
        request = WebhookRequest(body=row.body, headers=row.headers, query=row.query, path=row.path)
        failure: EngineError | None = None
        if loaded.declaration.receiver is not None:
            try:
                await self._receive(loaded, row, request, mark)
            except EngineError as error:
                failure = error
        # A receiver that fails must not keep the processes waiting.
        concerned = await self._tell_processes(loaded, row, request)
        if failure is None:
            await self._finish(row, HANDLED, None)
            log.info(
                "webhook handled",
                webhook=row.id,
                community=row.community,
                plugin=row.plugin,
                processes=concerned,
            )
            return
        log.warning("webhook receiver failed", webhook=row.id, plugin=row.plugin, kind=failure.kind)
        if activity.info().attempt < MOST_TRIES:
            await self._finish(row, RECEIVED, describe(failure))
            raise try_again(failure, getattr(failure, "retry_after_seconds", None))
        await self._finish(row, FAILED, describe(failure))
        raise give_up(failure)

    async def _receive(
        self, loaded: LoadedPlugin, row: ReceivedWebhook, request: WebhookRequest, mark: str
    ) -> None:
        receiver = loaded.declaration.receiver
        assert receiver is not None
        async with self._engine.database.read() as session:
            if await invocations.get_invocation(session, mark) is not None:
                return
        await call(
            loaded,
            f"the webhook receiver of '{row.plugin}'",
            getattr(loaded.plugin, receiver.method),
            request,
        )

        async def store(session: AsyncSession) -> list[str]:
            done = await invocations.get_invocation(session, mark)
            if done is not None:
                items: list[str] = (done.result or {}).get("items", [])
                return items
            items = await store_effects(self._engine, session, loaded)
            session.add(
                Invocation(
                    id=mark,
                    community=row.community,
                    instance_id=row.instance_id,
                    plugin=row.plugin,
                    target=receiver.method,
                    status=DONE,
                    result={"items": items},
                    finished_at=utc_now(),
                )
            )
            return items

        await hand_out(self._engine, row.community, await self._engine.database.persist(store))

    async def _tell_processes(
        self, loaded: LoadedPlugin, row: ReceivedWebhook, request: WebhookRequest
    ) -> int:
        slugs = [p.slug for p in loaded.declaration.processes.values() if p.receives_webhooks]
        if not slugs:
            return 0
        keys = await self._keys(loaded, request)
        async with self._engine.database.read() as session:
            concerned = await processes.concerned_by(session, row.instance_id, slugs, keys)
        if concerned:
            await self._forget_failures(row, [process_id for _, _, process_id in concerned])
        turns = asyncio.Semaphore(MOST_SIGNALS_AT_ONCE)

        async def tell(community: str, name: str, process_id: str) -> None:
            async with turns:
                await self._engine.temporal.processes.tell_of_webhook(
                    community, name, process_id, row.reference
                )

        await asyncio.gather(*(tell(*process) for process in concerned))
        return len(concerned)

    async def _forget_failures(self, row: ReceivedWebhook, process_ids: list[str]) -> None:
        """Let processes that failed to handle the webhook before its replay handle it again."""
        if activity.info().attempt > 1 or not row.replayed:
            return
        async with self._engine.database.write() as session:
            for process_id in process_ids:
                await invocations.forget_failure(session, f"{process_id}:{row.reference}")

    async def _keys(self, loaded: LoadedPlugin, request: WebhookRequest) -> list[str] | None:
        """The correlation keys that a plugin reads in a webhook; None: it may concern any."""
        reader = getattr(loaded.plugin, "webhook_key", None)
        if reader is None:
            return None
        try:
            keys = await call(
                loaded, f"the webhook_key of '{loaded.declaration.name}'", reader, request
            )
        except EngineError:
            return None
        if keys is None:
            return None
        return [keys] if isinstance(keys, str) else [str(key) for key in keys]

    async def _finish(
        self, row: ReceivedWebhook, status: str, error: dict[str, object] | None
    ) -> None:
        await self._engine.database.persist(
            lambda session: webhooks.note_try(session, row.id, status, error)
        )
