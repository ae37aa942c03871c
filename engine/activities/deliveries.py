"""Sends outbox items to drivers; Temporal's retries do the waiting."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from standardwebhooks import Webhook
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from engine.connections import AsyncCheckedTransport
from engine.errors import OutboundRefusedError
from engine.invocations.heartbeat import with_heartbeat
from engine.messages import Deliver
from engine.resources import Engine, delivery_secrets
from engine.retry_after import retry_after
from engine.store import endpoints, outbox
from engine.store.database import utc_now
from engine.store.endpoints import Endpoint
from engine.store.outbox import DELIVERED, FAILED, PENDING, OutboxItem

log = structlog.get_logger()

GONE = 410
JITTER = 0.2
DISABLED = "the endpoint is disabled: it answered 410"


class DeliveryActivities:
    """The activity that sends an outbox item.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # A host that does not answer takes its own turns only, not those of others.
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(engine.settings.max_tries_per_host)
        )
        self._client = httpx.AsyncClient(
            transport=AsyncCheckedTransport(engine.outbound),
            timeout=engine.settings.delivery_timeout_seconds,
            follow_redirects=False,
            headers={"User-Agent": "MetagovEngine"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @activity.defn(name="deliver")
    async def deliver(self, delivery: Deliver) -> None:
        """Send an outbox item.

        Args:
            delivery: Which item.

        Raises:
            ApplicationError: The driver did not take it; it is to be tried again.
        """
        await with_heartbeat(self._deliver(delivery.item_id))

    async def _deliver(self, item_id: str) -> None:
        async def find(session: AsyncSession) -> tuple[OutboxItem | None, Sequence[Endpoint]]:
            item = await outbox.get_item(session, item_id)
            url = item.url if item is not None else None
            return item, await endpoints.endpoints_above(session, url) if url else []

        item, covering = await self._engine.database.recall(find)
        if item is None or item.status != PENDING or item.url is None:
            return
        url = item.url
        if any(endpoint.url == url and endpoint.disabled_at for endpoint in covering):
            await self._note(item, None, DISABLED, over=True)
            return
        turns = self._turns[urlsplit(url).netloc]
        if turns.locked():
            raise _try_again("its host is busy", self._after(utc_now() - item.queued_at))
        async with turns:
            secrets = delivery_secrets(self._engine, covering)
            status, error, asked_for = await self._post(item, url, secrets)
        waited = utc_now() - item.queued_at
        days = timedelta(days=self._engine.settings.delivery_retry_days)
        over = status == GONE or waited > days
        await self._note(item, status, error, over=over)
        if error is not None and not over:
            raise _try_again("not delivered", max(self._after(waited), asked_for))

    async def _note(
        self, item: OutboxItem, status: int | None, error: str | None, over: bool
    ) -> None:
        """Store how a try went; it is not lost by a database that is out for a while."""

        async def note(session: AsyncSession) -> None:
            stored = await outbox.get_item(session, item.id)
            if stored is None or stored.status != PENDING:
                return
            stored.attempted(status=status, error=error)
            if error is None or over:
                stored.finish(FAILED if error else DELIVERED)
            if status == GONE and item.url is not None:
                await endpoints.disable_address(session, item.url)

        await self._engine.database.persist(note)
        facts = {"delivery": item.id, "community": item.community, "status": status}
        if error is None:
            log.info("delivered", **facts)
        elif over:
            log.error("delivery failed for good", error=error, **facts)
        else:
            log.warning("delivery failed", error=error, **facts)

    def _after(self, waited: timedelta) -> timedelta:
        """When to try again: after as long as it waited so far, so that the pauses double."""
        settings = self._engine.settings
        seconds = min(
            max(waited.total_seconds(), settings.delivery_first_retry_seconds),
            settings.delivery_longest_retry_seconds,
        )
        return timedelta(seconds=seconds * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

    async def _post(
        self, item: OutboxItem, url: str, secrets: list[str]
    ) -> tuple[int | None, str | None, timedelta]:
        """Send once; gives the HTTP status, what went wrong, and what Retry-After asks for."""
        now = datetime.now(UTC)
        body = json.dumps(item.body, separators=(",", ":"))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": item.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(
                Webhook(secret).sign(item.id, now, body) for secret in secrets
            ),
            "metagov-community": item.community,
            "metagov-position": str(item.position),
            "metagov-epoch": str(item.epoch),
        }
        none = timedelta(0)
        try:
            async with (
                # The client's own time-outs are for each step; this one is for all of them.
                asyncio.timeout(self._engine.settings.delivery_timeout_seconds),
                self._client.stream("POST", url, content=body, headers=headers) as response,
            ):
                status = response.status_code
                asked_for = retry_after(response.headers.get("Retry-After"), now)
        except TimeoutError:
            return None, "no answer in time", none
        except OutboundRefusedError as error:
            return None, error.detail, none
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return None, f"{type(error).__name__}: {error}", none
        if 200 <= status < 300:
            return status, None, none
        return status, f"HTTP {status}", timedelta(seconds=asked_for or 0)


def _try_again(reason: str, delay: timedelta) -> ApplicationError:
    return ApplicationError(
        reason,
        type="not_delivered",
        category=ApplicationErrorCategory.BENIGN,
        next_retry_delay=delay,
    )
