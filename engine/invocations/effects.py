"""What a call of plugin code did: stored in one transaction, then handed to Temporal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import PluginCodeError, UnavailableError
from engine.invocations.children import reload_ended, start_children
from engine.invocations.loading import LoadedPlugin
from engine.resources import Engine
from engine.sdk.children import NewChild
from engine.sdk.plugin import Event
from engine.sdk.state import StateChanges
from engine.store import communities, outbox, processes
from engine.store.communities import PluginInstance
from engine.store.invocations import Invocation
from engine.store.processes import GovernanceProcess

log = structlog.get_logger()

PARENT_ENDED = "parent_ended"
_DELIVERIES = UUID("0f6f1a3e-5a1c-4d0e-9a57-3b1f0c2d7e64")


@dataclass(frozen=True)
class FollowUp:
    """What is handed to Temporal once a call is stored; a repeat of the call finds it in the mark.

    Attributes:
        items: Ids of the outbox items that are to be delivered.
        started: Ids of the processes that it started.
        ended: Ids of the processes that it ended beside its own.
    """

    items: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def __add__(self, other: FollowUp) -> FollowUp:
        """This, and another one after it."""
        return FollowUp(
            self.items + other.items, self.started + other.started, self.ended + other.ended
        )

    @classmethod
    def of(cls, mark: Invocation) -> FollowUp:
        """Read what a call left."""
        kept = mark.result or {}
        return cls(*(kept.get(each.name, []) for each in fields(cls)))

    def as_result(self) -> dict[str, Any]:
        """What the mark keeps of it."""
        return {"items": self.items} | {key: ids for key, ids in asdict(self).items() if ids}


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
    """An event for the community's driver."""

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


@dataclass(frozen=True)
class StartProcess:
    """A process that another one starts."""

    parent: GovernanceProcess
    child: NewChild
    most: int

    async def store(self, session: AsyncSession) -> None:
        """Store it; PluginCodeError if it has no instance, or its parent too many children."""
        parent, child = self.parent, self.child
        if await processes.unfinished_children(session, parent.id) >= self.most:
            raise PluginCodeError(
                f"{self._what}: a process may have {self.most} children that have not ended, and "
                f"'{parent.name}' has so many"
            )
        instance = await self._instance(session)
        own = instance.id == parent.instance_id
        parent.children += 1
        session.add(
            GovernanceProcess(
                id=child.id,
                community=parent.community,
                plugin=child.plugin,
                slug=child.slug,
                instance_id=instance.id,
                instance=instance.instance,
                community_platform_id=(
                    parent.community_platform_id if own else instance.community_platform_id
                ),
                parameters=child.parameters,
                parent_id=parent.id,
                level=parent.level + 1,
                ends_with_parent=child.ends_with_parent,
            )
        )
        await session.flush()
        log.info("process started by a process", process=child.id, parent=parent.id)

    @property
    def _what(self) -> str:
        return f"start_process('{self.child.name}')"

    async def _instance(self, session: AsyncSession) -> PluginInstance:
        """The plugin instance that runs it; no change of the community takes it away meanwhile."""
        parent, child = self.parent, self.child
        of_plugin = f"of the plugin '{child.plugin}'"
        where = f"for community '{parent.community}'"
        found = await communities.instances_of_plugin_in(session, parent.community, child.plugin)
        if not found:
            raise PluginCodeError(
                f"{self._what}: the plugin '{child.plugin}' is not enabled {where}"
            )
        names = ", ".join(one.instance for one in found)
        if child.instance is not None:
            found = [one for one in found if one.instance == child.instance]
        elif child.plugin == parent.plugin:
            found = [one for one in found if one.id == parent.instance_id]
        if not found:
            raise PluginCodeError(
                f"{self._what}: there is no instance '{child.instance or parent.instance}' "
                f"{of_plugin} {where}; there are: {names}"
            )
        if len(found) > 1:
            raise PluginCodeError(
                f"{self._what}: several instances {of_plugin} are enabled {where} ({names}): "
                "name one as `instance`"
            )
        locked = await communities.hold_instance(session, found[0].id)
        if locked is None:
            raise PluginCodeError(f"{self._what}: the plugin '{child.plugin}' was disabled {where}")
        return locked


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


async def start_processes(
    session: AsyncSession, parent: GovernanceProcess, children: Sequence[NewChild], most: int
) -> FollowUp:
    """Store the processes that a call of a process starts; PluginCodeError if one cannot be."""
    for child in children:
        await StartProcess(parent, child, most).store(session)
    return FollowUp(started=[child.id for child in children])


async def end_children(session: AsyncSession, process: GovernanceProcess) -> FollowUp:
    """End the processes that end with one that has ended, and those that end with them.

    Args:
        session: A session in the transaction that ends it.
        process: The one that has ended.

    Returns:
        What is to be delivered, and which processes were ended.
    """
    items, ended, ending = list[str](), list[str](), [process]
    while ending:
        parent = ending.pop()
        if not parent.children:
            continue
        for child in await processes.lock_ending_children(session, parent.id):
            child.complete(
                {
                    "code": PARENT_ENDED,
                    "message": f"The process '{parent.name}' that started it has ended",
                }
            )
            items += await append_record(session, child)
            ended.append(child.id)
            ending.append(child)
    return FollowUp(items, ended=ended)


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


async def hand_over(engine: Engine, community: str, follow_up: FollowUp) -> None:
    """Hand to Temporal what a stored call left: now, or as soon as it answers.

    Args:
        engine: What all activities share.
        community: The community's name.
        follow_up: What is left to do; to do it twice changes nothing.
    """
    await start_deliveries(engine, community, follow_up.items)
    try:
        await start_children(engine, follow_up.started)
        await reload_ended(engine, follow_up.ended)
    except UnavailableError:
        # The call is marked as done, so no further try of it would come here.
        engine.schedules.reconcile_when_reachable()


async def start_deliveries(engine: Engine, community: str, items: list[str]) -> None:
    """Have stored items delivered: now, or as soon as Temporal answers."""
    try:
        for item in items:
            await engine.temporal.background.deliver(community, item)
    except UnavailableError:
        # The call is marked as done, so no further try of it would come here.
        engine.schedules.reconcile_when_reachable()
