"""What was accepted: once for each idempotency key, and begun once.

Rows of three tables are accepted before Temporal knows of them: actions and closes, starts of
processes, changes of communities. From a certain moment on they say that plugin code may have been
called for them; until then they can be withdrawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, cast

from sqlalchemy import ColumnElement, bindparam, delete, or_, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import Field, SQLModel, col
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import IdempotencyMismatchError, OutcomeUnknownError, UnavailableError
from engine.store.database import Database, UtcDateTime, insert_if, utc_now

# In the values of a mark: the moment at which it is made.
NOW = bindparam("now", type_=UtcDateTime)


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
            "The same request with the same Idempotency-Key returns its outcome"
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


class AcceptedRow(Protocol):
    """A row that was accepted."""

    id: str
    created_at: datetime


class BeginMark:
    """How a table says that plugin code may have been called for one of its rows."""

    def __init__(
        self,
        table: type[SQLModel],
        *,
        accepted: ColumnElement[bool],
        begun: ColumnElement[bool],
        begin: Mapping[str, Any],
        set_back: Mapping[str, Any],
    ) -> None:
        self._table = columns = cast(Any, table)
        self._accepted = accepted
        self._begun = begun
        this = columns.id == bindparam("row")
        # Built once: to build a statement takes longer than to run it.
        self._begin = update(self._table).where(this, accepted).values(begin)
        self._is_timed = any(value is NOW for value in begin.values())
        self._set_back = update(self._table).where(this, begun).values(set_back)

    async def begin(self, database: Database, row: AcceptedRow) -> bool:
        """Note that plugin code may run for a row from now on; False if it may have before."""
        if row.created_at <= database.marks_kept_since:
            return False
        parameters: dict[str, Any] = {"now": utc_now()} if self._is_timed else {}
        return await database.mark(self._begin, row=row.id, **parameters) > 0

    async def set_back(self, database: Database, row_id: str) -> None:
        """Note that the plugin code that was called for a row proved to have done nothing."""
        await database.persist(lambda session: session.exec(self._set_back, params={"row": row_id}))

    async def withdraw(
        self,
        database: Database,
        session: AsyncSession,
        row_id: str,
        values: Mapping[str, Any],
        *,
        begun: bool = False,
    ) -> bool:
        """End a row and free its idempotency key; False if plugin code may have been called."""
        statement = (
            update(self._table)
            .where(
                self._table.id == row_id,
                or_(self._accepted, self._begun) if begun else self._accepted,
                self._table.created_at > database.marks_kept_since,
            )
            .values(values)
            .execution_options(synchronize_session=False)
        )
        if not (await session.exec(statement)).rowcount:
            return False
        await forget_key(session, row_id)
        return True


async def forget_key(session: AsyncSession, resource_id: str) -> None:
    """Forget the idempotency key of a request of which nothing came, so that it may be repeated.

    Args:
        session: A session in a transaction.
        resource_id: The id of the request's row.
    """
    await session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.resource_id) == resource_id))


async def forget_keys_before(session: AsyncSession, used: datetime) -> None:
    """Delete idempotency keys that are past their retention.

    Args:
        session: A session in a transaction.
        used: Those used before this moment go.
    """
    await session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.created_at) < used))
