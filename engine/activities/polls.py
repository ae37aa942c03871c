"""Polls processes: the activity that asks again and again, without a trace in the history."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from engine.activities.process_calls import (
    DoneBefore,
    LoadedProcess,
    again_at,
    commit,
    end_process,
    load_process,
    snapshot_of,
)
from engine.errors import (
    EngineError,
    PluginPausedError,
    StateConflictError,
    WorkerLostError,
)
from engine.invocations.effects import start_deliveries
from engine.invocations.heartbeat import again_in, with_heartbeat
from engine.invocations.lost_calls import clear
from engine.invocations.pacing import noting_limits, wait_for_poll
from engine.messages import InvocationOutcome, PollProcess
from engine.resources import Engine
from engine.sdk.process import ProcessSnapshot
from engine.store.database import utc_now

log = structlog.get_logger()

JITTER = 0.1


class PollActivities:
    """The activity that polls a process.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="poll_process")
    async def poll_process(self, poll: PollProcess) -> InvocationOutcome:
        """Call ``update`` now and then; fails, to be retried, as long as there is no news.

        Args:
            poll: Which process.

        Returns:
            The record, once it has changed.

        Raises:
            ApplicationError: There is no news yet.
        """
        return await with_heartbeat(self._poll(poll))

    async def _poll(self, poll: PollProcess) -> InvocationOutcome:
        try:
            return await self._try(poll)
        except PluginPausedError as error:
            raise again_in("no_news", error.retry_after_seconds) from None
        except WorkerLostError as error:
            return InvocationOutcome(
                await end_process(self._engine, poll.process_id, error.kind, error.detail)
            )

    async def _try(self, poll: PollProcess) -> InvocationOutcome:
        loaded = await load_process(
            self._engine, poll.process_id, poll.invocation_id, counts_losses=poll.notes_ends
        )
        if isinstance(loaded, DoneBefore):
            await start_deliveries(self._engine, loaded.outcome.record.community, loaded.items)
            return loaded.outcome
        if activity.info().attempt == 1:
            raise self._no_news(loaded, waited=poll.polled_seconds)
        turn = await wait_for_poll(self._engine, loaded.plugin)
        if turn > timedelta(0):
            raise again_in("no_news", turn.total_seconds())
        snapshot = await self._update(loaded)
        await clear(self._engine, poll.invocation_id)
        news = loaded.is_news(snapshot)
        if not news and not loaded.had_effects(snapshot):
            raise self._no_news(loaded)
        # Without news the activity goes on polling, so it must not be marked as done.
        mark = poll.invocation_id if news else f"{poll.invocation_id}#{activity.info().attempt}"
        try:
            outcome = await commit(self._engine, loaded, snapshot, mark, "update")
        except StateConflictError:
            raise self._no_news(loaded) from None
        if not news:
            loaded.row.poll_again_at = again_at(snapshot)
            raise self._no_news(loaded)
        log.info(
            "poll brought news",
            process=poll.process_id,
            community=outcome.record.community,
            name=loaded.name,
            status=outcome.record.status,
        )
        return outcome

    async def _update(self, loaded: LoadedProcess) -> ProcessSnapshot:
        process: Any = loaded.process
        what = f"the update of process '{loaded.name}'"
        try:
            await noting_limits(self._engine, loaded.plugin, what, process.update)
            return snapshot_of(self._engine, loaded)
        except WorkerLostError:
            raise
        except EngineError as error:
            log.warning(
                "poll failed",
                process=loaded.row.id,
                name=loaded.name,
                kind=error.kind,
                detail=error.detail,
            )
            raise self._no_news(loaded, getattr(error, "retry_after_seconds", None)) from None

    def _no_news(
        self, loaded: LoadedProcess, at_least: float | None = None, waited: float = 0.0
    ) -> ApplicationError:
        """The failure that has Temporal poll again when the next poll is due."""
        every = (
            loaded.row.poll_every_seconds
            or loaded.declaration.poll_every_seconds
            or self._engine.settings.poll_interval_seconds
        )
        # Spread, so that processes started together are not polled together.
        # Those that were stopped have waited for a part of it, so that none is put off for ever.
        seconds = (every - waited % every) * random.uniform(1 - JITTER, 1)  # noqa: S311
        chosen = loaded.row.poll_again_at
        if chosen is not None and chosen > utc_now():
            seconds = (chosen - utc_now()).total_seconds()
        return again_in("no_news", max(seconds, at_least or 0))
