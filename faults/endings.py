"""Processes that are ended by force: by a Temporal client, and by code that ends its worker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from temporalio.client import Client

from faults.processes import Process, Vote
from faults.units import Outcome
from faults.world import PAUSE_SECONDS, World

DELIVERED_SECONDS = 60.0
MOST_SWALLOWED = 3


class Cancelled(Vote):
    """A vote whose workflow is cancelled by an operator: its driver is notified within a minute.

    Args:
        world: What surrounds the engine.

    Attributes:
        ended: When it was, on the monotonic clock.
    """

    kind = "cancelled"
    expected_code = "cancelled"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.ended = 0.0

    async def act(self) -> None:
        """Start it, end its workflow, and close it when that is delivered."""
        if not await self.start():
            return
        client = await Client.connect(self.world.cluster.temporal)
        await self.withdraw(client, f"process/{self.community}/{self.path}/{self.process_id}")
        self.ended = time.monotonic()
        while not self.delivered():
            if time.monotonic() - self.ended > self.world.client.patience_seconds:
                return
            await asyncio.sleep(PAUSE_SECONDS)
        answer = await self.ask("DELETE", self.location, headers={"Idempotency-Key": self.name})
        if answer.status_code != 400:
            self.wrong.append(f"DELETE: {answer.status_code} {answer.text:.200}")

    async def withdraw(self, client: Client, workflow_id: str) -> None:
        """End the workflow."""
        await client.get_workflow_handle(workflow_id).cancel()

    def outcome(self) -> Outcome:
        """Whether it was delivered in time, and what."""
        found = super().outcome()
        for item in self.deliveries():
            if item.moment - self.ended > DELIVERED_SECONDS:
                found.wrong.append(f"delivered after {item.moment - self.ended:.0f} s")
            if item.body["errors"].get("code") != self.expected_code:
                found.wrong.append(f"delivered {item.body['errors']}")
        return found


class Terminated(Cancelled):
    """The same by terminating it."""

    async def withdraw(self, client: Client, workflow_id: str) -> None:
        """End the workflow."""
        await client.get_workflow_handle(workflow_id).terminate("by an operator")


class Pill(Process):
    """A process whose code ends its worker; three calls are lost to it at most."""

    kind = "pill"
    path = "poison.pill"
    expected_code = "worker_lost"

    def body(self) -> dict[str, Any]:
        """Its name on the platform."""
        return {"id": self.name}

    async def act(self) -> None:
        """Start it in a community of its own, send it a webhook, and wait for its end."""
        self.community = self.name
        await self.world.make_community(self.community, "poison")
        if not await self.start():
            return
        await self.ask("POST", f"/api/hooks/{self.community}/poison", content="swallow this")
        await self.wait_delivered()

    def effects(self) -> int:
        """What it did to workers is counted apart."""
        return 0

    def outcome(self) -> Outcome:
        """How many calls were lost to it."""
        found = super().outcome()
        swallowed = self.world.made(f"swallowed {self.name}")
        if swallowed > MOST_SWALLOWED:
            found.wrong.append(f"{swallowed} workers ended")
        for item in self.deliveries():
            if item.body["errors"].get("code") != self.expected_code:
                found.wrong.append(f"delivered {item.body['errors']}")
        return found


class PolledPill(Pill):
    """The same in a poll."""

    path = "poison.polled-pill"
