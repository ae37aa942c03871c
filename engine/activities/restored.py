"""Puts right, from what Temporal knows, what a database restored from a backup has lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.invocations.children import signal_parent
from engine.invocations.effects import (
    FollowUp,
    append_record,
    end_children,
    hand_over,
    record_item_id,
)
from engine.messages import COMPLETED, CREATED, ProcessRecord
from engine.resources import Engine
from engine.store import communities, epochs, outbox, outside, processes, restoring
from engine.store.database import OUTAGE_ERRORS, utc_now
from engine.store.epochs import DatabaseEpoch
from engine.store.invocations import Invocation
from engine.store.outbox import OutboxItem
from engine.store.outside import Remembered
from engine.store.processes import GovernanceProcess
from engine.store.webhooks import ReceivedWebhook

log = structlog.get_logger()

ASKED_AT_ONCE = 500
LOST = {
    "code": "lost_in_restore",
    "message": "The database was restored from a backup that is older than this process; "
    "what it was started with is not known any more",
}

# What Temporal keeps a trace of, by the type of its activity, and where its rows are.
TRACES: dict[str, tuple[str, Any]] = {
    "actions": ("perform_action", Invocation.id),
    "webhooks": ("receive_webhook", ReceivedWebhook.id),
    "deliveries": ("deliver", OutboxItem.id),
}


async def notice_restored(engine: Engine, *, at_once: bool) -> None:
    """Find out whether the database is older than what is remembered of it.

    Args:
        engine: What is open; neither Temporal nor the database need answer.
        at_once: Whether nothing was delivered since the restoring, if there was one.
    """
    remembered = Remembered.decode(await engine.schedules.noted())
    try:
        await restoring.notice(
            engine.database, engine.settings.data_dir, remembered, at_once=at_once
        )
    except (DBAPIError, *OUTAGE_ERRORS) as error:
        reason = str(error)[:200]
        log.warning("whether the database was restored is not known yet", error=reason)


async def remember_how_far(engine: Engine) -> None:
    """Count a start, or an hour, and remember it outside of the database."""
    async with engine.database.write() as session:
        await epochs.beat(session)
        now = await outside.how_far(session)
    outside.remember(engine.settings.data_dir, now)
    await engine.schedules.note(now.encode())


async def put_right(engine: Engine) -> None:
    """Put right what can be, once for each restoring, and keep what was found.

    Args:
        engine: What all activities share.
    """
    async with engine.database.read() as session:
        present = await epochs.present_epoch(session)
    if not present.found_by or present.put_right is not None:
        return
    found: dict[str, Any] = {"completed": 0, "put_back": 0, "lost": 0}
    since = _since(engine, present)
    async for workflow_id, running in engine.temporal.past.processes_since(since):
        what = await _put_right_process(engine, workflow_id, running)
        if what is not None:
            found[what] += 1
    found |= await count_unknown(engine, present)
    async with engine.database.write() as session:
        stored = await session.get_one(DatabaseEpoch, present.epoch)
        stored.put_right = found
    log.warning("put right after a restoring", epoch=present.epoch, **found)


async def count_unknown(engine: Engine, epoch: DatabaseEpoch) -> dict[str, int]:
    """Count what Temporal has a trace of, and a restored database has not.

    Args:
        engine: What is open.
        epoch: The epoch that began with the restoring.

    Returns:
        How many actions, webhooks and deliveries there are.
    """
    since = _since(engine, epoch)
    return {
        name: await _unknown(engine, activity, column, since)
        for name, (activity, column) in TRACES.items()
    }


async def complete_from_result(engine: Engine, row: GovernanceProcess) -> bool:
    """Complete a process whose workflow completed, and notify its driver under the same id."""
    record = await engine.temporal.past.result(row.community, row.name, row.id)
    if record is None:
        return False

    async def complete(session: AsyncSession) -> FollowUp | None:
        stored = await processes.lock_process(session, row.id)
        if stored is None or stored.status == COMPLETED:
            return None
        # A workflow ends after its row: a row that is behind it is an older database's.
        present = await epochs.lock_present_epoch(session)
        if not present.found_by or present.put_right is not None:
            await restoring.begin_epoch(
                session, present, found_by=restoring.TEMPORAL, at_once=False
            )
        _take(stored, record)
        return FollowUp(await append_record(session, stored)) + await end_children(session, stored)

    async with engine.database.write() as session:
        follow_up = await complete(session)
    if follow_up is None:
        return False
    log.warning("process completed as its workflow has", process=row.id, name=row.name)
    await hand_over(engine, row.community, follow_up)
    await signal_parent(engine, row)
    return True


async def _put_right_process(engine: Engine, workflow_id: str, running: bool) -> str | None:
    """Put one process right; gives what was done, if anything."""
    _, community, name, process_id = workflow_id.split("/")
    async with engine.database.read() as session:
        row = await processes.get_process(session, process_id)
    if row is not None:
        if running or row.status == COMPLETED:
            return None
        return "completed" if await complete_from_result(engine, row) else None
    if not running:
        record = await engine.temporal.past.result(community, name, process_id)
        return "put_back" if record and await _put_back(engine, record) else None
    now = utc_now().isoformat()
    record = await engine.temporal.past.last_record(workflow_id) or ProcessRecord(
        process_id, name, community, CREATED, {}, {}, None, now, now
    )
    record = replace(record, status=COMPLETED, errors=LOST, updated_at=now, completed_at=now)
    put_back = await _put_back(engine, record)
    await engine.temporal.processes.end_without_row(workflow_id)
    return "lost" if put_back else None


async def _put_back(engine: Engine, record: ProcessRecord) -> bool:
    """Store a completed process that the database has not, and have its driver read of it."""
    plugin, _, slug = record.name.partition(".")
    instance = record.instance or plugin
    async with engine.database.write() as session:
        if await processes.get_process(session, record.id) is not None:
            return False
        instances = await communities.instances_of(session, record.community)
        row = GovernanceProcess(
            id=record.id,
            community=record.community,
            plugin=plugin,
            slug=slug,
            instance_id=next((one.id for one in instances if one.instance == instance), ""),
            instance=instance,
            community_platform_id=record.community_platform_id,
            created_at=datetime.fromisoformat(record.created_at),
        )
        _take(row, record)
        session.add(row)
        if await outbox.get_item(session, record_item_id(row.id, row.updated_at)) is None:
            await append_record(session, row)
    return True


def _take(row: GovernanceProcess, record: ProcessRecord) -> None:
    row.status = record.status
    row.outcome, row.errors, row.url = record.outcome, record.errors, record.url
    row.closing_at = record.closing_moment
    row.webhooks_left_out = record.webhooks_left_out
    row.updated_at = datetime.fromisoformat(record.updated_at)
    if record.completed_at is not None:
        row.completed_at = datetime.fromisoformat(record.completed_at)


def _since(engine: Engine, epoch: DatabaseEpoch) -> datetime:
    """When the database was backed up, or so long ago that what is gone was deleted."""
    settings = engine.settings
    kept = min(
        settings.invocation_retention_days,
        settings.webhook_retention_days,
        settings.delivery_retention_days,
    )
    return epoch.backup_at or epoch.began_at - timedelta(days=kept)


async def _unknown(engine: Engine, activity: str, column: Any, since: datetime) -> int:
    """How many of what Temporal has a trace of have no row."""
    missing, asked = 0, list[str]()
    async for row_id in engine.temporal.past.activities_since(activity, since):
        asked.append(row_id)
        if len(asked) == ASKED_AT_ONCE:
            missing += await _missing(engine, column, asked)
            asked = []
    return missing + await _missing(engine, column, asked)


async def _missing(engine: Engine, column: Any, ids: Sequence[str]) -> int:
    wanted = set(ids)
    async with engine.database.read() as session:
        there = (await session.exec(select(column).where(col(column).in_(wanted)))).all()
    return len(wanted - set(there))
