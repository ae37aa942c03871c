"""Handles stored webhooks: first the plugin's receiver, then the processes that they concern."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from weakref import WeakValueDictionary

import structlog
from temporalio import activity

from engine.activities.routing import route, route_up_to, turn
from engine.errors import (
    EngineError,
    UnavailableError,
    describe,
)
from engine.invocations.heartbeat import (
    again_in,
    give_up,
    try_again,
    with_heartbeat,
)
from engine.invocations.loading import LoadedPlugin, load_plugin
from engine.invocations.policy import RECEIVER
from engine.invocations.receiver import ReceiverCall
from engine.invocations.run import or_end, try_once
from engine.messages import ReceiveWebhook
from engine.resources import Engine
from engine.store import communities, invocations, processes, webhooks
from engine.store.communities import EnabledInstance
from engine.store.webhooks import FAILED, HANDLED, RECEIVED, ReceivedWebhook

log = structlog.get_logger()

# So long a webhook waits in its slot for others of its instance; then it comes back.
LONGEST_WAIT_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0


class WebhookActivities:
    """The activity that handles a stored webhook.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @activity.defn(name="receive_webhook")
    async def receive_webhook(self, webhook: ReceiveWebhook) -> None:
        """Hand a stored webhook to the plugin's receiver and to the processes that it concerns.

        Args:
            webhook: Which webhook.

        Raises:
            ApplicationError: The receiver failed; it is tried again, some times.
        """
        await with_heartbeat(self._handle_or_end(webhook.webhook_id))

    async def _handle_or_end(self, webhook_id: str) -> None:
        async def end() -> None:
            log.exception("webhook not handled", webhook=webhook_id)
            failed = describe(EngineError("The engine failed; see its log"))
            await self._engine.database.persist(
                lambda session: webhooks.note_try(session, webhook_id, FAILED, failed)
            )

        try:
            await or_end(self._handle(webhook_id), end)
        except UnavailableError as error:
            raise try_again(error) from None

    async def _handle(self, webhook_id: str) -> None:
        async with self._engine.database.read() as session:
            found = await webhooks.find_with_instance(session, webhook_id)
        if found is None or found[0].status != RECEIVED:
            return
        row, enabled = found
        enabled = enabled or await self._successor(row)
        if enabled is None:
            await self._finish(row, FAILED, {"detail": "the plugin was disabled meanwhile"})
            return
        async with self._slot(row.instance_id):
            await self._handle_in_turn(row, enabled)

    async def _successor(self, row: ReceivedWebhook) -> EnabledInstance | None:
        """The instance in the place of the one that was replaced while it accepted the webhook."""
        async with self._engine.database.write() as session:
            instance = await communities.find_instance(session, row.community, row.instance)
            if instance is None or instance.plugin != row.plugin:
                return None
            again = row.delivery_id and await webhooks.find_delivery(
                session, instance.id, row.delivery_id
            )
            if again:
                return None  # The platform has sent it again, and that one is handled.
            await webhooks.move(session, row.id, instance.id)
            row.instance_id = instance.id
            return await communities.find_enabled(session, instance.id)

    @asynccontextmanager
    async def _slot(self, instance_id: str) -> AsyncIterator[None]:
        """Limit how many webhooks of an instance are handled at once: one cannot block others."""
        slots = self._slots.get(instance_id)
        if slots is None:
            most = self._engine.settings.max_concurrent_webhook_handlers_per_instance
            slots = self._slots[instance_id] = asyncio.Semaphore(most)
        try:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                await slots.acquire()
        except TimeoutError:
            # Its slot is better used by others meanwhile.
            delay = min(2.0 ** min(activity.info().attempt, 10), LONGEST_PAUSE_SECONDS)
            raise again_in("its instance is busy", delay * random.uniform(0.5, 1)) from None  # noqa: S311
        try:
            yield
        finally:
            slots.release()

    async def _handle_in_turn(self, row: ReceivedWebhook, enabled: EnabledInstance) -> None:
        call = ReceiverCall(self._engine, row, enabled)
        failure = await try_once(self._engine, call)
        if call.plugin is None:
            assert failure is not None
            await self._route_lost(row, enabled)
            await self._finish(row, FAILED, describe(failure))
            raise give_up(failure)
        async with turn(row.instance_id):
            # A receiver that fails must not keep the processes waiting.
            concerned = await self._route(call.plugin, row)
            delay = RECEIVER.next_try(failure, row.tries + 1) if failure is not None else None
            last = delay is None
            error = describe(failure) if failure is not None else None
            await self._finish(row, _status_after(failure, last=last), error)
        if failure is None:
            log.info(
                "webhook handled",
                webhook=row.id,
                community=row.community,
                plugin=row.plugin,
                processes=concerned,
            )
            return
        log.warning("webhook receiver failed", webhook=row.id, plugin=row.plugin, kind=failure.kind)
        raise give_up(failure) if delay is None else try_again(failure, delay or None)

    async def _route_lost(self, row: ReceivedWebhook, enabled: EnabledInstance) -> None:
        """Signal the processes of a webhook whose receiver is not called any more."""
        called = replace(enabled, stopped_until=None)
        async with self._engine.database.read() as session:
            loaded = await load_plugin(self._engine, session, called, f"webhook:{row.reference}")
        loaded.isolated = True
        async with turn(row.instance_id):
            await self._route(loaded, row)

    async def _route(self, loaded: LoadedPlugin, row: ReceivedWebhook) -> int:
        """Signal the processes concerned, after those of all webhooks accepted earlier."""
        if not any(p.receives_webhooks for p in loaded.declaration.processes.values()):
            return 0
        pending = await route_up_to(self._engine, row.instance_id, row.sequence, but=row.id)
        if not pending and not row.replayed:
            return 0
        if row.replayed and not row.tries:
            await self._forget_failures(row)
        return await route(self._engine, row, loaded)

    async def _forget_failures(self, row: ReceivedWebhook) -> None:
        """Let processes that failed to handle the webhook before its replay handle it again."""
        async with self._engine.database.write() as session:
            for process in await processes.unfinished_of_instance(session, row.instance_id):
                await invocations.forget_failure(session, f"{process.id}:{row.reference}")

    async def _finish(
        self, row: ReceivedWebhook, status: str, error: dict[str, object] | None
    ) -> None:
        await self._engine.database.persist(
            lambda session: webhooks.note_try(session, row.id, status, error)
        )


def _status_after(failure: EngineError | None, *, last: bool) -> str:
    """What a webhook is after a try: handled, failed for good, or still to be handled."""
    if failure is None:
        return HANDLED
    return FAILED if last else RECEIVED
