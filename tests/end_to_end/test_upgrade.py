"""A data folder of an earlier release, with all that was open in it, goes on under this code."""

from __future__ import annotations

import asyncio
import io
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from faults.driver import Driver
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import EngineProcess, make_engine

PLUGIN = Path(__file__).parent / "upgraded_plugin"
LAST_RELEASE = "762c2ee54891"
BEFORE_INVOCATIONS = "9fabbbba64d5"
COMMUNITY = "guild"
ANNOUNCED = ["first", "second", "third"]


def source_of(commit: str, folder: Path) -> Path:
    """The code of a commit, in a folder."""
    if shutil.which("git") is None:
        pytest.skip("the release to upgrade from is read by git, which is not here")
    git = ["git", "-C", str(REPOSITORY), "archive", commit]
    archived = subprocess.run(git, capture_output=True, check=False)
    if archived.returncode:
        why = archived.stderr.decode().strip()
        pytest.skip(f"the release to upgrade from is not in this clone ({commit}): {why}")
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def eventually(check: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until a check gives something true, and give it."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.1)
    return found


@dataclass
class Guild:
    """A community of an engine, its platform and its driver."""

    engine: EngineProcess
    platform: Path
    driver: Driver

    def enable(self) -> None:
        self.engine.put(COMMUNITY, {"name": "upgraded", "config": {"platform": str(self.platform)}})

    def start(self, kind: str, **body: Any) -> str:
        """Start a process; gives where it is."""
        body["callback_url"] = f"{self.driver.url}/callback/{kind}"
        started = self.engine.post(COMMUNITY, f"process/upgraded.{kind}", body)
        assert started.status_code == 202, started.text
        return started.headers["location"]

    def read(self, path: str, **parameters: Any) -> Any:
        answer = httpx.get(f"{self.engine.url}{path}", params=parameters, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def close(self, location: str) -> dict[str, Any]:
        closed = httpx.delete(f"{self.engine.url}{location}", timeout=60)
        assert closed.status_code == 200, closed.text
        record: dict[str, Any] = closed.json()
        return record

    def vote(self, location: str, name: str) -> None:
        """Send a webhook; its own id is the voter's name."""
        process_id = location.rpartition("/")[2]
        answer = httpx.post(
            f"{self.engine.url}/api/hooks/{COMMUNITY}/upgraded",
            content=name,
            headers={"X-Delivery": f"{process_id}-{name}", "X-Concerns": process_id},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text

    def voted(self, location: str, *names: str) -> bool:
        return bool(self.read(location)["outcome"]["votes"] == list(names))

    def happens(self, text: str, location: str) -> None:
        """Something happens on the platform that a poll will find."""
        with self.platform.open("a") as file:
            file.write(f"{text} {location.rpartition('/')[2]}\n")

    def has_news(self, *locations: str) -> bool:
        return all(self.read(location)["outcome"]["news"] for location in locations)

    def count(self, key: str = "once") -> dict[str, Any]:
        """Count once for each key, however often it is asked."""
        answer = httpx.post(
            f"{self.engine.url}/api/internal/action/upgraded.count",
            json={"parameters": {}},
            headers={"X-Metagov-Community": COMMUNITY, "Idempotency-Key": key},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        given: dict[str, Any] = answer.json()
        return given

    def announce(self, name: str) -> None:
        body: dict[str, object] = {"parameters": {"id": name}}
        answer = self.engine.post(COMMUNITY, "action/upgraded.announce", body)
        assert answer.status_code == 200, answer.text

    def waiting(self) -> list[tuple[str, str, int]]:
        """The deliveries that are tried again and again: id, kind, position; newest first."""
        listed = self.read("/api/internal/deliveries", status="pending")["deliveries"]
        return [(item["id"], item["type"], item["position"]) for item in listed]

    def events(self, after: str | None) -> list[dict[str, Any]]:
        """All that was received after a cursor."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.read("/api/internal/events", **({"after": after} if after else {}))
            if not page["events"]:
                return found
            found += page["events"]
            after = page["next_cursor"]

    def ticks(self) -> list[float]:
        """When the scheduled task ran."""
        lines = self.platform.read_text().splitlines()
        return [float(line.split()[1]) for line in lines if line.startswith("tick ")]

    def schedules(self) -> list[str]:
        """The schedules of event producer tasks on the engine's Temporal server."""

        async def listed() -> list[str]:
            address = f"127.0.0.1:{self.engine.environment['METAGOV_TEMPORAL_PORT']}"
            client = await Client.connect(address)
            schedules = await client.list_schedules()
            return [item.id async for item in schedules if item.id.startswith("task/")]

        return asyncio.run(listed())


def ids(events: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """The ids and positions of events."""
    return [(item["id"], item["position"]) for item in events]


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.down()


@pytest.fixture
def guild(tmp_path: Path, driver: Driver) -> Iterator[Guild]:
    platform = tmp_path / "platform"
    platform.touch()
    engine = make_engine(
        tmp_path / "data",
        METAGOV_PLUGIN_PATH=str(PLUGIN),
        METAGOV_DRIVER_EVENT_RECEIVER_URL=f"{driver.url}/events",
    )
    yield Guild(engine, platform, driver)
    if engine.process is not None and engine.process.poll() is None:
        engine.stop()


# What runs in another commit's code and in this one's is twice the work of other tests.
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("commit", "how"),
    [
        (LAST_RELEASE, "killed"),
        pytest.param(LAST_RELEASE, "stopped", marks=pytest.mark.long),
        pytest.param(BEFORE_INVOCATIONS, "killed", marks=pytest.mark.long),
        pytest.param(BEFORE_INVOCATIONS, "stopped", marks=pytest.mark.long),
    ],
)
def test_all_that_was_open_goes_on(guild: Guild, tmp_path: Path, commit: str, how: str) -> None:
    engine, driver = guild.engine, guild.driver
    engine.source = source_of(commit, tmp_path / "source")
    engine.start()

    # The earlier release.
    guild.enable()
    finished = guild.start("ballot")
    for name in ("ada", "bob", "eve"):
        guild.vote(finished, name)
    assert engine.wait_completed(finished)["status"] == "completed"
    eventually(lambda: driver.received("ballot", status="completed"))
    finished_record = guild.read(finished)
    page = guild.read("/api/internal/events", wait=20)
    cursor, received = page["next_cursor"], page["events"]
    counted = guild.count()
    assert counted == {"value": 1, "code": str(engine.source / "engine/__init__.py")}
    ballot, asked_to_close = guild.start("ballot"), guild.start("ballot")
    guild.vote(ballot, "ada")
    eventually(lambda: guild.voted(ballot, "ada"))
    watched, *crowd = guild.start("watched"), guild.start("crowd"), guild.start("crowd")
    guild.happens("news", watched)
    for process in crowd:
        guild.happens("news", process)
    eventually(lambda: guild.has_news(watched, *crowd))
    driver.answer = "500"
    for name in ANNOUNCED:
        guild.announce(name)
    closed_before = guild.start("ballot")
    guild.close(closed_before)
    eventually(lambda: all(driver.received(name) for name in ANNOUNCED))
    waiting = guild.waiting()
    assert len(waiting) >= len(ANNOUNCED) + 1
    schedules = guild.schedules()
    assert len(schedules) == 1
    eventually(guild.ticks)
    overdue, due = guild.start("ballot", closes_in=8), guild.start("ballot", closes_in=35)
    closing_at = datetime.fromisoformat(guild.read(overdue)["closing_at"]).timestamp()
    if how == "killed":
        engine.kill_everything()
    else:
        engine.stop(signal.SIGTERM)
    time.sleep(max(0.0, closing_at - time.time()))

    # This one.
    ticked, arrived = len(guild.ticks()), driver.taken()
    engine.source = REPOSITORY
    engine.start()
    assert guild.waiting()[-len(waiting) :] == waiting
    assert guild.count() == counted
    assert guild.count("again") == {"value": 2, "code": str(REPOSITORY / "engine/__init__.py")}
    assert finished_record.items() <= guild.read(finished).items()
    for name in ("ada", "bob", "eve"):
        guild.vote(ballot, name)
    votes = {"votes": ["ada", "bob", "eve"], "counted": 3}
    assert engine.wait_completed(ballot)["outcome"] == votes
    assert guild.close(asked_to_close)["outcome"] == {"votes": [], "closed": True}
    for process in (watched, *crowd):
        guild.happens("end", process)
        record = engine.wait_completed(process)
        assert (record["status"], record["outcome"]) == ("completed", {"news": 1})
    for process in (overdue, due):
        assert engine.wait_completed(process)["outcome"] == {"votes": [], "closed": True}
    assert time.time() >= datetime.fromisoformat(guild.read(due)["closing_at"]).timestamp()
    driver.answer = "ok"
    eventually(lambda: not guild.waiting())
    assert {delivery for delivery, _, _ in waiting} <= driver.taken() - arrived
    for subject in ("ballot", "watched", "crowd", *ANNOUNCED):
        assert driver.again(subject) == 0
    since = guild.events(cursor)
    assert ids(received + since) == ids(guild.events(None))
    waited = [(delivery, position) for delivery, _, position in reversed(waiting)]
    assert [item for item in ids(since) if item in waited] == waited
    eventually(lambda: len(guild.ticks()) >= ticked + 3)
    guild.enable()
    assert guild.schedules() == schedules
