"""A community's desired state: all of it, or nothing."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text, update
from sqlmodel import col, select
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from engine.errors import OutcomeUnknownError, describe
from engine.sdk.registry import Registry
from engine.store.communities import APPLYING, REFUSED, CommunityChange
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually

RANDOMNESS = {"name": "randomness", "config": {}}


async def test_put_creates_then_updates(running: RunningEngine) -> None:
    name = f"c-{uuid4().hex}"
    body = {"name": name, "readable_name": "Ünïcode ☂", "plugins": [RANDOMNESS]}
    created = await running.http.put(f"/api/internal/community/{name}", json=body)
    assert created.status_code == 201
    (plugin,) = created.json()["plugins"]
    assert created.json() == {"name": name, "readable_name": "Ünïcode ☂", "plugins": [plugin]}
    assert (plugin["name"], plugin["instance"]) == ("randomness", "randomness")
    assert plugin["config"] == {"default_low": 0, "default_high": 1000}
    again = await running.http.put(f"/api/internal/community/{name}", json=body)
    assert again.status_code == 200
    assert (await running.http.get(f"/api/internal/community/{name}")).json() == created.json()


async def test_post_makes_a_name(running: RunningEngine) -> None:
    answer = await running.http.post("/api/internal/community", json={"plugins": []})
    assert answer.status_code == 201
    assert len(answer.json()["name"]) >= 16


async def test_delete_disables_plugins_first(running: RunningEngine) -> None:
    community = await running.community(RANDOMNESS)
    callback = f"{running.driver.url}/{community}"
    started = await running.start(
        community,
        "randomness.delayed-stochastic-vote",
        options=["a"],
        delay=1000,
        callback_url=callback,
    )
    assert (await running.http.delete(f"/api/internal/community/{community}")).status_code == 204
    assert (await running.http.get(f"/api/internal/community/{community}")).status_code == 404
    assert (await running.http.delete(f"/api/internal/community/{community}")).status_code == 404
    record = await running.completed(started.headers["location"])
    assert record["errors"]["code"] == "plugin_disabled"
    delivered = await eventually(lambda: running.driver.to(community))
    assert delivered == [record]
    handle = running.client.get_workflow_handle(
        f"process/{community}/randomness.delayed-stochastic-vote/{record['id']}"
    )
    assert (await handle.result())["status"] == "completed"


async def test_unchanged_config_keeps_state_and_a_changed_one_loses_it(
    running: RunningEngine,
) -> None:
    community = await running.community(RANDOMNESS)
    await running.act(community, "randomness.set-lucky-number", number=7)
    await running.community(RANDOMNESS, name=community)
    kept = await running.act(community, "randomness.get-lucky-number")
    assert kept.json() == {"number": 7}
    started = await running.start(
        community, "randomness.delayed-stochastic-vote", options=["a"], delay=1000
    )
    changed = {"name": "randomness", "config": {"default_low": 5}}
    await running.community(changed, name=community)
    lost = await running.act(community, "randomness.get-lucky-number")
    assert lost.json() == {"number": None}
    closed = await running.http.delete(started.headers["location"])
    assert closed.json()["outcome"] == {"winner": "a"}


async def test_on_config_change_keeps_the_instance(running: RunningEngine) -> None:
    community = await running.community({"name": "adaptable", "config": {"n": 1}})
    for n in (2, 3):
        await running.community({"name": "adaptable", "config": {"n": n}}, name=community)
    answer = await running.act(community, "adaptable.history")
    assert answer.json() == {"history": [[1, 2], [2, 3]]}


async def test_on_disable_takes_away_what_initialize_made(running: RunningEngine) -> None:
    def on_platform() -> list[str]:
        cls: Any = Registry.plugins["registering"].cls
        return [made for made in cls.on_platform if made.startswith(f"{community}/")]

    community = f"c-{uuid4().hex}"
    plugin = {"name": "registering", "config": {"n": 1}}
    await running.community(plugin, name=community)
    await running.community(plugin, RANDOMNESS, name=community)
    assert on_platform() == [f"{community}/1"]
    await running.community({"name": "registering", "config": {"n": 2}}, name=community)
    assert on_platform() == [f"{community}/2"]
    await running.community(name=community)
    assert on_platform() == []
    refused = {
        "name": community,
        "plugins": [plugin, {"name": "troublesome", "config": {"refuse": "no"}}],
    }
    answer = await running.http.put(f"/api/internal/community/{community}", json=refused)
    assert answer.status_code == 502
    assert on_platform() == []
    await running.community(
        {"name": "registering", "config": {"n": 3, "stuck": True}}, name=community
    )
    answer = await running.http.delete(f"/api/internal/community/{community}")
    assert answer.status_code == 204
    assert on_platform() == []


async def test_initialize_that_fails_changes_nothing(running: RunningEngine) -> None:
    community = await running.community(RANDOMNESS)
    await running.act(community, "randomness.set-lucky-number", number=7)
    before = (await running.http.get(f"/api/internal/community/{community}")).json()
    body = {
        "name": community,
        "readable_name": "changed",
        "plugins": [
            {"name": "adaptable", "config": {}},
            {"name": "troublesome", "config": {"api_key": "s3cret-key", "refuse": "go away"}},
        ],
    }
    answer = await running.http.put(f"/api/internal/community/{community}", json=body)
    assert answer.status_code == 502
    assert answer.json()["detail"] == "go away ********"
    assert (await running.http.get(f"/api/internal/community/{community}")).json() == before
    kept = await running.act(community, "randomness.get-lucky-number")
    assert kept.json() == {"number": 7}
    fresh = f"c-{uuid4().hex}"
    answer = await running.http.put(
        f"/api/internal/community/{fresh}", json={**body, "name": fresh}
    )
    assert answer.status_code == 502
    assert (await running.http.get(f"/api/internal/community/{fresh}")).status_code == 404


async def test_secrets_are_masked_kept_and_encrypted(running: RunningEngine) -> None:
    secret = f"secret-{uuid4().hex}"
    plugin = {"name": "tutorial", "config": {"api_key": secret}}
    community = await running.community(plugin)
    shown = (await running.http.get(f"/api/internal/community/{community}")).json()
    assert shown["plugins"][0]["config"]["api_key"] == "********"
    await running.act(community, "tutorial.times-two", value=1)
    answer = await running.http.put(f"/api/internal/community/{community}", json=shown)
    assert answer.status_code == 200
    async with running.engine.database.engine.connect() as connection:
        for table in ("plugin_instance", "community_change", "invocation", "plugin_state"):
            rows = (await connection.execute(text(f"SELECT * FROM {table}"))).all()
            assert secret not in repr(rows)
    handle = running.client.get_workflow_handle(f"community/{community}")
    history = (await handle.fetch_history()).to_json()
    assert secret not in history
    lone_mask = {"name": "tutorial", "config": {"api_key": "********"}}
    name = f"c-{uuid4().hex}"
    refused = await running.http.put(
        f"/api/internal/community/{name}", json={"name": name, "plugins": [lone_mask]}
    )
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["path"] == "/plugins/0/config/api_key"


@pytest.mark.parametrize(
    ("change", "detail", "path"),
    [
        ({"name": "other"}, "Expected name NAME, found other", "/name"),
        ({"plugins": [{"name": "nope"}]}, "No such plugin registered: nope", "/plugins/0/name"),
        ({"colour": "red"}, None, "/colour"),
        ({"plugins": [{"name": "tutorial", "config": {}}]}, None, "/plugins/0/config/api_key"),
        (
            {"plugins": [{"name": "randomness", "config": {"default_low": "x"}}]},
            None,
            "/plugins/0/config/default_low",
        ),
        ({"plugins": [{"name": "randomness", "cfg": {}}]}, None, "/plugins/0/cfg"),
        ({"plugins": [RANDOMNESS, RANDOMNESS]}, None, "/plugins/1/name"),
        ({"plugins": {}}, None, "/plugins"),
        ({"readable_name": "x" * 256}, None, "/readable_name"),
        (
            {"plugins": [{"name": "tutorial", "config": {"api_key": "x", "webhook_slug": "a/b"}}]},
            None,
            "/plugins/0/config/webhook_slug",
        ),
    ],
)
async def test_bad_bodies(
    running: RunningEngine, change: dict[str, object], detail: str | None, path: str
) -> None:
    name = f"c-{uuid4().hex}"
    body = {"name": name, "readable_name": "", "plugins": []} | change
    answer = await running.http.put(f"/api/internal/community/{name}", json=body)
    assert answer.status_code == 400, answer.text
    if detail is not None:
        assert answer.json()["detail"] == detail.replace("NAME", name)
    assert answer.json()["errors"][0]["path"] == path
    assert (await running.http.get(f"/api/internal/community/{name}")).status_code == 404


@pytest.mark.parametrize("name", ["ü", "x" * 129, "-x", "a b", "%00"])
async def test_bad_names(running: RunningEngine, name: str) -> None:
    answer = await running.http.put(
        f"/api/internal/community/{name}", json={"name": name, "plugins": []}
    )
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


async def test_lists(running: RunningEngine) -> None:
    community = await running.community(
        RANDOMNESS, {"name": "tutorial", "config": {"api_key": "x"}}
    )
    base = f"/api/internal/community/{community}"
    actions = (await running.http.get(f"{base}/actions")).json()["actions"]
    assert {"id", "description", "parameters_schema", "response_schema"} <= actions[0].keys()
    assert "tutorial.times-two" in [a["id"] for a in actions]
    processes = (await running.http.get(f"{base}/processes")).json()["processes"]
    assert [p["id"] for p in processes] == [
        "randomness.delayed-stochastic-vote",
        "tutorial.show-of-hands",
    ]
    events = (await running.http.get(f"{base}/events")).json()["events"]
    assert {"event_type", "source", "schema"} == events[0].keys()
    hooks = (await running.http.get(f"{base}/hooks")).json()["hooks"]
    assert hooks == [f"/api/hooks/{community}/tutorial"]
    for part in ("", "/hooks", "/actions", "/processes", "/events"):
        answer = await running.http.get(f"/api/internal/community/nobody{part}")
        assert answer.status_code == 404
    plugins = (await running.http.get("/api/internal/plugins")).json()["plugins"]
    tutorial = next(p for p in plugins if p["name"] == "tutorial")
    assert tutorial["uses_webhooks"] is True
    assert tutorial["tasks"] == [{"name": "count-calls", "every_seconds": 60}]
    assert tutorial["config_schema"]["required"] == ["api_key", "foo"]


async def test_concurrent_puts_are_applied_one_after_the_other(running: RunningEngine) -> None:
    import asyncio

    community = await running.community({"name": "adaptable", "config": {"n": 0}})
    bodies = [
        {"name": community, "plugins": [{"name": "adaptable", "config": {"n": n}}]}
        for n in range(1, 9)
    ]
    answers = await asyncio.gather(
        *[running.http.put(f"/api/internal/community/{community}", json=b) for b in bodies]
    )
    assert {a.status_code for a in answers} == {200}
    history = (await running.act(community, "adaptable.history")).json()["history"]
    assert len(history) == 8
    assert all(a[1] == b[0] for a, b in itertools.pairwise(history))


@one_database
async def test_a_change_that_was_refused_meanwhile_is_not_applied(running: RunningEngine) -> None:
    """Its outcome was answered as unknown: it must not come true later."""
    community = await running.community()
    body = {"name": community, "plugins": [{"name": "adaptable", "config": {"seconds": 1.5}}]}
    asked = running.http.put(f"/api/internal/community/{community}", json=body)
    putting = asyncio.create_task(asked)
    database = running.engine.database
    refuse = (
        update(CommunityChange)
        .where(col(CommunityChange.community) == community, col(CommunityChange.status) == APPLYING)
        .values(status=REFUSED, error=describe(OutcomeUnknownError("given up")))
    )
    await eventually(lambda: database.execute(refuse))
    assert (await putting).status_code == 504
    stored = (await running.http.get(f"/api/internal/community/{community}")).json()
    assert stored["plugins"] == []


@one_database
async def test_each_change_has_the_time_that_its_own_plugins_may_take(
    running: RunningEngine,
) -> None:
    few = [{"name": "adaptable", "config": {"seconds": 1.5}}]
    many = [*few, {"name": "paced", "config": {}}, {"name": "registering", "config": {}}]
    community = f"c-{uuid4().hex[:12]}"
    path = f"/api/internal/community/{community}"
    first = asyncio.create_task(running.http.put(path, json={"name": community, "plugins": few}))
    handle = running.client.get_workflow_handle(f"community/{community}")

    async def applies() -> bool:
        try:
            return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
        except RPCError:
            return False

    await eventually(applies)
    second = await running.http.put(path, json={"name": community, "plugins": many})
    assert [(await first).status_code, second.status_code] == [201, 200], second.text
    scheduled = [
        event.activity_task_scheduled_event_attributes.start_to_close_timeout.ToTimedelta()
        async for event in handle.fetch_history_events()
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert len(scheduled) == 2
    assert scheduled[0] < scheduled[1]


async def test_idempotency_key_of_a_put(running: RunningEngine) -> None:
    """Two requests at the same moment lead to one change; another body is refused."""
    name = f"c-{uuid4().hex[:12]}"
    path, headers = f"/api/internal/community/{name}", {"Idempotency-Key": "k"}
    body = {"name": name, "plugins": [{"name": "randomness", "config": {}}]}
    answers = await asyncio.gather(
        *(running.http.put(path, json=body, headers=headers) for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    async with running.engine.database.read() as session:
        query = select(CommunityChange).where(CommunityChange.community == name)
        assert len((await session.exec(query)).all()) == 1
    other = await running.http.put(path, json={**body, "plugins": []}, headers=headers)
    assert other.status_code == 422


async def test_idempotency_key_of_a_post_gives_the_same_name(running: RunningEngine) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    body = {"readable_name": "One"}
    answers = [
        await running.http.post("/api/internal/community", json=body, headers=headers)
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


async def test_a_refused_put_is_refused_again_with_its_key(running: RunningEngine) -> None:
    name = f"c-{uuid4().hex[:12]}"
    body = {"name": name, "plugins": [{"name": "troublesome", "config": {"refuse": "no"}}]}
    answers = [
        await running.http.put(
            f"/api/internal/community/{name}", json=body, headers={"Idempotency-Key": "k"}
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [502, 502]
    assert answers[0].json() == answers[1].json()
