"""What a call of plugin code did: stored at once, then delivered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from uuid import UUID, uuid5

from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import UnavailableError
from engine.invocations.loading import LoadedPlugin
from engine.resources import Engine
from engine.store import communities, outbox
from engine.store.processes import GovernanceProcess

_DELIVERIES = UUID("0f6f1a3e-5a1c-4d0e-9a57-3b1f0c2d7e64")


async def store_effects(engine: Engine, session: AsyncSession, loaded: LoadedPlugin) -> list[str]:
    """Store what a call did to its plugin instance: state changes and events.

    Args:
        engine: What all activities share.
        session: A session in the transaction that marks the call as done.
        loaded: The plugin instance after the call.

    Returns:
        Ids of the outbox items that are to be delivered.

    Raises:
        StateConflictError: Another call changed what this one relied on.
    """
    changes = loaded.context.state.changes()
    await communities.store_state(
        session, loaded.instance_id, changes.values, changes.increments, changes.expected
    )
    receiver = engine.settings.driver_event_receiver_url
    items = []
    for event in loaded.context.events:
        item = await outbox.append(
            session,
            community=loaded.community,
            kind=outbox.EVENT,
            body={
                "community": loaded.community,
                "source": loaded.declaration.name,
                "event_type": event.event_type,
                "timestamp": event.timestamp,
                "data": event.data,
                "initiator": event.initiator,
            },
            url=receiver,
        )
        items.append(item)
    return [item.id for item in items if item.url]


async def append_record(session: AsyncSession, process: GovernanceProcess) -> list[str]:
    """Put a process' record into the outbox, for its callback URL.

    Args:
        session: A session in the transaction that changes the process.
        process: The process after the change.

    Returns:
        Ids of the outbox items that are to be delivered.
    """
    item = await outbox.append(
        session,
        community=process.community,
        kind=outbox.PROCESS,
        body=asdict(process.record()),
        url=process.callback_url,
        item_id=record_item_id(process.id, process.updated_at),
    )
    return [item.id] if item.url else []


def record_item_id(process_id: str, updated_at: datetime) -> str:
    """The id under which a change of a process is told, also by a database that was restored.

    Args:
        process_id: The process.
        updated_at: When it changed.

    Returns:
        The same id for the same change.
    """
    return f"msg_{uuid5(_DELIVERIES, f'{process_id} {updated_at.isoformat()}')}"


async def start_deliveries(engine: Engine, community: str, items: Iterable[str]) -> None:
    """Have stored items delivered: now, or as soon as Temporal answers.

    Args:
        engine: What all activities share.
        community: The community's name.
        items: Ids of outbox items.
    """
    try:
        for item in items:
            await engine.temporal.background.deliver(community, item)
    except UnavailableError:
        # The call is marked as done, so no further try of it would come here.
        engine.schedules.reconcile_when_reachable()
