"""Invocations: the mark that a call of plugin code is done, its result, and idempotency keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, update
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.store import communities
from engine.store.accepted import BeginMark
from engine.store.communities import NAME_MAX_LENGTH, EnabledInstance
from engine.store.database import Database, JsonText, UtcDateTime, new_id, utc_now

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


CALLS = BeginMark(
    Invocation,
    accepted=col(Invocation.status) == ACCEPTED,
    begun=col(Invocation.status) == RUNNING,
    begin={"status": RUNNING},
    set_back={"status": ACCEPTED},
)
_WITH_INSTANCE = communities.select_with_instance(Invocation.instance_id, Invocation).where(
    col(Invocation.id) == bindparam("id")
)


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


async def marks_of_webhook(
    session: AsyncSession, instance_id: str, reference: str, since: datetime
) -> Sequence[Invocation]:
    """The marks that processes have handled a webhook.

    Args:
        session: An open session.
        instance_id: The plugin instance.
        reference: The webhook's reference.
        since: When it was received.

    Returns:
        The marks; the id of each is that of the process, a colon and the reference.
    """
    query = select(Invocation).where(
        col(Invocation.finished_at) >= since,
        col(Invocation.instance_id) == instance_id,
        col(Invocation.id).endswith(f":{reference}", autoescape=True),
    )
    return (await session.exec(query)).all()


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
        error: The error that is reported.
        begun: Whether the caller has begun it, and knows that nothing was done.

    Returns:
        False if plugin code may have been called.
    """
    values = {"status": DONE, "error": error, "finished_at": utc_now()}
    return await CALLS.withdraw(database, session, invocation_id, values, begun=begun)


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


async def forget_before(session: AsyncSession, finished: datetime) -> None:
    """Delete what is past its retention.

    Args:
        session: A session in a transaction.
        finished: Invocations that ended before this moment go.
    """
    await session.exec(delete(Invocation).where(col(Invocation.finished_at) < finished))
    # A request that died between its steps was never answered, and is never performed.
    await session.exec(
        delete(Invocation).where(
            col(Invocation.status) != DONE, col(Invocation.created_at) < finished
        )
    )
