"""What a call of plugin code did: stored in one transaction, then handed to Temporal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import UnavailableError
from engine.invocations.loading import LoadedPlugin
from engine.resources import Engine
from engine.sdk.plugin import Event
from engine.sdk.state import StateChanges
from engine.store import communities, outbox
from engine.store.invocations import Invocation
from engine.store.processes import GovernanceProcess

_DELIVERIES = UUID("0f6f1a3e-5a1c-4d0e-9a57-3b1f0c2d7e64")


@dataclass(frozen=True)
class FollowUp:
    """What is handed to Temporal once a call is stored; a repeat of the call finds it in the mark.

    Attributes:
        items: Ids of the outbox items that are to be delivered.
    """

    items: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, mark: Invocation) -> FollowUp:
        """Read what a call left."""
        return cls(items=(mark.result or {}).get("items", []))

    def as_result(self) -> dict[str, Any]:
        """What the mark keeps of it."""
        return asdict(self)


@dataclass(frozen=True)
class SetState:
    """Changes of the state that a plugin instance's calls share."""

    instance_id: str
    changes: StateChanges

    async def store(self, session: AsyncSession) -> None:
        """Store it; StateConflictError if another call changed what this one relied on."""
        changes = self.changes
        await communities.store_state(
            session, self.instance_id, changes.values, changes.increments, changes.expected
        )


@dataclass(frozen=True)
class SendEvent:
    """An event for the community's driver.

    Attributes:
        item_id: Id of the outbox item that it becomes.
        community: The community's name.
        source: The plugin's name.
        instance: The plugin instance's name.
        community_platform_id: The platform's own id of the community, if there is one.
        event: The event.
        url: Where it is delivered; None: it is only recorded.
    """

    item_id: str
    community: str
    source: str
    instance: str
    community_platform_id: str | None
    event: Event
    url: str | None

    async def store(self, session: AsyncSession) -> None:
        """Store it."""
        await outbox.append(
            session,
            community=self.community,
            kind=outbox.EVENT,
            body={
                "community": self.community,
                "source": self.source,
                "instance": self.instance,
                "community_platform_id": self.community_platform_id,
                "event_type": self.event.event_type,
                "timestamp": self.event.timestamp,
                "data": self.event.data,
                "initiator": self.event.initiator,
            },
            url=self.url,
            item_id=self.item_id,
        )


Effect = SetState | SendEvent


@dataclass(frozen=True)
class Effects:
    """What a call did to its plugin instance, in order."""

    effects: Sequence[Effect]

    def __bool__(self) -> bool:
        return bool(self.effects)

    @property
    def items(self) -> list[str]:
        """Ids of the outbox items that are to be delivered once they are stored."""
        return [e.item_id for e in self.effects if isinstance(e, SendEvent) and e.url]

    async def store(self, session: AsyncSession) -> None:
        """Store all of it.

        Args:
            session: A session in the transaction that marks the call as done.

        Raises:
            StateConflictError: Another call changed what this one relied on.
        """
        for effect in self.effects:
            await effect.store(session)


def effects_of(engine: Engine, plugin: LoadedPlugin) -> Effects:
    """Read off what a call did to its plugin instance.

    Args:
        engine: What all activities share.
        plugin: The plugin instance after the call.

    Returns:
        State changes and events, to be stored.
    """
    changes = plugin.context.state.changes()
    effects: list[Effect] = [SetState(plugin.instance_id, changes)] if changes else []
    for event in plugin.context.events:
        effects.append(
            SendEvent(
                outbox.new_item_id(),
                plugin.community,
                plugin.declaration.name,
                plugin.plugin.instance_name,
                plugin.plugin.community_platform_id,
                event,
                engine.settings.driver_event_receiver_url,
            )
        )
    return Effects(effects)


async def store_effects(engine: Engine, session: AsyncSession, plugin: LoadedPlugin) -> list[str]:
    """Store what a call did to its plugin instance.

    Args:
        engine: What all activities share.
        session: A session in the transaction that marks the call as done.
        plugin: The plugin instance after the call.

    Returns:
        Ids of the outbox items that are to be delivered.

    Raises:
        StateConflictError: Another call changed what this one relied on.
    """
    effects = effects_of(engine, plugin)
    await effects.store(session)
    return effects.items


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
    """The id of the outbox item of a change, which a database that was restored gives it again.

    Args:
        process_id: The process.
        updated_at: When it changed.

    Returns:
        The same id for the same change.
    """
    return f"msg_{uuid5(_DELIVERIES, f'{process_id} {updated_at.isoformat()}')}"


async def start_deliveries(engine: Engine, community: str, items: list[str]) -> None:
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
