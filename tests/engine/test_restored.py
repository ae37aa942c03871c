"""A database that was put back from a backup, while Temporal and the drivers had gone on."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from temporalio.client import Client

from cli.restored import report
from cli.run import engine_lock
from cli.supervisor import StartError
from engine.settings import Settings
from engine.store import epochs, restoring
from tests.conftest import new_database
from tests.engine.conftest import RunningEngine, run_engine
from tests.servers import Driver, driver_server, eventually

EVENTS = "/api/internal/events"


@dataclass
class House:
    """An engine that is stopped and started, its database's backup, and one driver beside it."""

    url: str
    folder: Path
    client: Client
    driver: Driver
    copy: str = ""
    task_queue: str = field(default_factory=lambda: f"test-{uuid4().hex}")

    def run(self) -> AbstractAsyncContextManager[RunningEngine]:
        return run_engine(self.client, self.url, self.folder, task_queue=self.task_queue)

    def back_up(self) -> None:
        self.copy = self._copied(self.url, "")

    def put_back(self) -> None:
        self._copied(self.copy, self.url)

    def move(self) -> None:
        """Go on with a data folder that has the keys, and remembers nothing."""
        before, self.folder = self.folder, self.folder / uuid4().hex
        self.folder.mkdir()
        for key in ("secret-key", "driver-webhook-secret"):
            shutil.copy(before / key, self.folder / key)

    def forget_outside(self) -> None:
        """Temporal and the data folder are put back as well: they know nothing either."""
        self.move()
        self.task_queue = f"test-{uuid4().hex}"

    def _copied(self, source: str, target: str) -> str:
        """Copy a database over another one, or into a new one."""
        if source.startswith("sqlite"):
            target = target or f"sqlite:///{self.folder / f'{uuid4().hex}.sqlite'}"
            paths = [url.removeprefix("sqlite:///") for url in (source, target)]
            with (
                closing(sqlite3.connect(paths[0])) as read,
                closing(sqlite3.connect(paths[1])) as write,
            ):
                read.backup(write)
            return target
        names = [url.partition("?")[0].rpartition("/")[2] for url in (source, target)]
        names[1] = names[1] or f"test_{uuid4().hex[:12]}"
        with psycopg.connect(source.replace(names[0], "postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{names[1]}"'.encode())
            connection.execute(f'CREATE DATABASE "{names[1]}" TEMPLATE "{names[0]}"'.encode())
        return source.replace(names[0], names[1])


@pytest.fixture(params=["sqlite", "postgresql"])
async def house(
    request: pytest.FixtureRequest, temporal: Client, plugins: None, tmp_path: Path
) -> AsyncIterator[House]:
    async with driver_server() as driver:
        yield House(new_database(request.param, tmp_path, request), tmp_path, temporal, driver)


async def community_of(running: RunningEngine) -> str:
    return await running.community(
        {"name": "tutorial", "config": {"api_key": "k"}}, {"name": "troublesome", "config": {}}
    )


async def send(running: RunningEngine, community: str, number: int) -> None:
    body = {"account": "alice", "data": {"n": number}}
    answer = await running.http.post(f"/api/hooks/{community}/tutorial", json=body)
    assert answer.status_code == 200


async def read(running: RunningEngine, after: str | None, **params: Any) -> dict[str, Any]:
    if after is not None:
        params["after"] = after
    answer = await running.http.get(EVENTS, params=params)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def read_until(
    running: RunningEngine, after: str | None, enough: Callable[[list[dict[str, Any]]], bool]
) -> tuple[list[dict[str, Any]], str]:
    """Read on until there is enough; gives the items and the last cursor."""
    found: list[dict[str, Any]] = []
    while not enough(found):
        page = await read(running, after, wait=15)
        assert page["events"], ("nothing came in time", found)
        found += page["events"]
        after = page["next_cursor"]
    assert after is not None
    return found, after


def numbers(items: list[dict[str, Any]]) -> list[int]:
    """What the events among the items hold."""
    return [item["data"]["data"]["n"] for item in items if item["type"] == "event"]


def of_process(items: list[dict[str, Any]], process_id: str) -> dict[str, dict[str, Any]]:
    """What is delivered of a process, by its id."""
    delivered = [item for item in items if item["type"] == "process"]
    return {item["id"]: item["data"] for item in delivered if item["data"]["id"] == process_id}


def located(running: RunningEngine, process_id: str) -> str:
    return f"/api/internal/process/troublesome.fragile/{process_id}"


async def test_drivers_read_on_and_receive_each_change_once(house: House) -> None:
    """Found by the data folder, which a backup of the database does not hold."""
    async with house.run() as running:
        community = await community_of(running)
        callback = f"{house.driver.url}/callback"
        started = await running.start(community, "troublesome.fragile", callback_url=callback)
        ended_since = started.json()["id"]
        await send(running, community, 1)
        seen, early = await read_until(running, None, lambda found: numbers(found) == [1])
    house.back_up()
    async with house.run() as running:
        await running.http.delete(located(running, ended_since))
        both_since = (await running.start(community, "troublesome.fragile")).json()["id"]
        await running.http.delete(located(running, both_since))
        under_way = (await running.start(community, "troublesome.fragile")).json()["id"]
        await running.act(community, "tutorial.times-two", value=2)
        await send(running, community, 2)
        more, late = await read_until(
            running, early, lambda found: len(found) == 3 and numbers(found) == [2]
        )
        seen += more
        await eventually(lambda: house.driver.to("callback"))
        outcome = (await running.http.get(located(running, ended_since))).json()
    house.put_back()
    async with house.run() as running:
        await send(running, community, 3)

        def all_delivered(found: list[dict[str, Any]]) -> bool:
            wanted = (ended_since, both_since, under_way)
            return 3 in numbers(found) and all(of_process(found, one) for one in wanted)

        anew, _ = await read_until(running, late, all_delivered)
        assert (await running.http.get(located(running, ended_since))).json() == outcome
        for process_id in (ended_since, both_since):
            assert of_process(anew, process_id) == of_process(seen, process_id)
        lost = (await running.http.get(located(running, under_way))).json()
        assert (lost["status"], lost["errors"]["code"]) == ("completed", "lost_in_restore")
        assert min(item["position"] for item in anew) > restoring.GAP
        cursors = [item["cursor"] for item in [*seen, *anew]]
        assert len(set(cursors)) == len(cursors)
        assert {item["epoch"] for item in seen}.isdisjoint({item["epoch"] for item in anew})
        ids = await eventually(lambda: twice(house.driver))
        assert len(set(ids)) == 1
        epochs_received = [headers["metagov-epoch"] for headers in house.driver.headers]
        assert len(set(epochs_received)) == 2
        # A reader that stood before the backup reads the same, and the event of after it is gone.
        assert all_delivered((await read_until(running, early, all_delivered))[0])
        found = await eventually(lambda: put_right(running))
        assert found["completed"] + found["put_back"] + found["lost"] == 3
        assert (found["actions"], found["webhooks"]) == (1, 1)


def twice(driver: Driver) -> list[str] | None:
    ids = [headers["webhook-id"] for headers in driver.headers]
    return ids if len(ids) == 2 else None


async def put_right(running: RunningEngine) -> Any:
    async with running.engine.database.read() as session:
        return (await epochs.present_epoch(session)).put_right


async def test_temporal_remembers_where_no_data_folder_does(house: House) -> None:
    async with house.run() as running:
        community = await community_of(running)
        await send(running, community, 1)
        await read_until(running, None, lambda found: numbers(found) == [1])
        await eventually(running.engine.schedules.noted)
    house.back_up()
    async with house.run() as running:
        before = await running.engine.schedules.noted()
        await send(running, community, 2)
        _, late = await read_until(running, None, lambda found: numbers(found) == [1, 2])

        async def noted_more() -> bool:
            return bool(await running.engine.schedules.noted() != before)

        await eventually(noted_more)
    house.put_back()
    house.move()
    async with house.run() as running:
        await send(running, community, 3)
        anew, _ = await read_until(running, late, lambda found: bool(found))
        assert numbers(anew) == [3]
        assert anew[0]["position"] > restoring.GAP


async def test_a_cursor_that_is_ahead_shows_that_the_database_is_older(house: House) -> None:
    """Everything was put back alike: only the driver knows of the time since."""
    async with house.run() as running:
        community = await community_of(running)
        await send(running, community, 1)
        await read_until(running, None, lambda found: numbers(found) == [1])
    house.back_up()
    async with house.run() as running:
        for number in (2, 3, 4):
            await send(running, community, number)
        _, late = await read_until(running, None, lambda found: len(found) == 4)
    house.put_back()
    house.forget_outside()
    async with house.run() as running:
        await send(running, community, 5)
        _, other = await read_until(running, None, lambda found: numbers(found) == [1, 5])
        anew, last = await read_until(running, late, lambda found: 5 in numbers(found))
        assert numbers(anew) == [1, 5]
        await send(running, community, 6)
        assert numbers((await read_until(running, last, bool))[0]) == [6]
        assert 6 in numbers((await read_until(running, other, lambda f: 6 in numbers(f)))[0])


async def test_numbers_from_before_epochs_read_on_after_the_command(house: House) -> None:
    """A cursor without an epoch proves nothing by itself."""
    async with house.run() as running:
        community = await community_of(running)
        await send(running, community, 1)
        _, cursor = await read_until(running, None, lambda found: numbers(found) == [1])
        number = int(cursor.partition("-")[2])
        refused = await running.http.get(EVENTS, params={"after": str(number + 5)})
        assert refused.status_code == 400
        assert "metagov restored" in refused.json()["detail"]
        too_far = cursor + "0" * 12
        assert (await running.http.get(EVENTS, params={"after": too_far})).status_code == 400
        settings: Settings = running.engine.settings
        database = running.engine.database
        began = await restoring.mark(database, settings.data_dir, again=False, at_once=True)
        assert began is not None
        assert began.restored_to == number
        assert not await restoring.mark(database, settings.data_dir, again=False, at_once=True)
        await send(running, community, 2)
        for old in (str(number + 5), str(number), f"{began.epoch - 1}-{number + 5}"):
            found, _ = await read_until(running, old, lambda found: 2 in numbers(found))
            assert numbers(found)[-1] == 2
        again = await restoring.mark(database, settings.data_dir, again=True, at_once=True)
        assert again is not None
        assert again.continues_after > began.continues_after + restoring.GAP


async def test_a_database_that_was_not_restored_stays_as_it_is(house: House) -> None:
    for _ in range(2):
        async with house.run() as running:
            community = await community_of(running)
            await send(running, community, 1)
            found, _ = await read_until(running, None, lambda found: bool(found))
            await eventually(running.engine.schedules.noted)
            async with running.engine.database.read() as session:
                assert len(await epochs.all_epochs(session)) == 1
            assert found[0]["position"] == 1


async def test_the_command_tells_what_is_not_known(house: House) -> None:
    """While Temporal answers and no worker runs, as between putting back and starting."""
    async with house.run() as running:
        community = await community_of(running)
    house.back_up()
    async with house.run() as running:
        settings: Settings = running.engine.settings
        await running.act(community, "tutorial.times-two", value=2)
        await send(running, community, 1)
        await read_until(running, None, lambda found: numbers(found) == [1])
    with engine_lock(settings.data_dir), pytest.raises(StartError, match="stop it before"):
        await report(settings, again=False, ran=False)
    house.put_back()
    said = await report(settings, again=False, ran=False)
    assert "marked as restored" in said[0]
    assert any("1 actions that were asked for" in line for line in said)
    assert any("1 webhooks that were accepted" in line for line in said)
    again = await report(settings, again=False, ran=False)
    assert "was marked as restored" in again[0]
    assert again[1:] == said[1:]
    with engine_lock(settings.data_dir):
        assert await report(settings, again=False, ran=False) == again
