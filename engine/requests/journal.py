"""The webhook journal: what platforms sent is read, and handled again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from engine.errors import ConflictError, ResourceNotFoundError, UnavailableError
from engine.requests.hand_over import send_pending
from engine.resources import Engine
from engine.store import communities, webhooks
from engine.store.webhooks import FAILED, HANDLED, RECEIVED
from engine.store.webhooks import ReceivedWebhook as ReceivedWebhook

# What of a time range may be handled again.
REPLAYED = (FAILED, HANDLED)


async def list_webhooks(
    engine: Engine,
    *,
    community: str | None,
    plugin: str | None,
    instance: str | None,
    status: str | None,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[ReceivedWebhook], str | None]:
    """List webhooks, the newest first.

    Args:
        engine: What is open.
        community: Only this community's.
        plugin: Only this plugin's.
        instance: Only those of plugin instances of this name.
        status: Only those with this status.
        cursor: Where an earlier page ended.
        limit: Most rows on the page.

    Returns:
        The page, and the cursor of the next one, None at the end.

    Raises:
        BadRequestError: The cursor is none of ours.
    """
    async with engine.database.read() as session:
        return await webhooks.list_webhooks(
            session,
            community=community,
            plugin=plugin,
            instance=instance,
            status=status,
            cursor=cursor,
            limit=limit,
        )


async def read(engine: Engine, webhook_id: str) -> ReceivedWebhook:
    """Read a webhook.

    Args:
        engine: What is open.
        webhook_id: Its id.

    Returns:
        The webhook.

    Raises:
        ResourceNotFoundError: There is none.
    """
    async with engine.database.read() as session:
        row = await webhooks.get_webhook(session, webhook_id)
    if row is None:
        raise ResourceNotFoundError(f"No webhook {webhook_id:.64}")
    return row


async def replay_range(
    engine: Engine, *, since: datetime, until: datetime, status: str, community: str | None
) -> int:
    """Have the webhooks of a time range handled again.

    Args:
        engine: What is open.
        since: Webhooks received at this moment or later.
        until: Webhooks received before this moment.
        status: One of ``REPLAYED``.
        community: Only this community's.

    Returns:
        How many there are.
    """
    async with engine.database.write() as session:
        count = await webhooks.replay_range(
            session, since=since, until=until, status=status, community=community
        )
    if count:
        await send_pending(engine)
    return count


async def replay(engine: Engine, webhook_id: str) -> ReceivedWebhook:
    """Have a webhook handled again; a try that is under way is let be.

    Args:
        engine: What is open.
        webhook_id: Its id.

    Returns:
        The webhook, as it stands then.

    Raises:
        ResourceNotFoundError: There is none.
        ConflictError: Its plugin instance is not as it was.
        UnavailableError: Temporal does not answer, and a try was under way.
    """
    row = await read(engine, webhook_id)
    async with engine.database.write() as session:
        instance = await communities.find_instance(session, row.community, row.instance)
        if instance is None or instance.id != row.instance_id:
            raise ConflictError(
                f"Plugin '{row.plugin}' of community '{row.community}' is not as it was: "
                "disabled, or enabled anew, since it received this webhook"
            )
        stored = await session.get_one(ReceivedWebhook, webhook_id, with_for_update=True)
        if queued := stored.status != RECEIVED:
            stored.replay()
    try:
        await engine.temporal.background.replay_webhook(
            row.community, row.plugin, row.instance, row.id
        )
    except UnavailableError:
        if not queued:
            raise
        # It is stored as to be done: it is done as soon as Temporal answers.
        engine.schedules.reconcile_when_reachable()
    return await read(engine, webhook_id)
