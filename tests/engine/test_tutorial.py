"""The original's tutorial, section by section, by classes that a reader of it would write."""

from __future__ import annotations

from uuid import uuid4

from tests.engine.conftest import RunningEngine
from tests.servers import eventually

READER = {"name": "reader", "config": {"api_key": "ABC123", "foo": "baz"}}


async def test_configuration_and_initialize(running: RunningEngine) -> None:
    community = await running.community(READER)
    seen = (await running.act(community, "reader.look")).json()
    assert seen == {"foo": "baz", "kept": False, "initialized": 1, "community": community}


async def test_defaults_are_filled_in(running: RunningEngine) -> None:
    community = await running.community({"name": "reader", "config": {"api_key": "x"}})
    assert (await running.act(community, "reader.look")).json()["foo"] == "bar"


async def test_action(running: RunningEngine) -> None:
    community = await running.community(READER)
    answer = await running.act(community, "reader.times-two", value=5)
    assert answer.status_code == 200
    assert answer.json() == {"result": 10}


async def test_webhook_receiver_sends_an_event(running: RunningEngine) -> None:
    community = await running.community(READER)
    hooks = (await running.http.get(f"/api/internal/community/{community}/hooks")).json()
    assert hooks == {"hooks": [f"/api/hooks/{community}/reader"]}
    answer = await running.http.post(
        hooks["hooks"][0], json={"data": {"title": "hi"}, "account": "alice"}
    )
    assert answer.status_code == 200
    event = (
        await eventually(
            lambda: [
                e
                for e in running.driver.to("events")
                if e["community"] == community and e["event_type"] == "post_created"
            ]
        )
    )[0]
    assert event["source"] == "reader"
    assert event["data"] == {"title": "hi"}
    assert event["initiator"] == {"user_id": "alice", "provider": "identity-provider-key"}
    assert float(event["timestamp"]) > 1.6e9


async def test_webhook_slug_hides_the_receiver(running: RunningEngine) -> None:
    config = {"api_key": "x", "webhook_slug": "f5c3ff8f"}
    community = await running.community({"name": "reader", "config": config})
    path = f"/api/hooks/{community}/reader"
    hooks = (await running.http.get(f"/api/internal/community/{community}/hooks")).json()
    assert hooks == {"hooks": [f"{path}/f5c3ff8f"]}
    bodies = set()
    for wrong in (path, f"{path}/f5c3ff80", f"/api/hooks/{uuid4().hex}/reader", f"{path}x"):
        answer = await running.http.post(wrong, json={})
        assert answer.status_code == 404
        bodies.add(answer.text)
    assert len(bodies) == 1
    right = await running.http.post(f"{path}/f5c3ff8f", json={"data": {}, "account": "a"})
    assert right.status_code == 200


async def test_task_is_scheduled_with_the_plugin(running: RunningEngine) -> None:
    community = await running.community(READER)
    handle = running.client.get_schedule_handle(f"task/{community}/reader.my-task-function")
    described = await handle.describe()
    assert described.schedule.spec.intervals[0].every.total_seconds() == 60
    assert described.schedule.spec.jitter is not None
    await handle.trigger()
    await eventually(
        lambda: any(
            e["community"] == community and e["event_type"] == "first_look"
            for e in running.driver.to("events")
        )
    )
    await running.community(name=community)
    listed = await eventually(lambda: _gone(running, handle.id))
    assert listed


async def _gone(running: RunningEngine, schedule_id: str) -> bool:
    return schedule_id not in [s async for s in running.engine.schedules.task_schedules()]


async def test_process_closed_by_the_driver(running: RunningEngine) -> None:
    community = await running.community(READER)
    callback = f"{running.driver.url}/{community}"
    started = await running.start(community, "reader.my-gov-process", callback_url=callback)
    assert started.status_code == 202
    location = started.headers["location"]
    record = started.json()
    assert location == f"/api/internal/process/reader.my-gov-process/{record['id']}"
    assert record["status"] == "pending"
    closed = await running.http.delete(location)
    assert closed.status_code == 200
    assert closed.json()["outcome"] == "custom outcome data"
    assert await eventually(lambda: running.driver.to(community)) == [closed.json()]
    again = await running.http.delete(location)
    assert again.status_code == 400
    assert again.json()["detail"] == "Can't close process, it has already completed"


async def test_process_completed_by_webhook(running: RunningEngine) -> None:
    community = await running.community(READER)
    location = (await running.start(community, "reader.my-gov-process")).headers["location"]
    hook = f"/api/hooks/{community}/reader"
    await running.http.post(hook, json={"closed": True, "data": {}, "account": "a"})
    record = await running.completed(location)
    assert record["outcome"] == {"told_by": "reader"}


async def test_process_polled_by_update(running: RunningEngine) -> None:
    community = await running.community(READER)
    lengths = []
    for polls in (1, 3):
        started = await running.start(community, "reader.polled", after=polls)
        record = await running.completed(started.headers["location"])
        assert record["outcome"] == {"seen": polls}
        handle = running.client.get_workflow_handle(
            f"process/{community}/reader.polled/{record['id']}"
        )
        lengths.append(len([event async for event in handle.fetch_history_events()]))
    assert lengths[0] == lengths[1], "a poll without news adds nothing to the history"


async def test_disabling_loses_state_and_reenabling_initializes(running: RunningEngine) -> None:
    community = await running.community(READER)
    await running.act(community, "reader.look")
    await running.community(name=community)
    refused = await running.act(community, "reader.look")
    assert refused.status_code == 400
    assert refused.json()["detail"] == f"Plugin 'reader' not enabled for community '{community}'"
    await running.community(READER, name=community)
    assert (await running.act(community, "reader.look")).json()["initialized"] == 1
