"""Communities, the plugins that they have enabled, and those plugins' state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    ForeignKey,
    String,
    Text,
    UniqueConstraint,
    bindparam,
    delete,
    exists,
    update,
)
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import PluginCodeError, StateConflictError
from engine.store.accepted import BeginMark
from engine.store.database import Database, JsonText, UtcDateTime, new_id, utc_now
from engine.store.lost_calls import LostCall
from engine.store.pacing import InstancePace

NAME_MAX_LENGTH = 128
PLATFORM_ID_MAX_LENGTH = 255

ACCEPTED = "accepted"
APPLYING = "applying"
APPLIED = "applied"
REFUSED = "refused"


class Community(SQLModel, table=True):
    """A community, known by its name."""

    __tablename__ = "community"

    name: str = Field(primary_key=True, max_length=NAME_MAX_LENGTH)
    readable_name: str = Field(default="", sa_type=Text)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


class PluginInstance(SQLModel, table=True):
    """A plugin as one community has enabled it, under a name that is unique there.

    ``exclusive`` is true where no other community may have one with the same
    ``community_platform_id``, and else null: nulls are never equal.
    """

    __tablename__ = "plugin_instance"
    __table_args__ = (
        UniqueConstraint("community", "instance"),
        UniqueConstraint("plugin", "community_platform_id", "exclusive"),
    )

    id: str = Field(default_factory=new_id, primary_key=True, max_length=36)
    community: str = Field(
        sa_column=Column(
            String(NAME_MAX_LENGTH),
            ForeignKey("community.name", ondelete="CASCADE"),
            nullable=False,
        )
    )
    plugin: str = Field(max_length=64, index=True)
    instance: str = Field(max_length=64)
    community_platform_id: str | None = Field(default=None, max_length=PLATFORM_ID_MAX_LENGTH)
    exclusive: bool | None = None
    position: int = 0
    config_encrypted: str = Field(sa_type=Text)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


class PluginState(SQLModel, table=True):
    """One key of a plugin instance's state."""

    __tablename__ = "plugin_state"

    instance_id: str = Field(
        sa_column=Column(
            String(36), ForeignKey("plugin_instance.id", ondelete="CASCADE"), primary_key=True
        )
    )
    key: str = Field(primary_key=True, max_length=255)
    value: str = Field(sa_type=Text)


class CommunityChange(SQLModel, table=True):
    """A desired state of a community: asked for, perhaps begun, then applied or refused."""

    __tablename__ = "community_change"

    id: str = Field(default_factory=new_id, primary_key=True, max_length=36)
    community: str = Field(max_length=NAME_MAX_LENGTH, index=True)
    desired_encrypted: str | None = Field(default=None, sa_type=Text)
    status: str = Field(default=ACCEPTED, max_length=16)
    created: bool = False
    error: dict[str, Any] | None = Field(default=None, sa_type=JsonText)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


CHANGES = BeginMark(
    CommunityChange,
    accepted=col(CommunityChange.status) == ACCEPTED,
    begun=col(CommunityChange.status) == APPLYING,
    begin={"status": APPLYING},
    set_back={"status": ACCEPTED},
)


@dataclass(frozen=True)
class EnabledInstance:
    """A plugin instance with what a call of its plugin needs to know.

    Attributes:
        id: Its id.
        community: The community's name.
        plugin: The plugin's name.
        instance: The instance's own name.
        config_encrypted: Its config.
        readable_name: The community's name for people.
        paused_until: Until when its platform wants no calls, if it said so.
        stopped_until: Until when none are made, because they took workers down.
        alone_until: Until when they are made in a process of their own, because they might.
        has_state: Whether it has any state.
    """

    id: str
    community: str
    plugin: str
    instance: str
    config_encrypted: str = dataclass_field(repr=False)
    readable_name: str
    paused_until: datetime | None
    stopped_until: datetime | None
    alone_until: datetime | None
    has_state: bool


_ENABLED: tuple[Any, ...] = (
    PluginInstance.id,
    PluginInstance.community,
    PluginInstance.plugin,
    PluginInstance.instance,
    PluginInstance.config_encrypted,
    Community.readable_name,
    InstancePace.paused_until,
    InstancePace.stopped_until,
    InstancePace.alone_until,
    exists().where(col(PluginState.instance_id) == col(PluginInstance.id)),
)

# Statements of the most frequent calls are made once: making one takes longer than running it.
_FIND = select(PluginInstance).where(
    col(PluginInstance.community) == bindparam("community"),
    col(PluginInstance.instance) == bindparam("instance"),
)
_OF_PLUGIN = (
    select(PluginInstance)
    .where(
        col(PluginInstance.community) == bindparam("community"),
        col(PluginInstance.plugin) == bindparam("plugin"),
    )
    .order_by(col(PluginInstance.position), col(PluginInstance.instance))
)
_FIND_ENABLED = (
    select(*_ENABLED)
    .join(Community, col(Community.name) == col(PluginInstance.community))
    .outerjoin(InstancePace, col(InstancePace.instance_id) == col(PluginInstance.id))
    .where(col(PluginInstance.id) == bindparam("id"))
)


async def get_community(session: AsyncSession, name: str) -> Community | None:
    """Find a community.

    Args:
        session: An open session.
        name: Its name.

    Returns:
        The community, or None.
    """
    return await session.get(Community, name)


async def lock_community(session: AsyncSession, name: str) -> Community | None:
    """Find a community and keep other writers of it waiting until the transaction ends.

    Args:
        session: A session in a transaction.
        name: Its name.

    Returns:
        The community, or None.
    """
    query = select(Community).where(col(Community.name) == name).with_for_update()
    return (await session.exec(query)).one_or_none()


async def instances_of(session: AsyncSession, community: str) -> Sequence[PluginInstance]:
    """The plugins that a community has enabled, in the order in which it named them.

    Args:
        session: An open session.
        community: The community's name.

    Returns:
        The instances.
    """
    query = (
        select(PluginInstance)
        .where(col(PluginInstance.community) == community)
        .order_by(col(PluginInstance.position), col(PluginInstance.instance))
    )
    return (await session.exec(query)).all()


async def instances_of_plugin(session: AsyncSession, plugin: str) -> Sequence[PluginInstance]:
    """All instances of one plugin.

    Args:
        session: An open session.
        plugin: The plugin's name.

    Returns:
        The instances.
    """
    query = select(PluginInstance).where(col(PluginInstance.plugin) == plugin)
    return (await session.exec(query)).all()


async def all_instances(session: AsyncSession) -> Sequence[PluginInstance]:
    """All enabled plugins of all communities.

    Args:
        session: An open session.

    Returns:
        The instances.
    """
    return (await session.exec(select(PluginInstance))).all()


async def find_instance(
    session: AsyncSession, community: str, instance: str
) -> PluginInstance | None:
    """Find a plugin instance of a community.

    Args:
        session: An open session.
        community: The community's name.
        instance: The instance's name.

    Returns:
        The instance, or None if there is none of this name.
    """
    found = await session.exec(_FIND, params={"community": community, "instance": instance})
    return found.one_or_none()


async def instances_of_plugin_in(
    session: AsyncSession, community: str, plugin: str
) -> Sequence[PluginInstance]:
    """The instances of one plugin in a community.

    Args:
        session: An open session.
        community: The community's name.
        plugin: The plugin's name.

    Returns:
        The instances, in the order in which the community named them.
    """
    found = await session.exec(_OF_PLUGIN, params={"community": community, "plugin": plugin})
    return found.all()


async def note_platform_id(database: Database, instance: PluginInstance, found: str) -> int:
    """Note the platform's own id of the community, unless the instance has changed meanwhile.

    Args:
        database: The database.
        instance: The instance, as it was read.
        found: The id that stands in its config.

    Returns:
        1, or 0 if it has changed.
    """
    statement = update(PluginInstance).where(
        col(PluginInstance.id) == instance.id,
        col(PluginInstance.config_encrypted) == instance.config_encrypted,
    )
    return await database.execute(statement.values(community_platform_id=found))


def is_still(instance_id: str, config_encrypted: str) -> ColumnElement[bool]:
    """Make the condition, for a statement, that a plugin instance has this very config.

    Args:
        instance_id: The instance.
        config_encrypted: Its config, as it is stored.
    """
    return exists().where(
        col(PluginInstance.id) == instance_id,
        col(PluginInstance.config_encrypted) == config_encrypted,
    )


async def find_enabled(session: AsyncSession, instance_id: str) -> EnabledInstance | None:
    """Find an instance, together with what a call of its plugin needs to know.

    Args:
        session: An open session.
        instance_id: The instance.

    Returns:
        The instance; None if it was disabled.
    """
    found = (await session.exec(_FIND_ENABLED, params={"id": instance_id})).one_or_none()
    return EnabledInstance(*found) if found is not None else None


def select_with_instance(instance_id: Any, *entities: Any) -> Any:
    """Make a query for rows together with the plugin instance that they belong to."""
    return (
        select(*entities, *_ENABLED)
        .select_from(entities[0])
        .outerjoin(PluginInstance, col(PluginInstance.id) == instance_id)
        .outerjoin(Community, col(Community.name) == col(PluginInstance.community))
        .outerjoin(InstancePace, col(InstancePace.instance_id) == col(PluginInstance.id))
    )


async def find_with_instance(
    session: AsyncSession, query: Any, **parameters: str
) -> tuple[tuple[Any, ...], EnabledInstance | None] | None:
    """Find a row together with the plugin instance that it belongs to.

    Args:
        session: An open session.
        query: Made by ``select_with_instance``, once.
        parameters: Values of its bound parameters.

    Returns:
        What was selected, and the instance, None if it was disabled; None if there is no such row.
    """
    found = (await session.exec(query, params=parameters)).one_or_none()
    if found is None:
        return None
    selected, instance = found[: -len(_ENABLED)], found[-len(_ENABLED) :]
    return tuple(selected), EnabledInstance(*instance) if instance[0] is not None else None


_STATE = select(PluginState.key, PluginState.value).where(
    col(PluginState.instance_id) == bindparam("instance")
)


async def load_state(session: AsyncSession, instance_id: str) -> dict[str, str]:
    """Read an instance's state.

    Args:
        session: An open session.
        instance_id: The instance.

    Returns:
        Encoded values by key.
    """
    return dict((await session.exec(_STATE, params={"instance": instance_id})).all())


async def store_state(
    session: AsyncSession,
    instance_id: str,
    changes: Mapping[str, str | None],
    increments: Mapping[str, float] | None = None,
    expected: Mapping[str, str | None] | None = None,
) -> None:
    """Write the keys of an instance's state that changed; other keys are not touched.

    Args:
        session: A session in a transaction.
        instance_id: The instance; if it was disabled meanwhile there is nothing to write.
        changes: Encoded values by key; None removes the key.
        increments: What is added to the number that a key holds now.
        expected: Encoded values, None for no value, that keys must still have.

    Raises:
        StateConflictError: A key has another value than expected.
        PluginCodeError: A key that is incremented holds no number.
    """
    if not (changes or increments or expected):
        return
    # One writer of an instance's state at a time: what is read here cannot change until the end.
    owner = select(PluginInstance.id).where(col(PluginInstance.id) == instance_id)
    if (await session.exec(owner.with_for_update())).one_or_none() is None:
        return
    touched = {*changes, *(increments or {}), *(expected or {})}
    query = select(PluginState).where(
        col(PluginState.instance_id) == instance_id, col(PluginState.key).in_(touched)
    )
    rows = {row.key: row for row in (await session.exec(query)).all()}
    for key, value in (expected or {}).items():
        if (rows[key].value if key in rows else None) != value:
            raise StateConflictError(
                f"Another call changed '{key:.80}' of the plugin's state meanwhile; "
                "nothing of this one was stored"
            )
    values = dict(changes)
    for key, by in (increments or {}).items():
        values[key] = _incremented(key, rows[key].value if key in rows else "0", by)
    for key, value in values.items():
        row = rows.get(key)
        if value is None:
            if row is not None:
                await session.delete(row)
        elif row is None:
            session.add(PluginState(instance_id=instance_id, key=key, value=value))
        else:
            row.value = value


def _incremented(key: str, encoded: str, by: float) -> str:
    number = json.loads(encoded)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise PluginCodeError(f"'{key:.80}' of the plugin's state holds no number to increment")
    return json.dumps(number + by)


async def hold_instance(session: AsyncSession, instance_id: str) -> PluginInstance | None:
    """Find an instance and keep changes of its community waiting until the transaction ends.

    Args:
        session: A session in a transaction.
        instance_id: Its id.

    Returns:
        The instance; None if it was disabled.
    """
    return await session.get(PluginInstance, instance_id, with_for_update={"read": True})


async def lock_instances(session: AsyncSession, community: str) -> Sequence[PluginInstance]:
    """A community's plugins, with other writers of their state waiting.

    Args:
        session: A session in a transaction.
        community: The community's name.

    Returns:
        The instances.
    """
    query = (
        select(PluginInstance)
        .where(col(PluginInstance.community) == community)
        .order_by(col(PluginInstance.id))
        .with_for_update()
    )
    return (await session.exec(query)).all()


async def delete_instances(session: AsyncSession, ids: Sequence[str]) -> None:
    """Delete plugin instances with their state.

    Args:
        session: A session in a transaction.
        ids: The instances.
    """
    if ids:
        await session.exec(delete(PluginState).where(col(PluginState.instance_id).in_(ids)))
        await session.exec(delete(InstancePace).where(col(InstancePace.instance_id).in_(ids)))
        await session.exec(delete(LostCall).where(col(LostCall.instance_id).in_(ids)))
        await session.exec(delete(PluginInstance).where(col(PluginInstance.id).in_(ids)))


async def changes_before(session: AsyncSession, created: datetime) -> Sequence[CommunityChange]:
    """Changes that were asked for long ago, and neither applied nor refused.

    Args:
        session: An open session.
        created: They were asked for before this moment.

    Returns:
        The changes.
    """
    query = select(CommunityChange).where(
        col(CommunityChange.status).in_((ACCEPTED, APPLYING)),
        col(CommunityChange.created_at) < created,
    )
    return (await session.exec(query)).all()


async def withdraw_change(
    database: Database, session: AsyncSession, change_id: str, error: Mapping[str, Any]
) -> bool:
    """Refuse a change that nobody has begun to apply; its idempotency key can be used again.

    Args:
        database: The database.
        session: A session in a transaction.
        change_id: The change.
        error: Why, as ``engine.errors.describe`` gives it.

    Returns:
        False if it has been begun, or has ended.
    """
    ended = {"status": REFUSED, "error": dict(error), "desired_encrypted": None}
    return await CHANGES.withdraw(database, session, change_id, ended)


async def refuse_change(session: AsyncSession, change_id: str, error: Mapping[str, Any]) -> None:
    """End a change that may have been begun, unless it has ended.

    Args:
        session: A session in a transaction.
        change_id: The change.
        error: Why, as ``engine.errors.describe`` gives it.
    """
    statement = (
        update(CommunityChange)
        .where(
            col(CommunityChange.id) == change_id,
            col(CommunityChange.status).in_([ACCEPTED, APPLYING]),
        )
        .values(status=REFUSED, error=dict(error), desired_encrypted=None)
        .execution_options(synchronize_session=False)
    )
    await session.exec(statement)


async def forget_changes_before(session: AsyncSession, created: datetime) -> None:
    """Delete changes past their retention.

    Args:
        session: A session in a transaction.
        created: Changes asked for before this moment go.
    """
    await session.exec(delete(CommunityChange).where(col(CommunityChange.created_at) < created))
