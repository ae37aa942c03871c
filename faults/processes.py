"""Processes that faults are thrown at: polls of a platform, and votes that are polled."""

from __future__ import annotations

import asyncio
from typing import Any

from faults.driver import Delivery
from faults.units import Outcome, Unit
from faults.world import COMMUNITY

LONGEST_NEWS_SECONDS = 20.0


class Process(Unit):
    """A process with a callback."""

    kind = "process"
    path = ""
    community = COMMUNITY
    expected_code: str | None = None

    def body(self) -> dict[str, Any]:
        """Its parameters."""
        raise NotImplementedError

    async def act(self) -> None:
        """Start it, with an idempotency key."""
        await self.start()

    async def start(self) -> bool:
        """Start it; gives whether it is known to run."""
        self.answer = await self.ask(
            "POST",
            f"/api/internal/process/{self.path}",
            json={"callback_url": f"{self.world.driver.url}/callback/{self.name}", **self.body()},
            headers={"X-Metagov-Community": self.community, "Idempotency-Key": self.name},
        )
        return self.answer.status_code == 202

    @property
    def process_id(self) -> str:
        """Its id; empty as long as it is not known."""
        if self.answer is not None and self.answer.status_code == 202:
            return str(self.answer.json()["id"])
        return next((str(item.body["id"]) for item in self.deliveries()), "")

    @property
    def location(self) -> str:
        """Where its record is read and closed."""
        return f"/api/internal/process/{self.path}/{self.process_id}"

    def deliveries(self) -> list[Delivery]:
        """The callbacks of the completed record, unless it was never started."""
        return [
            item
            for item in self.world.driver.received(self.name, status="completed")
            if item.body["errors"].get("code") != "start_failed"
        ]

    @property
    def unknown(self) -> bool:
        """Whether the answer or the callback said so."""
        codes = [item.body["errors"].get("code") for item in self.deliveries()]
        return super().unknown or "start_outcome_unknown" in codes

    def again(self) -> int:
        """Callbacks that came again."""
        return self.world.driver.again(self.name, status="completed")

    def outcome(self) -> Outcome:
        """Count what became of it; one that was started ends with an outcome."""
        found = super().outcome()
        for item in self.deliveries():
            code = item.body["errors"].get("code")
            if code not in (None, "start_outcome_unknown", self.expected_code):
                found.wrong.append(f"ended with {item.body['errors']}")
        return found


class LoomioPoll(Process):
    """A poll on Loomio, which a member closes; Loomio sends a webhook."""

    kind = "poll"
    path = "loomio.poll"

    def body(self) -> dict[str, Any]:
        """A poll of two options."""
        return {
            "title": self.name,
            "poll_type": "poll",
            "options": ["soup", "salad"],
            "closing_at": "2099-01-01T00:00:00Z",
        }

    def _polls(self) -> list[Any]:
        return [p for p in list(self.world.twin.polls.values()) if p.fields["title"] == self.name]

    async def end(self) -> None:
        """Close it, as a person does."""
        for poll in self._polls():
            await asyncio.to_thread(self.world.twin.close, poll.key)

    def effects(self) -> int:
        """Polls on Loomio."""
        return len(self._polls())


class Vote(Process):
    """A vote that is polled each second until the platform has ended it."""

    kind = "vote"
    path = "durable.vote"

    def body(self) -> dict[str, Any]:
        """Its name on the platform."""
        return {"id": self.name}

    async def end(self) -> None:
        """End it on the platform."""
        self.world.note(f"end {self.name}")

    def effects(self) -> int:
        """Votes on the platform."""
        return self.world.made(f"poll {self.process_id}") if self.process_id else 0


class SlowVote(Vote):
    """One whose start takes its time, before or after its effect."""

    def body(self) -> dict[str, Any]:
        """How long, and when."""
        when = self.world.random.choice(["before", "after"])
        return {**super().body(), when: self.seconds}


class BlindVote(SlowVote):
    """One whose start cannot be looked up: cut off, its outcome is not known."""

    path = "durable.blind"


class Tally(Process):
    """Counts what happens on its platform by changing its outcome in place, before it ends."""

    kind = "tally"
    path = "voting.tally"
    news = 3
    kept = True

    def body(self) -> dict[str, Any]:
        """Its name on the platform."""
        return {"id": self.name}

    async def act(self) -> None:
        """Start it, have something happen, and wait until its record says so."""
        if not await self.start():
            return
        for _ in range(self.news):
            self.world.note(f"news {self.name}")
        deadline = asyncio.get_running_loop().time() + LONGEST_NEWS_SECONDS
        while (await self.ask("GET", self.location)).json()["outcome"] != {"n": self.news}:
            if asyncio.get_running_loop().time() > deadline:
                self.kept = False
                return
            await asyncio.sleep(0.5)

    async def end(self) -> None:
        """End it on the platform."""
        self.world.note(f"end {self.name}")

    def effects(self) -> int:
        """It has none."""
        return 0

    def outcome(self) -> Outcome:
        """What it counted must have been stored at once, and delivered at the end."""
        found = super().outcome()
        found.lost = found.lost or not self.kept
        delivered = [item.body["outcome"] for item in self.deliveries()]
        found.lost = found.lost or any(outcome != {"n": self.news} for outcome in delivered)
        found.notes += [f"delivered {outcome} of {self.news}" for outcome in delivered]
        return found


class TallyTogether(Tally):
    """The same, polled together with others."""

    path = "voting.tally-together"
