"""Polls many processes with one request: all that are pending of a class and plugin instance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity

from engine.errors import EngineError, PluginPausedError, WorkerLostError
from engine.invocations.effects import Effects, FollowUp, effects_of, hand_over
from engine.invocations.heartbeat import again_in, remember, remembered, with_heartbeat
from engine.invocations.loading import LoadedPlugin, load_plugin
from engine.invocations.lost_calls import clear, forgive, is_suspect
from engine.invocations.pacing import call_at_once, wait_for_poll
from engine.invocations.process import ChangeProcess, load_process, lock, snapshot_of
from engine.messages import COMPLETED, PollTogether, ProcessRecord
from engine.resources import Engine
from engine.sdk.registry import ProcessDeclaration, Registry
from engine.store import communities, processes
from engine.store.processes import GovernanceProcess

log = structlog.get_logger()

JITTER = 0.1
NEXT = "next"


class BatchedPollActivities:
    """The activity that polls the processes of a class together.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="poll_processes")
    async def poll_processes(self, poll: PollTogether) -> None:
        """Call ``update_many`` now and then; ends when the plugin is disabled.

        Args:
            poll: Which class and plugin instance.

        Raises:
            ApplicationError: The next poll is not due yet.
        """
        await with_heartbeat(self._poll(poll))

    async def _poll(self, poll: PollTogether) -> None:
        try:
            await self._try(poll)
        except PluginPausedError as error:
            raise again_in("not_due", error.retry_after_seconds) from None
        except WorkerLostError:
            # It is paused from now on; after that it is given as many tries again.
            await forgive(self._engine, poll.call_id)
            raise again_in("not_due", None) from None

    async def _try(self, poll: PollTogether) -> None:
        key = f"{poll.call_id}#{activity.info().attempt}"
        async with self._engine.database.read() as session:
            enabled = await communities.find_enabled(session, poll.instance_id)
            if enabled is None:
                return  # Disabled; if it was enabled anew, another one polls.
            suspect = poll.notes_ends and await is_suspect(self._engine, poll.call_id, enabled)
            plugin = await load_plugin(self._engine, session, enabled, key)
            plugin.isolated |= suspect
            rows = await processes.pending_of_class(session, poll.instance_id, poll.slug)
        declaration = plugin.declaration.processes.get(poll.slug)
        if declaration is None or not declaration.polls_together:
            return
        if activity.info().attempt > 1:
            most = declaration.cls.most_together
            rows = rows[_first_of(rows, remembered(NEXT)) :]
            for some in (rows[n : n + most] for n in range(0, len(rows), most)):
                turn = await wait_for_poll(self._engine, plugin)
                if turn > timedelta(0):
                    # The next try goes on with these, or those at the end would never be polled.
                    remember(NEXT, some[0].id)
                    raise again_in("not_due", turn.total_seconds())
                remember(NEXT, None)
                await self._update(plugin, declaration, some, key)
                again = await self._loaded_anew(poll, key)
                if again is None:
                    return
                again.isolated |= suspect
                plugin = again
            await clear(self._engine, poll.call_id)
        every = declaration.poll_every_seconds or self._engine.settings.poll_interval_seconds
        raise again_in("not_due", every * random.uniform(1 - JITTER, 1))  # noqa: S311

    async def _loaded_anew(self, poll: PollTogether, key: str) -> LoadedPlugin | None:
        async with self._engine.database.read() as session:
            enabled = await communities.find_enabled(session, poll.instance_id)
            return await load_plugin(self._engine, session, enabled, key) if enabled else None

    async def _update(
        self,
        plugin: LoadedPlugin,
        declaration: ProcessDeclaration,
        rows: Sequence[GovernanceProcess],
        key: str,
    ) -> None:
        loaded = [load_process(plugin, row, declaration) for row in rows]
        what = f"the update_many of process '{declaration.name}'"
        cls: Any = declaration.cls
        objects = [item.process for item in loaded]
        try:
            await call_at_once(self._engine, plugin, what, cls.update_many, objects)
            made = [ChangeProcess(item, snapshot_of(self._engine, item)) for item in loaded]
            changed = [change for change in made if change.changes_anything]
            effects = effects_of(self._engine, plugin)
            records = await self._commit(plugin, changed, effects) if changed or effects else []
        except WorkerLostError:
            raise
        except EngineError as error:
            log.warning("poll failed", name=declaration.name, kind=error.kind, detail=error.detail)
            return
        for record in records:
            await self._engine.temporal.processes.reload(record)
        if records:
            log.info("poll brought news", name=declaration.name, key=key, processes=len(records))

    async def _commit(
        self, plugin: LoadedPlugin, changed: Sequence[ChangeProcess], effects: Effects
    ) -> list[ProcessRecord]:
        """Store all of it at once; a process that changed meanwhile is left to the next poll."""

        async def store(session: AsyncSession) -> tuple[list[ProcessRecord], FollowUp]:
            records, follow_up = [], FollowUp(effects.items)
            for change in sorted(changed, key=lambda change: change.loaded.row.id):
                row = await lock(session, change.loaded.row.id)
                if row.status == COMPLETED or row.updated_at != change.loaded.row.updated_at:
                    continue
                follow_up += await change.store(session, row)
                records.append(row.record())
            await effects.store(session)
            return records, follow_up

        records, follow_up = await self._engine.database.persist(store)
        await hand_over(self._engine, plugin.community, follow_up)
        return records


def _first_of(rows: Sequence[GovernanceProcess], process_id: str | None) -> int:
    """Where in the rows a process stands; at their beginning if it has ended meanwhile."""
    return next((index for index, row in enumerate(rows) if row.id == process_id), 0)


async def poll_together(engine: Engine, community: str | None = None) -> int:
    """Start the activities that poll processes together; gives how many were missing."""
    async with engine.database.read() as session:
        found = await processes.unfinished_classes(session, community)
    started = 0
    for name, plugin, slug, instance_id, instance in found:
        declared = Registry.plugins.get(plugin)
        process = declared.processes.get(slug) if declared else None
        if process is not None and process.polls_together:
            poll = PollTogether(name, plugin, slug, instance_id, notes_ends=True, instance=instance)
            started += await engine.temporal.background.poll_together(poll)
    return started
