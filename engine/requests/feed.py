"""The feed: hands new outbox items of the database to all readers of one API process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from engine.store import outbox, outside
from engine.store.database import Database, is_outage
from engine.store.outbox import OutboxItem as OutboxItem

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 0.25


class Feed:
    """Numbers new items and wakes the readers that wait for them.

    However many readers wait, the database is read once for all of them, and not at all while
    nobody waits.

    Args:
        database: The database.
        data_dir: The data folder, in which it notes how far readers have read.
    """

    def __init__(self, database: Database, data_dir: Path) -> None:
        self.closed = False
        self._database = database
        self._data_dir = data_dir
        self._news = asyncio.Condition()
        self._waiting = 0
        self._watcher: asyncio.Task[None] | None = None

    async def read(
        self, after: int, *, community: str | None, limit: int, wait: float
    ) -> Sequence[OutboxItem]:
        """Read on, and wait for news if there are none.

        Args:
            after: The number of the last item that was read.
            community: Only this community's.
            limit: Most items.
            wait: Seconds to wait at most.

        Returns:
            The items in order; empty when the time is up, or the API stops.
        """
        deadline = asyncio.get_running_loop().time() + wait
        await self._number()
        while True:
            async with self._database.read() as session:
                items = await outbox.items_after(session, after, community=community, limit=limit)
                latest = await outbox.latest_sequence(session)
            left = deadline - asyncio.get_running_loop().time()
            if items or left <= 0 or self.closed:
                return items
            await self._wait_for_news(latest, left)

    async def latest(self) -> int:
        """The number of the newest item that there is now."""
        await self._number()
        async with self._database.read() as session:
            return await outbox.latest_sequence(session)

    def stop(self) -> None:
        """Let all readers go soon; may be called by a signal handler."""
        self.closed = True

    async def close(self) -> None:
        """Let all readers go, and wait until nobody looks any more."""
        self.closed = True
        if self._watcher is not None:
            await asyncio.gather(self._watcher, return_exceptions=True)

    async def _wait_for_news(self, latest: int, seconds: float) -> None:
        self._waiting += 1
        try:
            if self._watcher is None or self._watcher.done():
                self._watcher = asyncio.create_task(self._watch(latest))
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    async def _watch(self, latest: int) -> None:
        """Look for new items as long as somebody waits for them."""
        while self._waiting and not self.closed:
            try:
                await self._number()
                async with self._database.read() as session:
                    now = await outbox.latest_sequence(session)
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("the database does not answer; readers wait")
                now = latest
            if now != latest:
                latest = now
                async with self._news:
                    self._news.notify_all()
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        async with self._news:
            self._news.notify_all()

    async def _number(self) -> None:
        while True:
            async with self._database.read() as session:
                if not await outbox.is_anything_unnumbered(session):
                    return
            async with self._database.write() as session:
                await outbox.number_items(session)
                now = await outside.how_far(session)
            outside.remember(self._data_dir, now)
