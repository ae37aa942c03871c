"""Units of work that faults are thrown at, each with the count of what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from faults.driver import Delivery
from faults.world import COMMUNITY, PAUSE_SECONDS, World

HEADERS = {"X-Metagov-Community": COMMUNITY}


@dataclass
class Outcome:
    """What became of one unit.

    Attributes:
        name: The unit's.
        lost: Something that happened was never delivered, or something asked for never done.
        doubled: An effect was made twice, or a change delivered under two ids.
        unknown: The driver got an unknown outcome.
        again: How often the driver got an id again that it had taken.
        left_out: How many votes the record says to have been left out.
        wrong: What was reported to it that was not so, or too late.
        notes: What more there is to say of it.
        seconds: How long its longest call took.
    """

    name: str
    lost: bool = False
    doubled: bool = False
    unknown: bool = False
    again: int = 0
    left_out: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Unit:
    """Something asked of the engine.

    Args:
        world: What surrounds the engine.

    Attributes:
        name: A name of its own, by which platforms and driver know it.
        seconds: How long its longest call of plugin code takes.
        answer: The answer to what was asked.
        wrong: What was reported to it that was not so.
    """

    kind = ""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"{self.kind}-{uuid4().hex[:12]}"
        self.seconds = 0.0
        self.answer: httpx.Response | None = None
        self.wrong: list[str] = []

    async def act(self) -> None:
        """Ask for it; the fault comes meanwhile."""
        raise NotImplementedError

    async def end(self) -> None:
        """Bring it to its end, the fault being over."""

    def deliveries(self) -> list[Delivery]:
        """What was delivered to the driver of its end."""
        raise NotImplementedError

    def delivered(self) -> set[str]:
        """The ids of the deliveries of its end that the driver took."""
        return {item.id for item in self.deliveries() if item.taken}

    def effects(self) -> int:
        """How often it had its effect on the platform."""
        raise NotImplementedError

    @property
    def unknown(self) -> bool:
        """Whether the driver got an unknown outcome."""
        return self.answer is not None and self.answer.status_code == 504

    def again(self) -> int:
        """How often the driver got what it had taken."""
        return self.world.driver.again(self.name)

    async def wait_delivered(self) -> None:
        """Wait until its end is delivered; give up when patience ends."""
        deadline = asyncio.get_running_loop().time() + self.world.client.patience_seconds
        while not (self.delivered() or self.unknown):
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def ask(
        self, method: str, path: str, *, api: int | None = None, **sent: Any
    ) -> httpx.Response:
        """Ask the engine, and note an answer that it should not give."""
        answer = await self.world.client.ask(method, path, api=api, refused=self._refused, **sent)
        if answer.status_code == 500:
            self.wrong.append(f"{method} {path}: 500 {answer.text:.200}")
        return answer

    async def attempt(self, work: Callable[[], Any]) -> None:
        """Do a part of it; that it cannot be done is noted."""
        try:
            await work()
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            self.wrong.append(f"{work.__name__}: {type(error).__name__} {error}")

    def _refused(self, answer: httpx.Response) -> None:
        if self.effects():
            self.wrong.append(f"503 although it was done: {answer.text:.200}")

    def outcome(self) -> Outcome:
        """Count what became of it."""
        delivered = self.delivered()
        return Outcome(
            self.name,
            lost=not (delivered or self.unknown),
            doubled=len(delivered) > 1 or self.effects() > 1,
            unknown=self.unknown,
            again=self.again(),
            wrong=self.wrong,
            seconds=self.seconds,
        )


class InTime(Unit):
    """Something that is to be answered soon, whatever happens to others."""

    longest_seconds = 10.0

    async def act(self) -> None:
        """Ask for it, and measure the time."""
        asked = time.monotonic()
        await super().act()
        took = time.monotonic() - asked
        if took > self.longest_seconds + self.seconds:
            self.wrong.append(f"answered after {took:.0f} s")


class Action(Unit):
    """An action whose effect must not be repeated, and the event that it sends."""

    kind = "action"
    slug = "once"

    async def act(self) -> None:
        """Perform it, with an idempotency key."""
        self.answer = await self._send()

    async def _send(self, api: int | None = None) -> httpx.Response:
        return await self.ask(
            "POST",
            f"/api/internal/action/durable.{self.slug}",
            api=api,
            json={"parameters": {"id": self.name, "seconds": self.seconds}},
            headers={**HEADERS, "Idempotency-Key": self.name},
        )

    def deliveries(self) -> list[Delivery]:
        """The event."""
        return self.world.driver.received(self.name, event_type="acted")

    def effects(self) -> int:
        """Calls of the platform."""
        return self.world.made(f"action {self.name}")


class ActionRepeated(Action):
    """The same, asked for once more with the same key when the fault is over."""

    async def end(self) -> None:
        """Ask again: the answer is the first one, or one that was not known then."""
        first, self.answer = self.answer, await self._send()
        if first is not None and first.status_code != 504:
            same = (first.status_code, first.text) == (self.answer.status_code, self.answer.text)
            if not same:
                self.wrong.append(f"answered {first.text:.100}, then {self.answer.text:.100}")


class ActionTwice(Action):
    """Two requests with one key, at the same moment, on two API processes."""

    async def act(self) -> None:
        """Send both."""
        first, second = await asyncio.gather(*(self._send(api) for api in (0, 1)))
        if first.text != second.text:
            self.wrong.append(f"answered {first.text:.100} and {second.text:.100}")
        self.answer = first


class ActionInTime(InTime, Action):
    """An action that others' trouble must not delay."""


class ActionAgain(Action):
    """An action that may be repeated: only its last effect counts."""

    slug = "again"

    def effects(self) -> int:
        """Changes that were delivered to the driver."""
        return len(self.delivered())

    def _refused(self, answer: httpx.Response) -> None:
        """Doing it again changes nothing, so it may be asked for again whatever was done."""


class Webhook(Unit):
    """A platform's webhook, sent until it is answered, and the event that comes of it."""

    kind = "webhook"
    copies = 1
    api: int | None = None

    async def act(self) -> None:
        """Send it."""
        await asyncio.gather(*(self._send() for _ in range(self.copies)))

    async def _send(self) -> None:
        self.answer = await self.ask(
            "POST",
            f"/api/hooks/{COMMUNITY}/durable",
            api=self.api,
            content=self.name,
            headers={"X-Delivery": self.name, "X-Concerns": "nobody"},
        )

    def deliveries(self) -> list[Delivery]:
        """The event."""
        return self.world.driver.received(self.name, event_type="heard")

    def effects(self) -> int:
        """How often it was delivered; the receiver itself may be called again."""
        return len(self.delivered())


class WebhookInTime(InTime, Webhook):
    """A webhook that others' trouble must not delay."""


class WebhookFiftyTimes(Webhook):
    """The same webhook fifty times at once, on both API processes."""

    copies = 50

    def effects(self) -> int:
        """Calls of the receiver."""
        return self.world.made(f"received {self.name}")

    def _refused(self, answer: httpx.Response) -> None:
        """One of fifty may be refused though another was handled."""
