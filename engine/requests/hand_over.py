"""Hands stored webhooks over to Temporal, while no request's turn waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from engine.errors import UnavailableError
from engine.resources import Engine
from engine.schedules import Schedules
from engine.temporal.background import WEBHOOK_HAND_OVER, Background

log = structlog.get_logger()

LONGEST_WAIT_SECONDS = 1.0
MOST_UNDER_WAY = 1000


@dataclass(frozen=True)
class StoredWebhook:
    """A webhook that is to be handled."""

    community: str
    plugin: str
    instance: str
    id: str


class HandOver:
    """Has stored webhooks handled, in the order in which they come.

    What Temporal does not take is stored, so it is not lost: the reconciliation hands it over as
    soon as the server answers again.

    Args:
        background: What is asked of Temporal.
        schedules: Has the reconciliation run.
        at_once: How many are handed over at once.
    """

    def __init__(self, background: Background, schedules: Schedules, at_once: int) -> None:
        self._background = background
        self._schedules = schedules
        self._turns = asyncio.Semaphore(at_once)
        self._under_way: set[asyncio.Task[None]] = set()

    async def hand_over(self, stored: Sequence[StoredWebhook]) -> None:
        """Have webhooks handled; a server that does not answer is not waited for for long.

        Args:
            stored: The webhooks.
        """
        tasks = [self._begin(webhook) for webhook in stored]
        if tasks:
            await asyncio.wait(tasks, timeout=LONGEST_WAIT_SECONDS)

    async def close(self) -> None:
        """Let what is under way end."""
        if self._under_way:
            longest = 2 * WEBHOOK_HAND_OVER.total_seconds()
            _, late = await asyncio.wait(self._under_way, timeout=longest)
            for task in late:
                task.cancel()

    def _begin(self, webhook: StoredWebhook) -> asyncio.Task[None]:
        task = asyncio.create_task(self._hand_over(webhook))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _hand_over(self, webhook: StoredWebhook) -> None:
        if len(self._under_way) > MOST_UNDER_WAY:
            self._leave(webhook)
            return
        async with self._turns:
            if self._schedules.waits_for_server:
                # It is known to be away.
                self._leave(webhook)
                return
            try:
                await self._background.receive_webhook(
                    webhook.community, webhook.plugin, webhook.instance, webhook.id
                )
            except UnavailableError:
                self._leave(webhook)

    def _leave(self, webhook: StoredWebhook) -> None:
        log.warning("webhook waits for temporal", webhook=webhook.id)
        self._schedules.reconcile_when_reachable()


async def send_pending(engine: Engine) -> None:
    """Start everything that is stored as pending: now, or as soon as Temporal answers."""
    try:
        await engine.temporal.background.send_pending()
    except UnavailableError:
        engine.schedules.reconcile_when_reachable()
