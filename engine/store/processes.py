"""Governance processes: their records, and what the engine needs to run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Index, Text, and_, bindparam, func, update
from sqlalchemy.orm import aliased
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.messages import COMPLETED, CREATED, ProcessRecord
from engine.store import communities
from engine.store.accepted import NOW, BeginMark
from engine.store.communities import NAME_MAX_LENGTH, PLATFORM_ID_MAX_LENGTH, EnabledInstance
from engine.store.database import Database, JsonText, UtcDateTime, new_id, utc_now
from engine.store.invocations import Invocation
from engine.store.paging import newest_first
from engine.store.webhooks import ReceivedWebhook


class GovernanceProcess(SQLModel, table=True):
    """A governance process of a community.

    ``began_at`` says since when its ``start`` may have been called; ``called_until``, until when
    another call may be under way; ``webhooks_signalled``, how many of the webhooks without a key
    its workflow has still to handle. In between they are handled in place.

    One that another one started has that as ``parent_id``, stands ``level`` levels below one that a
    driver started, and has been ``reported_at`` when its parent has handled its end. ``children``
    counts those that it started.
    """

    __tablename__ = "governance_process"
    __table_args__ = (
        Index("governance_process_listing", "created_at", "id"),
        Index("governance_process_routing", "instance_id", "status", "correlation_key"),
        Index("governance_process_community", "community", "created_at"),
    )

    id: str = Field(default_factory=new_id, primary_key=True, max_length=36)
    community: str = Field(max_length=NAME_MAX_LENGTH)
    plugin: str = Field(max_length=64)
    slug: str = Field(max_length=64)
    instance_id: str = Field(max_length=36)
    instance: str = Field(max_length=64)
    community_platform_id: str | None = Field(default=None, max_length=PLATFORM_ID_MAX_LENGTH)
    parameters: dict[str, Any] = Field(default_factory=dict, sa_type=JsonText)
    callback_url: str | None = Field(default=None, sa_type=Text)
    status: str = Field(default="created", max_length=16)
    outcome: Any = Field(default_factory=dict, sa_type=JsonText)
    errors: Any = Field(default_factory=dict, sa_type=JsonText)
    url: str | None = Field(default=None, sa_type=Text)
    title: str | None = Field(default=None, sa_type=Text)
    correlation_key: str | None = Field(default=None, max_length=255)
    closing_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    poll_every_seconds: float | None = None
    poll_again_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    state: dict[str, str] = Field(default_factory=dict, sa_type=JsonText)
    webhooks_left_out: int = 0
    webhooks_signalled: int = 0
    called_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    parent_id: str | None = Field(default=None, max_length=36, index=True)
    level: int = 0
    children: int = 0
    ends_with_parent: bool = False
    reported_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    began_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)

    @property
    def name(self) -> str:
        """The name that drivers use: ``{plugin}.{slug}``."""
        return f"{self.plugin}.{self.slug}"

    def record(self) -> ProcessRecord:
        """The process as drivers see it."""
        return ProcessRecord(
            id=self.id,
            name=self.name,
            community=self.community,
            status=self.status,
            errors=self.errors,
            outcome=self.outcome,
            url=self.url,
            created_at=self.created_at.isoformat(),
            updated_at=self.updated_at.isoformat(),
            completed_at=self.completed_at.isoformat() if self.completed_at else None,
            closing_at=self.closing_at.isoformat() if self.closing_at else None,
            webhooks_left_out=self.webhooks_left_out,
            instance=self.instance,
            community_platform_id=self.community_platform_id,
        )

    def complete(self, errors: Any = None) -> None:
        """End the process.

        Args:
            errors: What went wrong, if the engine itself ends it.
        """
        self.status = COMPLETED
        self.completed_at = self.updated_at = utc_now()
        if errors is not None:
            self.errors = errors


_FOR_CALL = (
    communities.select_with_instance(GovernanceProcess.instance_id, GovernanceProcess, Invocation)
    .outerjoin(Invocation, col(Invocation.id) == bindparam("mark"))
    .where(col(GovernanceProcess.id) == bindparam("process"))
)
STARTS = BeginMark(
    GovernanceProcess,
    accepted=and_(
        col(GovernanceProcess.status) == CREATED, col(GovernanceProcess.began_at).is_(None)
    ),
    begun=and_(
        col(GovernanceProcess.status) == CREATED, col(GovernanceProcess.began_at).is_not(None)
    ),
    begin={"began_at": NOW},
    set_back={"began_at": None},
)


async def get_process(session: AsyncSession, process_id: str) -> GovernanceProcess | None:
    """Find a process.

    Args:
        session: An open session.
        process_id: Its id.

    Returns:
        The process, or None.
    """
    return await session.get(GovernanceProcess, process_id)


async def find_for_call(
    session: AsyncSession, process_id: str, invocation_id: str
) -> tuple[GovernanceProcess, Invocation | None, EnabledInstance | None] | None:
    """Find a process, with the mark of a call of it and its plugin instance.

    Args:
        session: An open session.
        process_id: The process' id.
        invocation_id: The mark's id.

    Returns:
        The process, the mark if the call was made, and the instance unless it was disabled; None if
        there is no such process.
    """
    found = await communities.find_with_instance(
        session, _FOR_CALL, process=process_id, mark=invocation_id
    )
    return (found[0][0], found[0][1], found[1]) if found is not None else None


async def lock_process(session: AsyncSession, process_id: str) -> GovernanceProcess | None:
    """Find a process and keep other writers of it waiting until the transaction ends.

    Args:
        session: A session in a transaction.
        process_id: Its id.

    Returns:
        The process, or None.
    """
    return await session.get(GovernanceProcess, process_id, with_for_update=True)


async def withdraw_start(
    database: Database, session: AsyncSession, process_id: str, errors: dict[str, Any]
) -> bool:
    """Complete a process whose ``start`` was not called; its idempotency key can be used again.

    Args:
        database: The database.
        session: A session in a transaction.
        process_id: The process.
        errors: What went wrong.

    Returns:
        False if ``start`` may have been called.
    """
    now = utc_now()
    ended = {"status": COMPLETED, "errors": errors, "completed_at": now, "updated_at": now}
    return await STARTS.withdraw(database, session, process_id, ended)


async def unfinished_of_instance(
    session: AsyncSession, instance_id: str
) -> Sequence[GovernanceProcess]:
    """The processes of a plugin instance that have not ended.

    Args:
        session: An open session.
        instance_id: The instance.

    Returns:
        The processes.
    """
    query = select(GovernanceProcess).where(
        col(GovernanceProcess.instance_id) == instance_id,
        col(GovernanceProcess.status).in_(("created", "pending")),
    )
    return (await session.exec(query)).all()


async def unfinished_children(session: AsyncSession, process_id: str) -> int:
    """Count the processes that a process has started and that have not ended.

    Args:
        session: An open session.
        process_id: The process.

    Returns:
        How many there are.
    """
    query = select(func.count()).where(
        col(GovernanceProcess.parent_id) == process_id,
        col(GovernanceProcess.status) != COMPLETED,
    )
    return (await session.exec(query)).one()


async def lock_ending_children(
    session: AsyncSession, process_id: str
) -> Sequence[GovernanceProcess]:
    """Find the children of a process that end with it, with other writers of them waiting.

    Args:
        session: A session in a transaction.
        process_id: The process.

    Returns:
        Those that have not ended.
    """
    query = (
        select(GovernanceProcess)
        .where(
            col(GovernanceProcess.parent_id) == process_id,
            col(GovernanceProcess.status) != COMPLETED,
            col(GovernanceProcess.ends_with_parent).is_(True),
        )
        .order_by(col(GovernanceProcess.id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return (await session.exec(query)).all()


async def report(session: AsyncSession, process_id: str) -> None:
    """Note that the end of a process was handled by its parent.

    Args:
        session: A session in the transaction that stores what the parent made of it.
        process_id: The process that has ended.
    """
    await session.exec(
        update(GovernanceProcess)
        .where(col(GovernanceProcess.id) == process_id)
        .values(reported_at=utc_now())
        .execution_options(synchronize_session=False)
    )


async def unreported_after(
    session: AsyncSession, after: tuple[str, str] | None, limit: int
) -> Sequence[tuple[str, str]]:
    """Processes that have ended and whose parent goes on without having handled that, a page.

    Args:
        session: An open session.
        after: The last one of the page before; None for the first page.
        limit: Most processes.

    Returns:
        Id of each and of its parent, by id.
    """
    parent = aliased(GovernanceProcess)
    query = (
        select(GovernanceProcess.id, col(parent.id))
        .join(parent, col(parent.id) == col(GovernanceProcess.parent_id))
        .where(
            col(parent.status) != COMPLETED,
            col(GovernanceProcess.status) == COMPLETED,
            col(GovernanceProcess.reported_at).is_(None),
        )
        .order_by(col(GovernanceProcess.id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(GovernanceProcess.id) > after[0])
    return (await session.exec(query)).all()


@dataclass(frozen=True)
class Concerned:
    """An unfinished process that a webhook may concern.

    Attributes:
        id: Its id.
        community: The community's name.
        plugin: The plugin's name.
        slug: The class' slug.
        updated_at: When it changed.
        keyless: Whether it has no key, so that every webhook may concern it.
        in_place: Whether it is keyless and nothing stands between it and the webhook: it has been
            signalled of none that it has not handled, and no other call is under way.
    """

    id: str
    community: str
    plugin: str
    slug: str
    updated_at: datetime
    keyless: bool
    in_place: bool

    @property
    def name(self) -> str:
        """``{plugin}.{slug}``."""
        return f"{self.plugin}.{self.slug}"


_IS_FREE = (
    col(GovernanceProcess.correlation_key).is_(None)
    & (col(GovernanceProcess.status) == "pending")
    & (col(GovernanceProcess.webhooks_signalled) == 0)
    & (
        col(GovernanceProcess.called_until).is_(None)
        | (col(GovernanceProcess.called_until) < bindparam("now", type_=UtcDateTime))
    )
)
_COLUMNS: tuple[Any, ...] = (
    GovernanceProcess.id,
    GovernanceProcess.community,
    GovernanceProcess.plugin,
    GovernanceProcess.slug,
    GovernanceProcess.updated_at,
    col(GovernanceProcess.correlation_key).is_(None),
    _IS_FREE,
)
_CONCERNED = select(*_COLUMNS).where(
    col(GovernanceProcess.instance_id)
    == select(ReceivedWebhook.instance_id)
    .where(col(ReceivedWebhook.id) == bindparam("webhook"))
    .scalar_subquery(),
    col(GovernanceProcess.status).in_(("created", "pending")),
    col(GovernanceProcess.slug).in_(bindparam("slugs", expanding=True)),
)
_CONCERNED_BY_KEYS = _CONCERNED.where(
    col(GovernanceProcess.correlation_key).is_(None)
    | col(GovernanceProcess.correlation_key).in_(bindparam("keys", expanding=True))
)


async def concerned_by(
    session: AsyncSession,
    webhook_id: str,
    slugs: Sequence[str],
    keys: Sequence[str] | None,
) -> list[Concerned]:
    """The unfinished processes that a webhook may concern.

    Args:
        session: An open session.
        webhook_id: The webhook; it concerns processes of the instance that has it now.
        slugs: The processes' slugs that receive webhooks.
        keys: Correlation keys that the webhook carries; None: it may concern any process.
            A process without a key is concerned by every webhook.

    Returns:
        The processes.
    """
    values: dict[str, Any] = {"webhook": webhook_id, "slugs": slugs, "now": utc_now()}
    if keys is None:
        rows = (await session.exec(_CONCERNED, params=values)).all()
    else:
        rows = (await session.exec(_CONCERNED_BY_KEYS, params=values | {"keys": keys})).all()
    return [Concerned(*row) for row in rows]


async def get_processes(session: AsyncSession, ids: Sequence[str]) -> Sequence[GovernanceProcess]:
    """Find processes.

    Args:
        session: An open session.
        ids: Their ids.

    Returns:
        Those that there are, in any order.
    """
    query = select(GovernanceProcess).where(col(GovernanceProcess.id).in_(ids))
    return (await session.exec(query)).all()


async def count_signalled(database: Database, ids: Sequence[str]) -> None:
    """Note that processes are about to be signalled of a webhook without a key.

    Args:
        database: The database.
        ids: The processes.
    """
    signalled = col(GovernanceProcess.webhooks_signalled)
    statement = update(GovernanceProcess).where(col(GovernanceProcess.id).in_(ids))
    await database.mark(statement.values(webhooks_signalled=signalled + 1))


async def note_called(database: Database, process_id: str, until: datetime | None) -> None:
    """Note until when a call of a process may be under way, so that none is made beside it.

    Args:
        database: The database.
        process_id: The process.
        until: Until when; None: it has ended.
    """
    statement = update(GovernanceProcess).where(col(GovernanceProcess.id) == process_id)
    await database.mark(statement.values(called_until=until))


async def pending_of_class(
    session: AsyncSession, instance_id: str, slug: str
) -> Sequence[GovernanceProcess]:
    """The pending processes of one class of a plugin instance.

    Args:
        session: An open session.
        instance_id: The instance.
        slug: The class' slug.

    Returns:
        The processes, the oldest first.
    """
    query = (
        select(GovernanceProcess)
        .where(
            col(GovernanceProcess.instance_id) == instance_id,
            col(GovernanceProcess.status) == "pending",
            col(GovernanceProcess.slug) == slug,
        )
        .order_by(col(GovernanceProcess.created_at), col(GovernanceProcess.id))
    )
    return (await session.exec(query)).all()


async def unfinished_classes(
    session: AsyncSession, community: str | None = None
) -> Sequence[tuple[str, str, str, str, str]]:
    """The classes and plugin instances that have processes which have not ended.

    Args:
        session: An open session.
        community: Only this community's.

    Returns:
        Community, plugin, slug, and id and name of the instance of each.
    """
    columns: tuple[Any, ...] = (
        GovernanceProcess.community,
        GovernanceProcess.plugin,
        GovernanceProcess.slug,
        GovernanceProcess.instance_id,
        GovernanceProcess.instance,
    )
    query = (
        select(*columns).where(col(GovernanceProcess.status).in_(("created", "pending"))).distinct()
    )
    if community is not None:
        query = query.where(col(GovernanceProcess.community) == community)
    found: Sequence[tuple[str, str, str, str, str]] = (await session.exec(query)).all()
    return found


async def unfinished_after(
    session: AsyncSession, after: tuple[str, str, str] | None, limit: int
) -> Sequence[tuple[str, str, str]]:
    """Processes that have not ended, a page of them.

    Args:
        session: An open session.
        after: The last one of the page before; None for the first page.
        limit: Most processes.

    Returns:
        Id, plugin and slug of each, by id.
    """
    query = (
        select(GovernanceProcess.id, GovernanceProcess.plugin, GovernanceProcess.slug)
        .where(col(GovernanceProcess.status).in_(("created", "pending")))
        .order_by(col(GovernanceProcess.id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(GovernanceProcess.id) > after[0])
    return (await session.exec(query)).all()


async def statuses_of(session: AsyncSession, process_ids: Sequence[str]) -> dict[str, str]:
    """How some processes stand.

    Args:
        session: An open session.
        process_ids: Their ids.

    Returns:
        The status of each that there is, by its id.
    """
    query = select(GovernanceProcess.id, GovernanceProcess.status).where(
        col(GovernanceProcess.id).in_(process_ids)
    )
    return dict((await session.exec(query)).all())


async def list_processes(
    session: AsyncSession,
    *,
    community: str | None,
    plugin: str | None,
    instance: str | None,
    status: str | None,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[GovernanceProcess], str | None]:
    """List processes, the newest first.

    Args:
        session: An open session.
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
    query = select(GovernanceProcess)
    for column, wanted in (
        (GovernanceProcess.community, community),
        (GovernanceProcess.plugin, plugin),
        (GovernanceProcess.instance, instance),
        (GovernanceProcess.status, status),
    ):
        if wanted is not None:
            query = query.where(col(column) == wanted)
    return await newest_first(
        session,
        query,
        GovernanceProcess.created_at,
        GovernanceProcess.id,
        cursor=cursor,
        limit=limit,
    )
