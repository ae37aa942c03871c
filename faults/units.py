"""Units of work that faults are thrown at, each with the count of what became of it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from faults.cluster import Cluster
from faults.driver import Driver
from sandbox.loomio import GROUP, LoomioTwin

COMMUNITY = "faults"
HEADERS = {"X-Metagov-Community": COMMUNITY}
PATIENCE_SECONDS = 120
PAUSE_SECONDS = 0.1


@dataclass
class Outcome:
    """What became of one unit.

    Attributes:
        lost: Something that happened was never told, or something asked for never done.
        doubled: An effect was made twice, or a change told under two ids.
        unknown: The driver was told that the outcome is not known.
        again: How often the driver got an id again that it had taken.
    """

    lost: bool = False
    doubled: bool = False
    unknown: bool = False
    again: int = 0


class World:
    """What surrounds the engine: the driver, the platforms, and the clients.

    Args:
        cluster: The engine.
        driver: The driver's endpoint.
        twin: A Loomio server.
        platform: The platform behind the plugin ``durable``: a file.
        random: The source of all chance.
    """

    def __init__(
        self,
        cluster: Cluster,
        driver: Driver,
        twin: LoomioTwin,
        platform: Path,
        random: random.Random,
    ) -> None:
        self.cluster = cluster
        self.driver = driver
        self.twin = twin
        self.platform = platform
        self.random = random
        self.postgresql: object | None = None
        self.http = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=200))

    async def enable(self) -> None:
        """Make the community, with the plugins that faults are thrown at."""
        loomio = {"server_url": self.twin.base_url, "api_key": self.twin.api_key, "group_id": GROUP}
        body = {
            "name": COMMUNITY,
            "plugins": [
                {"name": "loomio", "config": loomio},
                {"name": "durable", "config": {"platform": str(self.platform)}},
            ],
        }
        answer = await self.http.put(
            f"{self.cluster.apis[0]}/api/internal/community/{COMMUNITY}", json=body
        )
        answer.raise_for_status()
        server = f"{self.cluster.apis[0]}/api/hooks/{COMMUNITY}/loomio"
        self.twin.add_chatbot({"server": server})

    async def ask(self, method: str, path: str, api: int | None = None, **sent: Any) -> Any:
        """Send a request as a driver or platform does that wants it answered: again and again.

        Args:
            method: The HTTP method.
            path: The path.
            api: Which API process; default: any, another one each time.
            sent: Body and headers.

        Returns:
            The answer that was none of 503 and no broken connection.

        Raises:
            TimeoutError: There is none in two minutes.
        """
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                number = self.random.randrange(2) if api is None else api
                try:
                    answer = await self.http.request(
                        method, self.cluster.apis[number] + path, **sent
                    )
                    if answer.status_code != 503:
                        return answer
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(PAUSE_SECONDS)

    async def settled(self) -> None:
        """Wait until the engine has nothing left to send or to handle: what comes twice has come.

        Raises:
            TimeoutError: It has, after two minutes.
        """
        waiting = (
            "SELECT (SELECT count(*) FROM outbox_item WHERE status = 'pending')"
            " + (SELECT count(*) FROM received_webhook WHERE status = 'received')"
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await asyncio.to_thread(self.cluster.count, waiting):
                await asyncio.sleep(PAUSE_SECONDS)

    def effects(self) -> list[str]:
        """The lines of the file that stands for a platform."""
        return self.platform.read_text().split("\n")[:-1] if self.platform.exists() else []

    def note(self, line: str) -> None:
        """Write a line into that file."""
        with self.platform.open("a") as file:
            file.write(f"{line}\n")


class Unit:
    """Something asked of the engine."""

    kind = ""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"{self.kind}-{uuid4().hex[:12]}"
        self.answer: httpx.Response | None = None

    async def act(self) -> None:
        """Ask for it; the fault comes meanwhile."""
        raise NotImplementedError

    async def end(self) -> None:
        """Bring it to its end, the fault being over."""

    def told(self) -> set[str]:
        """The ids under which the driver was told of its end."""
        raise NotImplementedError

    def effects(self) -> int:
        """How often it had its effect on the platform."""
        raise NotImplementedError

    @property
    def unknown(self) -> bool:
        """Whether the driver was told that the outcome is not known."""
        return self.answer is not None and self.answer.status_code == 504

    def again(self) -> int:
        """How often the driver got what it had taken."""
        return 0

    async def heard_of(self) -> None:
        """Wait until the driver has been told; give up after two minutes."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not (self.told() or self.unknown):
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(PAUSE_SECONDS)

    def outcome(self) -> Outcome:
        """Count what became of it."""
        return Outcome(
            lost=not (self.told() or self.unknown),
            doubled=len(self.told()) > 1 or self.effects() > 1,
            unknown=self.unknown,
            again=self.again(),
        )


class Action(Unit):
    """An action whose effect must not be repeated, and the event that it sends."""

    kind = "action"
    slug = "once"
    seconds = 0.5

    async def act(self) -> None:
        """Perform it, with an idempotency key."""
        self.answer = await self.world.ask(
            "POST",
            f"/api/internal/action/durable.{self.slug}",
            json={"parameters": {"id": self.name, "seconds": self.seconds}},
            headers={**HEADERS, "Idempotency-Key": self.name},
        )

    def told(self) -> set[str]:
        """The event."""
        return self.world.driver.ids(event_type="acted", id=self.name)

    def effects(self) -> int:
        """Calls of the platform."""
        return self.world.effects().count(f"action {self.name}")

    def again(self) -> int:
        """Events that came again."""
        return self.world.driver.again(event_type="acted", id=self.name)


class ActionTwice(Action):
    """Two requests with one key, at the same moment, on two API processes."""

    async def act(self) -> None:
        """Send both."""
        first, second = await asyncio.gather(*(self._send(api) for api in (0, 1)))
        assert first.json() == second.json(), (first.text, second.text)
        self.answer = first

    async def _send(self, api: int) -> httpx.Response:
        answer: httpx.Response = await self.world.ask(
            "POST",
            "/api/internal/action/durable.once",
            api=api,
            json={"parameters": {"id": self.name, "seconds": self.seconds}},
            headers={**HEADERS, "Idempotency-Key": self.name},
        )
        return answer


class Webhook(Unit):
    """A platform's webhook, sent until it is answered, and the event that comes of it."""

    kind = "webhook"
    copies = 1
    api: int | None = None

    async def act(self) -> None:
        """Send it."""
        await asyncio.gather(*(self._send() for _ in range(self.copies)))

    async def _send(self) -> None:
        self.answer = await self.world.ask(
            "POST",
            f"/api/hooks/{COMMUNITY}/durable",
            api=self.api,
            content=self.name,
            headers={"X-Delivery": self.name, "X-Concerns": "nobody"},
        )

    def told(self) -> set[str]:
        """The event."""
        return self.world.driver.ids(event_type="heard", text=self.name)

    def effects(self) -> int:
        """How often it was told; the receiver itself may be called again."""
        return len(self.told())

    def again(self) -> int:
        """Events that came again."""
        return self.world.driver.again(event_type="heard", text=self.name)


class WebhookFiftyTimes(Webhook):
    """The same webhook fifty times at once, on both API processes."""

    copies = 50

    def effects(self) -> int:
        """Calls of the receiver."""
        return self.world.effects().count(f"received {self.name}")


class Process(Unit):
    """A process with a callback."""

    kind = "process"
    path = ""

    def body(self) -> dict[str, Any]:
        """Its parameters."""
        raise NotImplementedError

    async def act(self) -> None:
        """Start it, with an idempotency key."""
        self.answer = await self.world.ask(
            "POST",
            f"/api/internal/process/{self.path}",
            json={"callback_url": f"{self.world.driver.url}/callback", **self.body()},
            headers={**HEADERS, "Idempotency-Key": self.name},
        )

    @property
    def process_id(self) -> str:
        """Its id; empty as long as it is not known."""
        if self.answer is None or self.answer.status_code != 202:
            return ""
        return str(self.answer.json()["id"])

    def told(self) -> set[str]:
        """The callbacks of the completed record."""
        return self.world.driver.ids(id=self.process_id, status="completed")

    def again(self) -> int:
        """Callbacks that came again."""
        return self.world.driver.again(id=self.process_id, status="completed")


class LoomioPoll(Process):
    """A poll on Loomio, which a member closes; Loomio tells of it by a webhook."""

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
        process_id = self.process_id
        lines = [line for line in self.world.effects() if line.startswith("poll ")]
        return len([line for line in lines if process_id and process_id in line])


MIXED: list[type[Unit]] = [Action, Webhook, LoomioPoll, Vote]
