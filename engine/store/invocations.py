"""Invocations: the mark that a call of plugin code is done, its result, and idempotency keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import Field, SQLModel, col
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import IdempotencyMismatchError, OutcomeUnknownError, UnavailableError
from engine.store import communities
from engine.store.communities import NAME_MAX_LENGTH, EnabledInstance
from engine.store.database import Database, JsonText, UtcDateTime, insert_if, new_id, utc_now

ACCEPTED = "accepted"
RUNNING = "running"
DONE = "done"


class Invocation(SQLModel, table=True):
    """One call of plugin code: asked for (accepted), perhaps begun (running), or done."""

    __tablename__ = "invocation"

    id: str = Field(default_factory=new_id, primary_key=True, max_length=80)
    community: str = Field(max_length=NAME_MAX_LENGTH)
    instance_id: str = Field(max_length=36)
    plugin: str = Field(max_length=64)
    target: str = Field(max_length=128)
    parameters: dict[str, Any] | None = Field(default=None, sa_type=JsonText)
    status: str = Field(default=ACCEPTED, max_length=16)
    result: dict[str, Any] | None = Field(default=None, sa_type=JsonText)
    error: dict[str, Any] | None = Field(default=None, sa_type=JsonText)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)


_BEGIN = (
    update(Invocation)
    .where(col(Invocation.id) == bindparam("accepted"), col(Invocation.status) == ACCEPTED)
    .values(status=RUNNING)
)
_WITH_INSTANCE = communities.select_with_instance(Invocation.instance_id, Invocation).where(
    col(Invocation.id) == bindparam("id")
)


class IdempotencyKey(SQLModel, table=True):
    """An idempotency key that a driver used, and what came of it."""

    __tablename__ = "idempotency_key"

    scope: str = Field(primary_key=True, max_length=300)
    key: str = Field(primary_key=True, max_length=255)
    body_hash: str = Field(max_length=64)
    resource_id: str = Field(max_length=36, index=True)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime, index=True)


@dataclass(frozen=True)
class Idempotency:
    """An idempotency key as it came with a request.

    Attributes:
        scope: What the key is for: operation and community.
        key: The key.
        body_hash: Hash of the request's body, hex.
        hours: How long keys are remembered.
    """

    scope: str
    key: str
    body_hash: str
    hours: float


async def accept_once(
    database: Database,
    row: SQLModel,
    resource_id: str,
    condition: ColumnElement[bool],
    idempotency: Idempotency | None,
) -> str | None:
    """Store a request's row, unless a request with the same key was accepted before.

    Args:
        database: The database.
        row: What the request asks for.
        resource_id: The row's id.
        condition: What must hold at that moment.
        idempotency: The request's idempotency key, if it has one.

    Returns:
        ``resource_id``, or the id of the first request's row; None if the condition does not hold.

    Raises:
        IdempotencyMismatchError: The key was used with another body.
        UnavailableError: Another request with this key came and went at the same moment.
        OutcomeUnknownError: The database went away meanwhile; the row may be stored.
    """
    try:
        return await _accept_once(database, row, resource_id, condition, idempotency)
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise OutcomeUnknownError(
            "The database went away while the request was stored, so it may be done. "
            "The same request with the same Idempotency-Key tells what came of it"
        ) from None


async def _accept_once(
    database: Database,
    row: SQLModel,
    resource_id: str,
    condition: ColumnElement[bool],
    idempotency: Idempotency | None,
) -> str | None:
    statement = insert_if(row, condition)
    if idempotency is None:
        return resource_id if await database.execute(statement) else None
    first = await first_use(database, idempotency)
    if first is not None:
        return first
    try:
        async with database.write() as session:
            if not (await session.exec(statement)).rowcount:
                return None
            session.add(
                IdempotencyKey(
                    scope=idempotency.scope,
                    key=idempotency.key,
                    body_hash=idempotency.body_hash,
                    resource_id=resource_id,
                )
            )
    except IntegrityError:
        # Two requests with one key at the same moment: the other one was first.
        first = await first_use(database, idempotency)
        if first is None:
            # And it was withdrawn in the next moment.
            raise UnavailableError("Another request had this Idempotency-Key; try again") from None
        return first
    return resource_id


async def first_use(database: Database, idempotency: Idempotency) -> str | None:
    """Find what a request with the same key asked for before.

    Args:
        database: The database.
        idempotency: The request's key.

    Returns:
        The id of the first request's row, or None.

    Raises:
        IdempotencyMismatchError: The key was used with another body.
    """
    async with database.read() as session:
        used = await session.get(IdempotencyKey, (idempotency.scope, idempotency.key))
    if used is None:
        return None
    if utc_now() - used.created_at > timedelta(hours=idempotency.hours):
        async with database.write() as session:
            await session.exec(
                delete(IdempotencyKey).where(
                    col(IdempotencyKey.scope) == used.scope,
                    col(IdempotencyKey.key) == used.key,
                    col(IdempotencyKey.resource_id) == used.resource_id,
                )
            )
        return None
    if used.body_hash != idempotency.body_hash:
        raise IdempotencyMismatchError(
            "This Idempotency-Key was already used with another body; "
            "send the first body again, or another key"
        )
    return used.resource_id


async def get_invocation(session: AsyncSession, invocation_id: str) -> Invocation | None:
    """Find an invocation.

    Args:
        session: An open session.
        invocation_id: Its id.

    Returns:
        The invocation, or None.
    """
    return await session.get(Invocation, invocation_id)


def mark_of(
    call_id: str,
    instance: tuple[str, str, str],
    target: str,
    result: dict[str, Any],
    error: dict[str, Any] | None = None,
) -> Invocation:
    """Make the mark that a call is done, to be stored with what it did.

    Args:
        call_id: The mark's id.
        instance: Community, plugin and id of the instance that was called.
        target: What was called.
        result: What it led to.
        error: Its error, if it failed.

    Returns:
        The mark.
    """
    community, plugin, instance_id = instance
    return Invocation(
        id=call_id,
        community=community,
        plugin=plugin,
        instance_id=instance_id,
        target=target,
        status=DONE,
        result=result,
        error=error,
        finished_at=utc_now(),
    )


async def find_with_instance(
    session: AsyncSession, invocation_id: str
) -> tuple[Invocation, EnabledInstance | None] | None:
    """Find an invocation and the plugin instance that it calls.

    Args:
        session: An open session.
        invocation_id: Its id.

    Returns:
        The invocation, and the instance, None if it was disabled; None if there is none.
    """
    found = await communities.find_with_instance(session, _WITH_INSTANCE, id=invocation_id)
    return (found[0][0], found[1]) if found is not None else None


async def begin(database: Database, row: Invocation) -> bool:
    """Note that plugin code may run for an invocation from now on, unless it may have before.

    Args:
        database: The database.
        row: The invocation.

    Returns:
        True if no plugin code was called for it, and nobody else will call any.
    """
    if row.created_at <= database.marks_kept_since:
        return False
    return await database.mark(_BEGIN, accepted=row.id) > 0


async def set_back(database: Database, invocation_id: str) -> None:
    """Note that the plugin code that was called for an invocation proved to have done nothing.

    Args:
        database: The database.
        invocation_id: The invocation.
    """
    statement = (
        update(Invocation)
        .where(col(Invocation.id) == invocation_id, col(Invocation.status) == RUNNING)
        .values(status=ACCEPTED)
    )
    await database.persist(lambda session: session.exec(statement))


async def withdraw(
    database: Database,
    session: AsyncSession,
    invocation_id: str,
    error: dict[str, Any],
    *,
    begun: bool = False,
) -> bool:
    """End an invocation for which no plugin code was called; its key can be used again.

    Args:
        database: The database.
        session: A session in a transaction.
        invocation_id: The invocation.
        error: What is told of it.
        begun: Whether the caller has begun it, and knows that nothing was done.

    Returns:
        False if plugin code may have been called.
    """
    statement = (
        update(Invocation)
        .where(
            col(Invocation.id) == invocation_id,
            col(Invocation.status).in_([ACCEPTED, RUNNING] if begun else [ACCEPTED]),
            col(Invocation.created_at) > database.marks_kept_since,
        )
        .values(status=DONE, error=error, finished_at=utc_now())
        .execution_options(synchronize_session=False)
    )
    if not (await session.exec(statement)).rowcount:
        return False
    await forget_key(session, invocation_id)
    return True


async def forget_key(session: AsyncSession, resource_id: str) -> None:
    """Forget the idempotency key of a request of which nothing came, so that it may be repeated.

    Args:
        session: A session in a transaction.
        resource_id: The id of the request's row.
    """
    await session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.resource_id) == resource_id))


async def forget_failure(session: AsyncSession, invocation_id: str) -> None:
    """Forget that an invocation failed, so that it can be repeated.

    Args:
        session: A session in a transaction.
        invocation_id: Its id; one that succeeded stays marked.
    """
    await session.exec(
        delete(Invocation).where(
            col(Invocation.id) == invocation_id, col(Invocation.error).is_not(None)
        )
    )


async def mark_done(
    session: AsyncSession,
    invocation_id: str,
    *,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> bool:
    """Mark an accepted invocation as done, unless it is.

    Args:
        session: A session in the transaction that stores what the invocation did.
        invocation_id: Its id.
        result: What it returned, if it succeeded.
        error: Its error, if it failed.

    Returns:
        False if it was done before; then nothing of this try may be stored.
    """
    statement = (
        update(Invocation)
        .where(col(Invocation.id) == invocation_id, col(Invocation.status) != DONE)
        .values(status=DONE, result=result, error=error, finished_at=utc_now())
        .execution_options(synchronize_session=False)
    )
    return bool((await session.exec(statement)).rowcount)


async def forget_before(session: AsyncSession, finished: datetime, keyed: datetime) -> None:
    """Delete what is past its retention.

    Args:
        session: A session in a transaction.
        finished: Invocations that ended before this moment go.
        keyed: Idempotency keys used before this moment go.
    """
    await session.exec(delete(Invocation).where(col(Invocation.finished_at) < finished))
    # A request that died between its steps was never answered, and is never performed.
    await session.exec(
        delete(Invocation).where(
            col(Invocation.status) != DONE, col(Invocation.created_at) < finished
        )
    )
    await session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.created_at) < keyed))
