"""Where the soak runs, and how single processes end there and come back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from faults.cluster import Cluster
from faults.postgresql import PostgreSQL
from sandbox.ports import free_ports

LONGEST_DOWN_SECONDS = 20.0
DATABASE_DOWN_SECONDS = 10.0
DATABASE_SHARE = 0.05
# The supervisor gives up on a child that ends five times in a row within ten seconds of its start.
SPARED_SECONDS = 12.0
NOT_SPARED_SHARE = 0.3


class EmbeddedCluster(Cluster):
    """What ``metagov run`` starts: Temporal, one API and one worker, kept running by it.

    Nobody starts it again if it ends itself.
    """

    async def supervise(self) -> None:
        """That is what is tried here."""

    async def start(self) -> None:
        """Start it and wait until it serves."""
        api, temporal, ui = free_ports(3)
        self.temporal = f"127.0.0.1:{temporal}"
        self.apis.append(f"http://127.0.0.1:{api}")
        environment = self.environment(temporal, ui) | {"METAGOV_PORT": str(api)}
        self.add("metagov", [sys.executable, "-m", "cli", "run"], environment)
        await self.serving()

    def children(self) -> dict[str, int]:
        """The process ids of its children, by what they are."""
        noted = json.loads((self.folder / "engine.json").read_text())["children"]
        return {item["name"].removeprefix("The "): item["pid"] for item in noted}

    def stop(self) -> None:
        """End it as an operator does, and by force if it does not."""
        program = self.programs["metagov"]
        if program.runs:
            assert program.process is not None
            program.send(signal.SIGTERM)
            program.process.wait(120)


class Victims(ABC):
    """Processes of which one at a time is killed."""

    @abstractmethod
    async def kill_one(self) -> str:
        """Kill one; gives what it is."""

    @abstractmethod
    async def all_back(self) -> None:
        """Wait until all that were killed were started again."""


class Children(Victims):
    """The children of ``metagov run``, which its supervisor starts again.

    Args:
        cluster: The engine.
        chance: Chooses.
    """

    def __init__(self, cluster: EmbeddedCluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._killed: dict[str, float] = {}

    async def kill_one(self) -> str:
        """Kill one that has run for a while, or at times one that has just been started."""
        if not self._cluster.programs["metagov"].runs:
            raise RuntimeError(f"metagov run has ended; see {self._cluster.folder}")
        name = self._chance.choice(sorted(self._cluster.children()))
        young = time.monotonic() - self._killed.get(name, 0) < SPARED_SECONDS
        if young and self._chance.random() > NOT_SPARED_SHARE:
            return ""
        try:
            os.kill(self._cluster.children()[name], signal.SIGKILL)
        except ProcessLookupError:
            return ""
        self._killed[name] = time.monotonic()
        return name

    async def all_back(self) -> None:
        """The supervisor starts them at once."""


class Programs(Victims):
    """The processes of a cluster, and its database; each comes back after a while.

    Args:
        cluster: The engine.
        database: Its database server.
        chance: Chooses.
    """

    def __init__(self, cluster: Cluster, database: PostgreSQL, chance: random.Random) -> None:
        self._cluster = cluster
        self._database = database
        self._chance = chance
        self._coming_back: set[asyncio.Task[None]] = set()
        self._database_is_up = True

    async def kill_one(self) -> str:
        """Kill one that runs."""
        if self._database_is_up and self._chance.random() < DATABASE_SHARE:
            self._database_is_up = False
            await asyncio.to_thread(self._database.crash)
            self._later(self._start_database())
            return "PostgreSQL"
        running = [program for program in self._cluster.programs.values() if program.runs]
        if not running:
            return ""
        program = self._chance.choice(running)
        program.end()

        async def start() -> None:
            await asyncio.sleep(self._chance.uniform(0, LONGEST_DOWN_SECONDS))
            program.start()

        self._later(start())
        return program.name.partition("-")[0]

    async def all_back(self) -> None:
        """Wait for those that are still down."""
        await asyncio.gather(*self._coming_back)

    async def _start_database(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, DATABASE_DOWN_SECONDS))
        await asyncio.to_thread(self._database.start)
        self._database_is_up = True

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._coming_back.add(task)
        task.add_done_callback(self._coming_back.discard)


def log_lines(folder: Path, words: list[str], most: int = 12) -> list[str]:
    """Find what the processes logged about something.

    Args:
        folder: The folder of their logs.
        words: What it is known by.
        most: Most lines.

    Returns:
        File, line number and the line's beginning.
    """
    found: list[str] = []
    for log in sorted(folder.glob("*.log")):
        for number, line in enumerate(log.read_text(errors="replace").splitlines(), 1):
            if any(word in line for word in words):
                found.append(f"{log.name}:{number}: {line[:200]}")
    return found[:most]
