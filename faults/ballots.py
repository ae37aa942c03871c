"""Ballots whose votes come by webhook: each that was accepted counts, once, in its order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import httpx

from faults.processes import Process
from faults.units import Outcome
from faults.world import PAUSE_SECONDS, World

Closing = Literal["delete", "time", "webhook"]


@dataclass
class CastVote:
    """A vote as its sender knows it; times are those of the wall clock.

    Attributes:
        number: Which one.
        sent: When it was first sent: it was accepted later than that.
        accepted: When it was answered with 200: it was accepted before that.
    """

    number: int
    sent: float
    accepted: float | None = None


@dataclass(frozen=True)
class Count:
    """What is wrong with an outcome.

    Attributes:
        missing: Votes that were accepted in time and do not count.
        doubled: Votes that count more than once.
        disordered: Pairs that count in another order than that of their acceptance.
    """

    missing: list[int]
    doubled: list[int]
    disordered: list[tuple[int, int]]


def count_votes(cast: Sequence[CastVote], counted: Sequence[int], closed: float) -> Count:
    """Compare what was cast with what counts.

    Args:
        cast: All votes that were sent.
        counted: The outcome.
        closed: When the close was asked; votes accepted before that have to count.

    Returns:
        What is wrong with it.
    """
    times = Counter(counted)
    due = {vote.number for vote in cast if vote.accepted is not None and vote.accepted < closed}
    known = {vote.number: vote for vote in cast}
    disordered: list[tuple[int, int]] = []
    for place, number in enumerate(counted[1:], 1):
        # A vote that counts before it must not have been sent after it was accepted.
        accepted = known[number].accepted
        latest = max(counted[:place], key=lambda earlier: known[earlier].sent)
        if accepted is not None and known[latest].sent > accepted:
            disordered.append((latest, number))
    return Count(
        missing=sorted(due - times.keys()),
        doubled=sorted(number for number, count in times.items() if count > 1),
        disordered=disordered,
    )


class Ballot(Process):
    """A ballot: started, voted in by some people at once, and closed at once after that.

    Args:
        world: What surrounds the engine.
        closing: What closes it: the driver, its closing time, or one more webhook.
        keyed: Whether its webhooks name it; else each concerns every process of the community.
        votes: How many.
        early: After which share of the votes it is closed while the others go on.
        slow: Which of its calls takes ``seconds``: ``starting``, ``closing``, the handling of one
            ``vote`` or of ``every vote``, or the ``receiver`` of one.
        voters: How many people vote at once, each one vote after the other.

    Attributes:
        cast: The votes.
        closed: When its close was asked.
        answered: How many votes were answered.
        close_unknown: Whether the answer to the close was *outcome unknown*.
    """

    kind = "ballot"
    path = "voting.ballot"

    def __init__(
        self,
        world: World,
        closing: Closing = "delete",
        keyed: bool = True,
        votes: int = 30,
        early: float = 1.0,
        slow: str = "vote",
        voters: int = 6,
    ) -> None:
        super().__init__(world)
        self.closing = closing
        self.keyed = keyed
        self.votes = votes
        self.early = early
        self.slow = slow
        self.voters = voters
        self.cast: list[CastVote] = []
        self.closed = float("inf")
        self.answered = 0
        self.close_unknown = False

    def body(self) -> dict[str, Any]:
        """Its name, and which of its calls take how long."""
        body: dict[str, Any] = {"id": self.name, "keyed": self.keyed}
        if self.closing == "time":
            body["closes_in"] = self.world.random.uniform(2, 5)
        return body | {key: self.seconds for key in ("starting", "closing") if key == self.slow}

    async def act(self) -> None:
        """Start it, vote, close it."""
        async with AsyncExitStack() as stack:
            if not self.keyed:
                self.community = await stack.enter_async_context(self.world.lone_community())
            if not await self.start():
                return
            assert self.answer is not None
            if self.closing == "time":
                moment = datetime.fromisoformat(self.answer.json()["closing_at"])
                self.closed = moment.timestamp()
            numbers = list(range(self.votes))
            async with asyncio.TaskGroup() as people:
                for first in range(self.voters):
                    people.create_task(self.vote(numbers[first :: self.voters]))
                people.create_task(self._close_in_time())

    async def vote(self, numbers: Sequence[int]) -> None:
        """Send votes one after the other."""
        for number in numbers:
            vote = CastVote(number, time.time())
            self.cast.append(vote)
            slow = self.slow if number == self.votes // 2 else ""
            answer = await self._send(
                f"{self.name}-{number}",
                number=number,
                seconds=self.seconds if slow == "vote" or self.slow == "every vote" else 0,
                receiving=self.seconds if slow == "receiver" else 0,
            )
            self.answered += 1
            if answer.status_code == 200:
                vote.accepted = time.time()
            else:
                self.wrong.append(f"vote {number}: {answer.status_code} {answer.text:.100}")

    async def _send(self, delivery: str, **body: Any) -> httpx.Response:
        return await self.ask(
            "POST",
            f"/api/hooks/{self.community}/voting",
            json={"ballot": self.name, **body},
            headers={"X-Delivery": delivery} | ({"X-Concerns": self.name} if self.keyed else {}),
        )

    async def _close_in_time(self) -> None:
        while self.answered < self.early * self.votes:
            await asyncio.sleep(PAUSE_SECONDS / 5)
        if self.closing == "webhook":
            self.closed = time.time()
            await self._send(f"{self.name}-last", last=True)
        elif self.closing == "delete":
            self.closed = time.time()
            await self.close()

    async def close(self, key: str = "close") -> httpx.Response:
        """Ask the engine to close it.

        Args:
            key: What the idempotency key is made of.

        Returns:
            The answer.
        """
        answer = await self.ask(
            "DELETE", self.location, headers={"Idempotency-Key": f"{self.name} {key}"}
        )
        self.close_unknown = answer.status_code == 504
        if answer.status_code not in (200, 202, 504):
            self.wrong.append(f"DELETE: {answer.status_code} {answer.text:.200}")
        return answer

    def _refused(self, answer: httpx.Response) -> None:
        # A vote may be refused however many ballots there are.
        if self.answer is None:
            super()._refused(answer)

    async def end(self) -> None:
        """Close it anew if nobody knows whether it was closed, and it was not."""
        if self.close_unknown:
            record = (await self.ask("GET", self.location)).json()
            if record["status"] == "pending":
                await self.close("close anew")
            self.close_unknown = True

    def effects(self) -> int:
        """Ballots on the platform."""
        return self.world.made(f"ballot {self.name}")

    def outcome(self) -> Outcome:
        """Count the votes too; a record that says how many were left out is as good as 504."""
        found = super().outcome()
        deliveries = self.deliveries()
        found.unknown = found.unknown or self.close_unknown
        if not deliveries:
            return found
        record = deliveries[-1].body
        count = count_votes(self.cast, (record["outcome"] or {}).get("votes", []), self.closed)
        if count.missing:
            found.left_out = record.get("webhooks_left_out") or 0
            found.unknown = found.unknown or found.left_out >= len(count.missing)
            found.lost = found.lost or found.left_out < len(count.missing)
            found.notes.append(f"votes {count.missing} of {self.votes} do not count")
        found.doubled = found.doubled or bool(count.doubled)
        found.wrong += [f"{later} counts before {earlier}" for later, earlier in count.disordered]
        return found


class BallotClosedAgain(Ballot):
    """A ballot of which nobody knows what DELETE was answered: it is sent again, with its key."""

    kind = "closed"
    answer_lost = False

    async def end(self) -> None:
        """Close it once more: the answer is the same record."""
        await super().end()
        answer = await self.close()
        if not self.close_unknown and (
            answer.status_code != 200 or answer.json()["status"] != "completed"
        ):
            self.answer_lost = True

    def outcome(self) -> Outcome:
        """An answer that cannot be had again is lost."""
        found = super().outcome()
        found.lost = found.lost or self.answer_lost
        return found
