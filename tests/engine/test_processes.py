"""Governance processes: records, waiting, listing, callbacks, idempotency, closing times."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from engine.messages import STATUS_ATTRIBUTE
from engine.resources import driver_webhook_secrets
from tests.engine.conftest import RunningEngine
from tests.servers import driver_server, eventually

VOTE = "randomness.delayed-stochastic-vote"
RANDOMNESS = {"name": "randomness", "config": {}}
TROUBLE = {"name": "troublesome", "config": {}}
TUTORIAL = {"name": "tutorial", "config": {"api_key": "x"}}


async def test_record(running: RunningEngine) -> None:
    community = await running.community(RANDOMNESS)
    started = await running.start(community, VOTE, options=["a", "b"], delay=60)
    record = started.json()
    assert record.keys() == {
        "id", "name", "community", "status", "errors", "outcome", "url", "created_at",
        "updated_at", "completed_at", "closing_at", "webhooks_left_out",
        "instance", "community_platform_id",
    }  # fmt: skip
    assert (record["name"], record["community"]) == (VOTE, community)
    assert (record["status"], record["errors"], record["outcome"]) == ("pending", {}, {})
    read = await running.http.get(started.headers["location"])
    assert read.json() == record
    other = await running.http.get(f"/api/internal/process/tutorial.show-of-hands/{record['id']}")
    assert other.status_code == 404
    assert (await running.http.get(f"/api/internal/process/{VOTE}/nope")).status_code == 404


async def test_operators_see_a_status_that_no_start_has_to_write(running: RunningEngine) -> None:
    community = await running.community(TUTORIAL)
    started = await running.start(community, "tutorial.show-of-hands")
    workflow_id = f"process/{community}/tutorial.show-of-hands/{started.json()['id']}"
    handle = running.client.get_workflow_handle(workflow_id)

    async def shown() -> tuple[Any, int]:
        attributes = (await handle.describe()).typed_search_attributes
        events = (await handle.fetch_history()).events
        written = [e.HasField("upsert_workflow_search_attributes_event_attributes") for e in events]
        return attributes[STATUS_ATTRIBUTE], sum(written)

    assert await shown() == ("pending", 0)
    await running.http.delete(started.headers["location"])
    await handle.result()
    assert await shown() == ("completed", 1)


async def test_closing_time_closes(running: RunningEngine) -> None:
    community = await running.community(RANDOMNESS)
    callback = f"{running.driver.url}/{community}"
    started = await running.start(community, VOTE, options=["a"], delay=0.01, callback_url=callback)
    record = await running.completed(started.headers["location"])
    assert record["outcome"] == {"winner": "a"}
    assert await eventually(lambda: running.driver.to(community)) == [record]


async def test_closing_time_whose_close_fails_is_tried_again_later(
    running: RunningEngine,
) -> None:
    community = await running.community(TROUBLE)
    started = await running.start(community, "troublesome.fragile", fail="stay", closing_in=0.1)
    record = started.json()
    handle = running.client.get_workflow_handle(
        f"process/{community}/troublesome.fragile/{record['id']}"
    )

    async def planned() -> bool:
        history = await handle.fetch_history()
        timers = [e for e in history.events if e.HasField("timer_started_event_attributes")]
        seconds = [t.timer_started_event_attributes.start_to_fire_timeout.seconds for t in timers]
        return any(50 < s <= 60 for s in seconds)

    await eventually(planned)
    assert (await running.http.get(started.headers["location"])).json()["status"] == "pending"


async def test_wait_answers_at_completion_and_at_the_end_of_its_time(
    running: RunningEngine,
) -> None:
    community = await running.community(TUTORIAL)
    location = (await running.start(community, "tutorial.show-of-hands")).headers["location"]
    early = await running.http.get(location, params={"wait": 0.2})
    assert early.json()["status"] == "pending"
    waiting = asyncio.create_task(running.http.get(location, params={"wait": 30}))
    await running.http.delete(location)
    assert (await waiting).json()["status"] == "completed"
    for wrong in ("-1", "61", "soon"):
        answer = await running.http.get(location, params={"wait": wrong})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["path"] == "/wait"


async def test_list_filters_and_pages(running: RunningEngine) -> None:
    community = await running.community(RANDOMNESS, TUTORIAL)
    for _ in range(3):
        await running.start(community, "tutorial.show-of-hands")
    done = await running.start(community, VOTE, options=["a"], delay=60)
    await running.http.delete(done.headers["location"])
    url = "/api/internal/process"
    seen, cursor = [], None
    while True:
        params: dict[str, Any] = {"community": community, "limit": 2} | (
            {"cursor": cursor} if cursor else {}
        )
        page = (await running.http.get(url, params=params)).json()
        seen += [record["id"] for record in page["processes"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 4
    assert seen[0] == done.json()["id"], "the newest first"
    last = await running.http.get(url, params={"community": community, "plugin": "tutorial"})
    closed = last.json()["processes"][0]["id"]
    await running.http.delete(f"{url}/tutorial.show-of-hands/{closed}")

    async def found(**filters: str) -> int:
        page = await running.http.get(url, params={"community": community, **filters})
        return len(page.json()["processes"])

    assert await found(plugin="tutorial") == 3
    assert (await found(status="pending"), await found(status="completed")) == (2, 2)
    assert await found(plugin="tutorial", status="completed") == 1
    for wrong in ({"cursor": "nonsense"}, {"status": "open"}, {"limit": 0}):
        assert (await running.http.get(url, params=wrong)).status_code == 400


async def test_driver_with_a_temporal_client(running: RunningEngine) -> None:
    community = await running.community(TUTORIAL)
    started = await running.start(community, "tutorial.show-of-hands", title="Hands up")
    record = started.json()
    handle = running.client.get_workflow_handle(
        f"process/{community}/tutorial.show-of-hands/{record['id']}"
    )
    assert await handle.query("record") == record
    description = await handle.describe()
    assert await description.static_summary() == "tutorial.show-of-hands: Hands up"
    awaited = asyncio.create_task(handle.result())
    await running.http.delete(started.headers["location"])
    result = await awaited
    assert result["status"] == "completed"
    assert result["outcome"] == {"hands": []}


async def test_callbacks_are_signed_and_retried(running: RunningEngine) -> None:
    community = await running.community(TUTORIAL)
    # One of its own: the shared one's answers may go to deliveries of other tests.
    async with driver_server() as driver:
        driver.answers = [500, 503]
        started = await running.start(
            community, "tutorial.show-of-hands", enough=1, callback_url=f"{driver.url}/callback"
        )
        hook = f"/api/hooks/{community}/tutorial"
        await running.http.post(hook, json={"raised_by": "ada", "account": "ada", "data": {}})
        record = await running.completed(started.headers["location"])
        assert await eventually(lambda: driver.to("callback")) == [record]
    assert len(driver.headers) == len(driver.bodies) == 3, "refused twice, then taken"
    assert len({headers["webhook-id"] for headers in driver.headers}) == 1
    verifier = Webhook(driver_webhook_secrets(running.engine.settings)[0])
    for headers, body in zip(driver.headers, driver.bodies, strict=True):
        assert verifier.verify(body, headers) == record
        with pytest.raises(WebhookVerificationError):
            verifier.verify(body + b" ", headers)


async def test_outcome_changes_are_sent_but_not_what_start_set(running: RunningEngine) -> None:
    community = await running.community(TUTORIAL)
    callback = f"{running.driver.url}/{community}"
    started = await running.start(
        community, "tutorial.show-of-hands", enough=2, callback_url=callback
    )
    hook = f"/api/hooks/{community}/tutorial"
    for person in ("ada", "ada", "bob"):
        event: dict[str, Any] = {"raised_by": person, "account": person, "data": {}}
        await running.http.post(hook, json=event)
    await running.completed(started.headers["location"])
    await eventually(lambda: len(running.driver.to(community)) == 2)
    hands = [record["outcome"]["hands"] for record in running.driver.to(community)]
    # Deliveries may overtake each other; the second "ada" changed nothing, so nothing was sent.
    assert sorted(hands, key=len) == [["ada"], ["ada", "bob"]]


async def test_completion_is_sent_even_if_nothing_else_changed(
    running: RunningEngine, tmp_path: Path
) -> None:
    durable = {"name": "durable", "config": {"platform": str(tmp_path / "platform")}}
    community = await running.community(durable)
    callback = f"{running.driver.url}/{community}"
    started = await running.start(community, "durable.vote", id="v", callback_url=callback)
    assert started.json()["url"].startswith("https://platform.test/")
    closed = (await running.http.delete(started.headers["location"])).json()
    assert (closed["outcome"], closed["url"]) == (started.json()["outcome"], started.json()["url"])
    assert await eventually(lambda: running.driver.to(community)) == [closed]


async def test_a_process_keeps_state_of_its_own(running: RunningEngine) -> None:
    community = await running.community(TROUBLE)
    one, other = [
        (await running.start(community, "troublesome.fragile")).headers["location"]
        for _ in range(2)
    ]
    for _ in range(2):
        await running.http.post(f"/api/hooks/{community}/troublesome", content="count")

    async def counted(location: str) -> bool:
        return bool((await running.http.get(location)).json()["outcome"] == {"count": 2})

    await eventually(lambda: counted(one))
    await eventually(lambda: counted(other))


@pytest.mark.parametrize("path", ["action/troublesome.counted", "process/tutorial.show-of-hands"])
async def test_idempotency_key(running: RunningEngine, path: str) -> None:
    community = await running.community(TROUBLE, TUTORIAL)
    headers = {"X-Metagov-Community": community, "Idempotency-Key": f"k-{uuid4()}"}
    action = path.startswith("action")
    body = {"parameters": {"id": uuid4().hex, "seconds": 0.3}} if action else {"title": "once"}
    url = f"/api/internal/{path}"
    answers = await asyncio.gather(
        *[running.http.post(url, json=body, headers=headers) for _ in range(5)]
    )
    answers.append(await running.http.post(url, json=body, headers=headers))
    assert {a.status_code for a in answers} == {200 if action else 202}
    assert len({a.text for a in answers}) == 1
    other = await running.http.post(
        url, json={"parameters": {}} if action else {"title": "twice"}, headers=headers
    )
    assert other.status_code == 422
    if not action:
        listed = await running.http.get("/api/internal/process", params={"community": community})
        assert len(listed.json()["processes"]) == 1
    # A key is one community's, and one action's or process'.
    name = await running.community(TROUBLE, TUTORIAL)
    elsewhere = await running.http.post(
        url, json=body, headers=headers | {"X-Metagov-Community": name}
    )
    assert elsewhere.status_code in (200, 202)
    assert action or elsewhere.json()["community"] == name
    sibling = "action/troublesome.hang" if action else "process/troublesome.fragile"
    of_another = await running.http.post(f"/api/internal/{sibling}", json=body, headers=headers)
    assert of_another.status_code == (504 if action else 202)
    empty = await running.http.post(url, json=body, headers=headers | {"Idempotency-Key": ""})
    assert empty.status_code == 400


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"options": ["a"]}, "/delay"),
        ({"options": [], "delay": 1}, "/options"),
        ({"options": ["a"], "delay": 1, "callback_url": "ftp://x.test/"}, "/callback_url"),
        ({"options": ["a"], "delay": 1, "callback_url": "http://10.0.0.1/"}, "/callback_url"),
        ({"options": ["a"], "delay": 1, "callback_url": "http://169.254.1.1/"}, "/callback_url"),
        ({"options": ["a"], "delay": 1, "callback_url": 7}, "/callback_url"),
    ],
)
async def test_bad_parameters_start_nothing(
    running: RunningEngine, body: dict[str, object], path: str
) -> None:
    community = await running.community(RANDOMNESS)
    answer = await running.start(community, VOTE, **body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["path"] == path
    listed = await running.http.get("/api/internal/process", params={"community": community})
    assert listed.json()["processes"] == []


async def test_disabling_the_plugin_ends_what_is_pending(running: RunningEngine) -> None:
    community = await running.community(TUTORIAL)
    callback = f"{running.driver.url}/{community}"
    started = await running.start(community, "tutorial.show-of-hands", callback_url=callback)
    await running.community(name=community)
    record = await running.completed(started.headers["location"])
    assert record["errors"]["code"] == "plugin_disabled"
    assert await eventually(lambda: running.driver.to(community)) == [record]
    again = await running.http.delete(started.headers["location"])
    assert again.status_code == 400
