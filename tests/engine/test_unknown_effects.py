"""Effects whose result is not known: repeated only where that is safe, else reported as unknown."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.errors import OutcomeUnknownError
from engine.invocations.process_calls import StartCall
from engine.messages import Capabilities, InvokeProcess
from engine.store import communities, invocations, pacing, processes
from engine.store.communities import CommunityChange
from engine.store.database import utc_now
from engine.store.invocations import RUNNING, Invocation
from engine.store.processes import GovernanceProcess
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    path = tmp_path / "platform"
    path.touch()
    return path


@pytest.fixture
async def community(running: RunningEngine, platform: Path) -> str:
    return await running.community({"name": "durable", "config": {"platform": str(platform)}})


async def test_an_idempotent_action_is_tried_again_when_the_platform_fails(
    running: RunningEngine, community: str, platform: Path
) -> None:
    answer = await running.act(community, "durable.again", id="a", down=2)
    assert (answer.status_code, answer.json()) == (200, {"made": 3})
    failed = await running.act(community, "durable.again", id="b", down=9)
    assert failed.status_code == 502
    assert platform.read_text().split("\n").count("action b") == 3


async def test_another_action_is_not(
    running: RunningEngine, community: str, platform: Path
) -> None:
    answer = await running.act(community, "durable.once", id="a", down=1)
    assert answer.status_code == 502
    assert platform.read_text() == "action a\n"


@one_database
async def test_a_start_whose_answer_was_lost_is_looked_up(
    running: RunningEngine, community: str, platform: Path
) -> None:
    """The poll was made, the answer to it lost: the process goes on with that very poll."""
    started = await running.start(community, "durable.vote", id="v", down=True)
    assert started.status_code == 202, started.text
    assert started.json()["status"] == "pending"
    assert started.json()["url"].startswith("https://platform.test/")
    assert platform.read_text().count("poll ") == 1


async def test_without_a_look_up_the_platforms_failure_is_reported(
    running: RunningEngine, community: str, platform: Path
) -> None:
    started = await running.start(community, "durable.blind", id="v", down=True)
    assert started.status_code == 502
    assert platform.read_text().count("poll ") == 1
    listed = await running.http.get("/api/internal/process", params={"community": community})
    record = listed.json()["processes"][0]
    assert (record["status"], record["errors"]["code"]) == ("completed", "start_failed")


@one_database
async def test_a_start_that_times_out_is_looked_up(
    running: RunningEngine, community: str, platform: Path
) -> None:
    """It ends too late for its own call, and in time for the look-up."""
    started = await running.start(community, "durable.vote", id="v", after=3.5)
    assert started.status_code in (202, 504), started.text

    async def pending() -> bool:
        listed = await running.http.get("/api/internal/process", params={"community": community})
        return bool(listed.json()["processes"][0]["status"] == "pending")

    await eventually(pending, 20)
    assert platform.read_text().count("poll ") == 1


@one_database
async def test_a_pause_does_not_hide_what_an_earlier_try_may_have_done(
    running: RunningEngine, community: str
) -> None:
    """Nothing may be reported as "nothing was done", neither of a start nor of an action."""
    database, temporal = running.engine.database, running.engine.temporal
    async with database.write() as session:
        (instance,) = await communities.instances_of(session, community)
        await pacing.stop(session, instance.id, utc_now() + timedelta(hours=1))
        common: dict[str, Any] = {"community": community, "plugin": "durable"}
        common["instance_id"] = instance.id
        process = GovernanceProcess(**common, instance="durable", slug="blind", began_at=utc_now())
        action = Invocation(**common, target="once", parameters={"id": "a"}, status=RUNNING)
        record, action_id = process.record(), action.id
        session.add(process)
        session.add(action)
    await temporal.processes.ensure(record, Capabilities(True, True, True), None)
    assert not await temporal.actions.perform(community, "durable.once", "durable", action_id)

    async def ended() -> dict[str, Any] | None:
        location = f"/api/internal/process/durable.blind/{record.id}"
        now: dict[str, Any] = (await running.http.get(location)).json()
        return now if now["status"] == "completed" else None

    assert (await eventually(ended))["errors"]["code"] == "start_outcome_unknown"
    async with database.read() as session:
        for invocation_id in (f"{record.id}:1", action_id):
            done = await invocations.get_invocation(session, invocation_id)
            assert done is not None
            assert (done.error or {})["kind"] == "outcome_unknown"


@one_database
async def test_a_try_that_fails_after_another_has_ended_well_is_no_failure(
    running: RunningEngine, community: str
) -> None:
    """As when a worker was stopped, counted as dead, and goes on while the second try gives up."""
    started = (await running.start(community, "durable.blind", id="v")).json()
    mark = f"{started['id']}:1"
    async with running.engine.database.read() as session:
        assert await invocations.get_invocation(session, mark) is not None
    second = InvokeProcess(process_id=started["id"], invocation_id=mark, method="start")
    cut_off = OutcomeUnknownError("A first try was cut off")
    outcome = await StartCall(running.engine, second).fail(cut_off)
    assert (outcome.failure, outcome.record.status) == (None, "pending")


@one_database
async def test_a_pause_does_not_hide_what_an_idempotent_action_may_have_done(
    running: RunningEngine, community: str, platform: Path
) -> None:
    asked = running.act(community, "durable.again", id="a", down=1, seconds=1)
    acting = asyncio.create_task(asked)
    await eventually(lambda: "action a" in platform.read_text())
    async with running.engine.database.write() as session:
        (instance,) = await communities.instances_of(session, community)
        await pacing.stop(session, instance.id, utc_now() + timedelta(minutes=1))
    answer = await acting
    assert answer.status_code == 504, answer.text


@one_database
@pytest.mark.parametrize("crashed", [False, True])
async def test_what_was_accepted_before_the_machine_crashed_is_not_taken_back(
    running: RunningEngine, community: str, crashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's marks die with their machine: without one, plugin code may have run all the same."""
    database = running.engine.database
    facts: dict[str, Any] = {"community": community, "instance_id": "i", "plugin": "durable"}
    action = Invocation(target="once", **facts)
    process = GovernanceProcess(slug="vote", instance="durable", parameters={}, **facts)
    change = CommunityChange(community=community, desired_encrypted=None)
    async with database.write() as session:
        session.add_all([action, process, change])
    if crashed:
        monkeypatch.setattr(database, "marks_kept_since", utc_now())
    async with database.write() as session:
        assert [
            await invocations.withdraw(database, session, action.id, {}),
            await processes.withdraw_start(database, session, process.id, {}),
            await communities.withdraw_change(database, session, change.id, {}),
        ] == [not crashed] * 3
