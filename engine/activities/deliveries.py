"""Sends outbox items to drivers; Temporal's retries do the waiting."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import structlog
from standardwebhooks import Webhook
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from engine.errors import OutboundRefusedError
from engine.messages import Deliver
from engine.outbound import checked_transport
from engine.resources import Engine
from engine.store import outbox
from engine.store.database import utc_now
from engine.store.outbox import DELIVERED, FAILED, PENDING, OutboxItem

log = structlog.get_logger()

GONE = 410


class DeliveryActivities:
    """The activity that sends an outbox item.

    Args:
        engine: What all activities share.
        secret: The Standard Webhooks secret that signs deliveries.
    """

    def __init__(self, engine: Engine, secret: str) -> None:
        self._engine = engine
        self._signer = Webhook(secret)
        self._client = httpx.AsyncClient(
            transport=checked_transport(engine.outbound),
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
        async with self._engine.database.read() as session:
            item = await outbox.get_item(session, delivery.item_id)
        if item is None or item.status != PENDING or item.url is None:
            return
        status, error, retry_after = await self._post(item)
        taken = status is not None and 200 <= status < 300
        days = timedelta(days=self._engine.settings.delivery_retry_days)
        over = status == GONE or utc_now() - item.created_at > days
        async with self._engine.database.write() as session:
            stored = await outbox.get_item(session, item.id)
            if stored is None:
                return
            stored.attempted(status=status, error=None if taken else error)
            if taken or over:
                stored.finish(DELIVERED if taken else FAILED)
        told = {"delivery": item.id, "community": item.community, "status": status}
        if taken:
            log.info("delivered", **told)
        elif over:
            log.error("delivery failed for good", error=error, **told)
        else:
            log.warning("delivery failed", error=error, **told)
            raise ApplicationError(
                "not delivered",
                type="not_delivered",
                category=ApplicationErrorCategory.BENIGN,
                next_retry_delay=retry_after,
            )

    async def _post(self, item: OutboxItem) -> tuple[int | None, str | None, timedelta | None]:
        """Send once; gives the HTTP status, the error and what Retry-After asks for."""
        assert item.url is not None
        now = datetime.now(UTC)
        body = json.dumps(item.body, separators=(",", ":"))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": item.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(item.id, now, body),
        }
        try:
            async with self._client.stream(
                "POST", item.url, content=body, headers=headers
            ) as response:
                status, retry_after = response.status_code, response.headers.get("Retry-After")
        except OutboundRefusedError as error:
            return None, error.detail, None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return None, f"{type(error).__name__}: {error}", None
        return status, f"HTTP {status}", _wait(retry_after, now)


def _wait(retry_after: str | None, now: datetime) -> timedelta | None:
    """Read a Retry-After header: seconds or an HTTP date (RFC 9110, 10.2.3), at most a day."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            moment = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    if not 0 < seconds < float("inf"):
        return None
    return timedelta(seconds=min(seconds, 86400))
