"""Several instances of one plugin in a community: each is chosen, heard and ended by itself."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import update
from sqlmodel import col

from engine.activities.communities import note_platform_ids
from engine.store import communities
from engine.store.communities import PluginInstance
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually

RANDOMNESS = {"name": "randomness", "config": {}}


def workspace(team: str | None, instance: str | None = None, **config: Any) -> dict[str, Any]:
    """A plugin entry of a community."""
    entry: dict[str, Any] = {"name": "workspaces", "config": {**config}}
    if team is not None:
        entry["config"]["team_id"] = team
    if instance is not None:
        entry["instance"] = instance
    return entry


async def where(
    running: RunningEngine,
    community: str,
    *,
    instance: str | None = None,
    query: str | None = None,
    body: str | None = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """Ask an instance, chosen in some way, which one it is."""
    sent = {"X-Metagov-Community": community, **(headers or {})}
    if instance is not None:
        sent["X-Metagov-Instance"] = instance
    document: dict[str, Any] = {"parameters": {}}
    if body is not None:
        document["community_platform_id"] = body
    params = {"community_platform_id": query} if query is not None else {}
    url = "/api/internal/action/workspaces.where"
    return await running.http.post(url, json=document, params=params, headers=sent)


async def entries(running: RunningEngine, community: str) -> dict[str, dict[str, Any]]:
    """The plugin entries of a community by instance."""
    answer = await running.http.get(f"/api/internal/community/{community}")
    return {entry["instance"]: entry for entry in answer.json()["plugins"]}


async def put(running: RunningEngine, name: str, *plugins: dict[str, Any]) -> httpx.Response:
    body = {"name": name, "plugins": list(plugins)}
    return await running.http.put(f"/api/internal/community/{name}", json=body)


@pytest.fixture
async def two(running: RunningEngine) -> str:
    """A community with two workspaces."""
    return await running.community(workspace("T1", "first"), workspace("T2", "second"))


async def test_an_instance_is_chosen_by_its_name_or_by_the_platforms_id(
    running: RunningEngine, two: str
) -> None:
    for choice, instance in (
        ({"instance": "first"}, "first"),
        ({"query": "T2"}, "second"),
        ({"body": "T1"}, "first"),
        ({"body": "T2", "query": "T2"}, "second"),
        ({"instance": "second", "query": "T2"}, "second"),
    ):
        answer = await where(running, two, **choice)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        assert answer.json()["instance"] == instance
        assert answer.json()["hook"].endswith(f"/api/hooks/{two}/{instance}")
    # Each has a state of its own.
    assert (await where(running, two, instance="first")).json()["calls"] == 3


async def test_one_instance_needs_no_choice(running: RunningEngine) -> None:
    community = await running.community(workspace("T1", "only"), RANDOMNESS)
    assert (await where(running, community)).json()["instance"] == "only"
    community = await running.community(workspace(None))
    assert (await where(running, community)).json() | {"hook": ""} == {
        "instance": "workspaces",
        "team": None,
        "hook": "",
        "calls": 1,
    }


@pytest.mark.parametrize(
    ("choice", "detail"),
    [
        (
            {},
            "Plugin 'workspaces' has multiple instances for community 'COMMUNITY'. "
            "Please specify community_platform_id.",
        ),
        (
            {"instance": "third"},
            "Plugin 'workspaces' has no instance 'third' in community 'COMMUNITY'; "
            "it has 'first', 'second', 'third-of-t2'",
        ),
        (
            {"instance": "randomness"},
            "Instance 'randomness' of community 'COMMUNITY' is one of plugin 'randomness', "
            "not of 'workspaces'",
        ),
        (
            {"query": "T9"},
            "Plugin 'workspaces' with community_platform_id 'T9' not enabled for community "
            "'COMMUNITY'",
        ),
        (
            {"instance": "first", "body": "T2"},
            "Instance 'first' of plugin 'workspaces' with community_platform_id 'T2' not enabled "
            "for community 'COMMUNITY'",
        ),
        (
            {"query": "T2"},
            "Plugin 'workspaces' has multiple instances with community_platform_id 'T2' in "
            "community 'COMMUNITY': 'second', 'third-of-t2'; "
            "name one of them by the header X-Metagov-Instance",
        ),
        (
            {"query": "T1", "body": "T2"},
            "/community_platform_id: is another one than in the query",
        ),
    ],
)
async def test_a_choice_that_chooses_none(
    running: RunningEngine, choice: dict[str, Any], detail: str
) -> None:
    community = await running.community(
        workspace("T1", "first"),
        workspace("T2", "second"),
        workspace("T2", "third-of-t2"),
        RANDOMNESS,
    )
    answer = await where(running, community, **choice)
    assert answer.status_code == 400
    assert answer.json()["detail"] == detail.replace("COMMUNITY", community)


@pytest.mark.parametrize(
    ("named", "detail", "path"),
    [
        ([workspace("T1", "Ü")], None, "/plugins/0/instance"),
        ([workspace("T1", "")], None, "/plugins/0/instance"),
        ([workspace("T1", "-a")], None, "/plugins/0/instance"),
        ([workspace("T1", "a\n")], None, "/plugins/0/instance"),
        ([workspace("T1", "a" * 64)], None, "/plugins/0/instance"),
        (
            [workspace("T1", "a"), workspace("T2", "a")],
            "Instance 'a' is named twice",
            "/plugins/1/instance",
        ),
        (
            [workspace("T1"), workspace("T2")],
            "Plugin 'workspaces' is named twice; "
            'give each of its instances a name of its own by "instance"',
            "/plugins/1/name",
        ),
        (
            [workspace("T1", "randomness"), RANDOMNESS],
            "Plugin 'randomness' is named twice; "
            'give each of its instances a name of its own by "instance"',
            None,
        ),
        ([workspace("T" * 256)], None, "/plugins/0/config/team_id"),
    ],
)
async def test_bad_instances(
    running: RunningEngine, named: list[dict[str, Any]], detail: str | None, path: str | None
) -> None:
    name = f"c-{uuid4().hex}"
    answer = await put(running, name, *named)
    assert answer.status_code == 400, answer.text
    if detail is not None and path is not None:
        assert answer.json()["detail"] == detail
    if path is not None:
        assert answer.json()["errors"][0]["path"] == path
    assert (await running.http.get(f"/api/internal/community/{name}")).status_code == 404


async def test_processes_and_webhooks_keep_to_their_instance(
    running: RunningEngine, two: str
) -> None:
    url = "/api/internal/process/workspaces.show"
    headers = {"X-Metagov-Community": two}
    none = await running.http.post(url, json={"title": "x"}, headers=headers)
    assert none.status_code == 400
    assert "multiple instances" in none.json()["detail"]
    callback = f"{running.driver.url}/{two}"
    first = await running.http.post(
        url,
        json={"community_platform_id": "T1", "callback_url": callback},
        headers=headers,
    )
    second = await running.http.post(
        url, json={"title": "x"}, headers={**headers, "X-Metagov-Instance": "second"}
    )
    assert [first.status_code, second.status_code] == [202, 202], (first.text, second.text)
    assert (first.json()["instance"], first.json()["community_platform_id"]) == ("first", "T1")
    assert (second.json()["instance"], second.json()["community_platform_id"]) == ("second", "T2")
    listed = await running.http.get(
        "/api/internal/process", params={"community": two, "instance": "second"}
    )
    assert [record["id"] for record in listed.json()["processes"]] == [second.json()["id"]]

    hooks = (await running.http.get(f"/api/internal/community/{two}/hooks")).json()["hooks"]
    assert hooks == [f"/api/hooks/{two}/first", f"/api/hooks/{two}/second"]
    assert (await running.http.post(f"/api/hooks/{two}/workspaces", json={})).status_code == 404
    assert (await running.http.post(hooks[0], json={"n": 1})).status_code == 200
    record = await running.completed(first.headers["location"])
    assert record["outcome"] == {"from": "first"}
    assert await eventually(lambda: running.driver.to(two)) == [record]
    heard = await eventually(
        lambda: [
            event
            for event in running.driver.to("events")
            if (event["community"], event["event_type"]) == (two, "heard")
        ]
    )
    assert (heard[0]["source"], heard[0]["instance"]) == ("workspaces", "first")
    assert heard[0]["community_platform_id"] == "T1"
    other = await running.http.get(second.headers["location"])
    assert other.json()["status"] == "pending"
    (webhook,) = (
        await running.http.get(
            "/api/internal/webhooks", params={"community": two, "instance": "first"}
        )
    ).json()["webhooks"]
    assert (webhook["plugin"], webhook["instance"]) == ("workspaces", "first")
    replayed = await running.http.post(f"/api/internal/webhooks/{webhook['id']}/replay")
    assert replayed.status_code == 202
    found = [
        execution
        async for execution in running.client.list_workflows(
            f"MetagovCommunity = '{two}' AND MetagovInstance = 'second'"
        )
    ]
    assert second.json()["id"] in [execution.id.rpartition("/")[2] for execution in found]


async def test_each_instance_has_its_schedules_and_keeps_its_state(
    running: RunningEngine, two: str
) -> None:
    async def schedules() -> set[str]:
        return {
            id_
            async for id_ in running.engine.schedules.task_schedules()
            if id_.startswith(f"task/{two}/")
        }

    both = {f"task/{two}/first.look", f"task/{two}/second.look"}
    await eventually(lambda: _equal(schedules(), both))
    for instance in ("first", "second", "second"):
        await where(running, two, instance=instance)
    # One goes, one changes, one comes.
    await running.community(workspace("T3", "second"), workspace("T4", "new"), name=two)
    kept = {f"task/{two}/second.look", f"task/{two}/new.look"}
    await eventually(lambda: _equal(schedules(), kept))
    assert (await where(running, two, instance="second")).json()["calls"] == 1
    await running.community(workspace("T4", "new"), workspace("T3", "second"), RANDOMNESS, name=two)
    assert (await where(running, two, instance="second")).json()["calls"] == 2
    assert list(await entries(running, two)) == ["new", "second", "randomness"]


async def _equal(found: Any, wanted: set[str]) -> bool:
    return bool(await found == wanted)


async def test_an_instance_that_goes_ends_its_own_processes_only(
    running: RunningEngine, two: str
) -> None:
    url, headers = "/api/internal/process/workspaces.show", {"X-Metagov-Community": two}
    locations = [
        (
            await running.http.post(url, json={"community_platform_id": team}, headers=headers)
        ).headers["location"]
        for team in ("T1", "T2")
    ]
    await running.community(workspace("T2", "second"), name=two)
    assert (await running.completed(locations[0]))["errors"]["code"] == "plugin_disabled"
    assert (await running.http.get(locations[1])).json()["status"] == "pending"
    # The same name for another plugin is another instance.
    await running.community({**RANDOMNESS, "instance": "second"}, name=two)
    assert (await running.completed(locations[1]))["errors"]["code"] == "plugin_disabled"


async def test_a_put_of_what_was_read_changes_nothing(running: RunningEngine) -> None:
    community = await running.community(
        workspace("T1", "first", token="s3cret"),
        workspace("T2", "second", token="other"),
        {"name": "under_lined"},
    )
    before = await running.http.get(f"/api/internal/community/{community}")
    assert "s3cret" not in before.text
    again = await running.http.put(f"/api/internal/community/{community}", json=before.json())
    assert again.status_code == 200, again.text
    assert again.json() == before.json()
    entry = before.json()["plugins"][0]
    assert entry["community_platform_id"] == "T1"
    assert entry["id"]


async def test_a_key_is_one_instances(running: RunningEngine, two: str) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await where(running, two, instance="first", headers=headers)
    again = await where(running, two, query="T1", headers=headers)
    assert first.json() == again.json()
    other = await where(running, two, instance="second", headers=headers)
    assert other.status_code == 422


async def test_one_instance_is_enabled_and_disabled_alone(running: RunningEngine) -> None:
    community = await running.community(RANDOMNESS)
    headers = {"X-Metagov-Community": community}
    url = "/api/internal/plugin/workspaces"

    async def enable(config: dict[str, Any], **params: str) -> httpx.Response:
        return await running.http.post(url, json=config, params=params, headers=headers)

    made = await enable({"team_id": "T1", "token": "s3cret"})
    assert made.status_code == 201, made.text
    assert made.json() == {
        "id": made.json()["id"],
        "name": "workspaces",
        "instance": "workspaces",
        "community_platform_id": "T1",
        "config": {"team_id": "T1", "token": "********"},
        "community": community,
        "auth_type": None,
    }
    unchanged = await enable({"team_id": "T1", "token": "********"})
    assert unchanged.status_code == 200
    assert unchanged.json() == made.json()
    second = await enable({"team_id": "T2"}, instance="second")
    assert second.status_code == 201
    await where(running, community, instance="second")
    anew = await enable({"team_id": "T3"}, instance="second")
    assert anew.status_code == 201
    assert anew.json()["id"] != second.json()["id"]
    assert (await where(running, community, instance="second")).json()["calls"] == 1
    assert list(await entries(running, community)) == ["randomness", "workspaces", "second"]

    gone = await running.http.delete(f"{url}/{anew.json()['id']}")
    assert gone.status_code == 204
    assert list(await entries(running, community)) == ["randomness", "workspaces"]
    for path in (anew.json()["id"], "nobody"):
        assert (await running.http.delete(f"{url}/{path}")).status_code == 404
    wrong = await running.http.delete(f"/api/internal/plugin/randomness/{made.json()['id']}")
    assert wrong.status_code == 404
    assert list(await entries(running, community)) == ["randomness", "workspaces"]


async def test_many_at_once_enable_each_its_own(running: RunningEngine) -> None:
    community = await running.community()
    answers = await asyncio.gather(
        *(
            running.http.post(
                "/api/internal/plugin/workspaces",
                json={"team_id": f"T{n}"},
                params={"instance": f"i{n}"},
                headers={"X-Metagov-Community": community},
            )
            for n in range(5)
        )
    )
    assert {answer.status_code for answer in answers} == {201}
    assert set(await entries(running, community)) == {f"i{n}" for n in range(5)}


@pytest.mark.parametrize(
    ("plugin", "config", "params", "status", "detail"),
    [
        ("nope", {}, {}, 400, "No such plugin registered: nope"),
        ("workspaces", {"team": "x"}, {}, 400, "/config/team: is unknown; allowed are: "),
        ("workspaces", {}, {"instance": "Ü"}, 400, "instance: must be 1 to 63 small letters"),
        (
            "workspaces",
            {},
            {"instance": "randomness"},
            400,
            "Instance 'randomness' of community 'COMMUNITY' is one of plugin 'randomness'",
        ),
        ("workspaces", {"refuse": True}, {}, 502, ""),
    ],
)
async def test_what_is_not_enabled(
    running: RunningEngine,
    plugin: str,
    config: dict[str, Any],
    params: dict[str, str],
    status: int,
    detail: str,
) -> None:
    community = await running.community(RANDOMNESS)
    before = await entries(running, community)
    answer = await running.http.post(
        f"/api/internal/plugin/{plugin}",
        json=config,
        params=params,
        headers={"X-Metagov-Community": community},
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"].startswith(detail.replace("COMMUNITY", community))
    assert await entries(running, community) == before


async def test_enabling_needs_a_community(running: RunningEngine) -> None:
    url = "/api/internal/plugin/workspaces"
    missing = await running.http.post(url, json={})
    assert missing.json()["detail"] == "Missing required header 'X-Metagov-Community'"
    unknown = await running.http.post(url, json={}, headers={"X-Metagov-Community": "nobody"})
    assert unknown.json()["detail"] == "Community 'nobody' not found"
    assert [missing.status_code, unknown.status_code] == [400, 400]


async def test_what_a_plugin_is(running: RunningEngine) -> None:
    schemas = (await running.http.get("/api/internal/plugin-schemas")).json()
    assert schemas["tutorial"]["required"] == ["api_key", "foo"]
    metadata = (await running.http.get("/api/internal/plugin/workspaces/metadata")).json()
    assert (metadata["name"], metadata["auth_type"]) == ("workspaces", None)
    assert metadata["community_platform_id_key"] == "team_id"
    assert metadata["config_schema"] == schemas["workspaces"]
    assert (await running.http.get("/api/internal/plugin/nope/metadata")).status_code == 404


async def test_a_platforms_community_that_another_one_has(running: RunningEngine) -> None:
    team = uuid4().hex
    plugin = {"name": "exclusive", "config": {"team_id": team}}
    first = await running.community(plugin)
    assert (await put(running, first, plugin, RANDOMNESS)).status_code == 200
    name = f"c-{uuid4().hex}"
    refused = await put(running, name, RANDOMNESS, plugin)
    assert refused.status_code == 409
    assert refused.json()["detail"] == (
        f"Plugin 'exclusive' is enabled for another community with community_platform_id '{team}'"
    )
    assert (await running.http.get(f"/api/internal/community/{name}")).status_code == 404
    twice = await put(running, first, plugin, {**plugin, "instance": "second"})
    assert twice.status_code == 409
    assert twice.json()["detail"].startswith("Plugin 'exclusive' is enabled twice")
    await running.community(name=first)
    assert (await put(running, name, RANDOMNESS, plugin)).status_code == 201


async def test_ids_of_what_was_enabled_before_they_were_noted(running: RunningEngine) -> None:
    community = await running.community(workspace("T1", "first"), workspace(None, "second"))
    database = running.engine.database
    forgotten = update(PluginInstance).where(col(PluginInstance.community) == community)
    await database.execute(forgotten.values(community_platform_id=None))
    assert await note_platform_ids(running.engine) >= 1
    async with database.read() as session:
        first, second = await communities.instances_of(session, community)
    assert (first.community_platform_id, second.community_platform_id) == ("T1", None)


async def test_two_communities_at_once_want_the_same(running: RunningEngine) -> None:
    plugin = {"name": "exclusive", "config": {"team_id": uuid4().hex}}
    names = [f"c-{uuid4().hex}" for _ in range(4)]
    answers = await asyncio.gather(*(put(running, name, plugin) for name in names))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


@one_database
async def test_enabling_one_instance_heeds_the_header_and_wants_a_config(
    running: RunningEngine, two: str
) -> None:
    url, first = "/api/internal/plugin/workspaces", await entries(running, two)
    headers = {"X-Metagov-Community": two, "X-Metagov-Instance": "second"}
    changed = await running.http.post(url, json={"team_id": "T5"}, headers=headers)
    assert changed.status_code == 201, changed.text
    now = await entries(running, two)
    assert now["first"] == first["first"]
    assert now["second"]["config"]["team_id"] == "T5"
    both = await running.http.post(
        url, params={"instance": "first"}, json={"team_id": "T6"}, headers=headers
    )
    assert both.status_code == 400, both.text
    assert "'second'" in both.json()["detail"] and "'first'" in both.json()["detail"]
    empty = await running.http.post(url, headers=headers)
    assert (empty.status_code, await entries(running, two)) == (400, now), empty.text
    assert "send a JSON object" in empty.json()["detail"]


@one_database
async def test_an_instance_of_another_community_is_not_disabled(
    running: RunningEngine, two: str
) -> None:
    other = await running.community(workspace("T9"))
    (entry,) = (await entries(running, other)).values()
    url = f"/api/internal/plugin/workspaces/{entry['id']}"
    refused = await running.http.delete(url, headers={"X-Metagov-Community": two})
    assert refused.status_code == 404, refused.text
    gone = await running.http.delete(url, headers={"X-Metagov-Community": other})
    assert gone.status_code == 204, gone.text


@one_database
async def test_instances_without_an_id_of_the_platform_are_named(running: RunningEngine) -> None:
    community = await running.community(
        {**RANDOMNESS, "instance": "a"}, {**RANDOMNESS, "instance": "b"}
    )
    answer = await running.act(community, "randomness.random-int", low=1, high=2)
    assert answer.json()["detail"] == (
        f"Plugin 'randomness' has multiple instances for community '{community}': 'a', 'b'. "
        "Please name one by the header X-Metagov-Instance."
    )
