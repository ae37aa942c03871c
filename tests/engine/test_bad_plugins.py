"""Plugin code that does what it must not: clear answers, nothing left behind."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually

TROUBLE = {"name": "troublesome", "config": {"api_key": "s3cret-key"}}


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("datetime", 500, ["troublesome.misbehave", "datetime", "/when"]),
        ("nan", 500, ["troublesome.misbehave", "float", "/deep/0"]),
        ("exit", 500, ["troublesome.misbehave"]),
        ("zero", 500, ["troublesome.misbehave"]),
        ("stop", 500, ["troublesome.misbehave"]),
        ("platform", 502, ["no entry with ********"]),
        ("httpx", 502, ["p.test/x answered 418"]),
        ("large-result", 500, ["troublesome.misbehave", "1048588 bytes", "allowed are 1048576"]),
        ("large-event", 500, ["'flood'", "bytes of JSON", "allowed are 262144"]),
        ("foreign-enum", 500, ["state cannot keep a http.HTTPStatus", "own package only"]),
        ("hang", 504, ["troublesome.misbehave", "3 s"]),
        ("spin", 504, ["troublesome.misbehave", "3 s"]),
    ],
)
async def test_action_that_fails(
    running: RunningEngine, how: str, status: int, words: list[str]
) -> None:
    community = await running.community(TROUBLE)
    answer = await running.act(community, "troublesome.misbehave", how=how)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail"} <= problem.keys()
    for word in words:
        assert word in problem["detail"]
    for hidden in ("s3cret-key", "Traceback", "division", "k=1"):
        assert hidden not in answer.text
    kept = await running.act(community, "troublesome.fetch", key="how")
    assert kept.json() == {"value": None}
    assert not [e for e in running.driver.to("events") if e["community"] == community]


async def test_action_without_result_answers_empty(running: RunningEngine) -> None:
    community = await running.community(TROUBLE)
    answer = await running.act(community, "troublesome.misbehave", how="none")
    assert answer.status_code == 200
    assert answer.content == b""


async def test_async_action_that_hangs(running: RunningEngine) -> None:
    community = await running.community(TROUBLE)
    assert (await running.act(community, "troublesome.hang")).status_code == 504


async def test_output_that_does_not_fit_its_schema(running: RunningEngine) -> None:
    community = await running.community(TROUBLE)
    answer = await running.act(community, "troublesome.wrong-output")
    assert answer.status_code == 500
    assert "output_schema" in answer.json()["detail"]


async def test_rate_limit_is_retried_for_it_proves_that_nothing_happened(
    running: RunningEngine,
) -> None:
    community = await running.community(TROUBLE)
    answer = await running.act(community, "troublesome.limited", id=uuid4().hex)
    assert answer.json() == {"tries": 3}


async def test_start_that_fails_leaves_no_pending_process(running: RunningEngine) -> None:
    community = await running.community(TROUBLE)
    callback = f"{running.driver.url}/{community}"
    refused = await running.start(
        community, "troublesome.fragile", fail="start", callback_url=callback
    )
    assert refused.status_code == 502
    assert "the platform will not have it" in refused.json()["detail"]
    bug = await running.start(community, "troublesome.fragile", fail="start-bug")
    assert bug.status_code == 500
    assert "inside" not in bug.text
    listed = await running.http.get(
        "/api/internal/process", params={"community": community, "status": "pending"}
    )
    assert listed.json()["processes"] == []
    kept = await running.act(community, "troublesome.fetch", key="started")
    assert kept.json() == {"value": None}
    # The request's own answer has reported it.
    delivered = await running.http.get("/api/internal/deliveries", params={"community": community})
    assert delivered.json()["deliveries"] == []


async def test_start_that_is_asked_to_come_later_says_so_at_once(running: RunningEngine) -> None:
    community = await running.community(TROUBLE)
    async with asyncio.timeout(20):
        refused = await running.start(community, "troublesome.fragile", fail="start-limited")
    assert refused.status_code == 502
    assert refused.json()["type"] == "urn:metagov:problem:rate_limit"
    assert 25 <= float(refused.headers["retry-after"]) <= 30


async def test_start_that_never_ends_is_reported_as_unknown(running: RunningEngine) -> None:
    community = await running.community(TROUBLE)
    callback = f"{running.driver.url}/{community}"
    answer = await running.start(
        community, "troublesome.fragile", fail="start-hang", callback_url=callback
    )
    assert answer.status_code == 504
    delivered = await eventually(lambda: running.driver.to(community))
    assert delivered[0]["errors"]["code"] == "start_outcome_unknown"


async def test_close_that_fails_leaves_the_process_pending(running: RunningEngine) -> None:
    community = await running.community(TROUBLE)
    for fail, words in (
        ("close", "Failed to close process: it will not close"),
        ("stay", "Failed to close process"),
    ):
        location = (await running.start(community, "troublesome.fragile", fail=fail)).headers[
            "location"
        ]
        answer = await running.http.delete(location)
        assert answer.status_code == 502
        assert answer.json()["detail"] == words
        assert (await running.http.get(location)).json()["status"] == "pending"


async def test_process_without_close_cannot_be_closed(running: RunningEngine) -> None:
    community = await running.community(TROUBLE)
    location = (await running.start(community, "troublesome.unclosable")).headers["location"]
    answer = await running.http.delete(location)
    assert answer.status_code == 405
    assert (
        answer.json()["detail"]
        == "troublesome.unclosable does not support manually closing the process"
    )


@one_database
async def test_webhook_handler_that_raises_leaves_nothing_and_stops_nothing(
    running: RunningEngine,
) -> None:
    community = await running.community(TROUBLE)
    callback = f"{running.driver.url}/{community}"
    started = await running.start(community, "troublesome.fragile", callback_url=callback)
    location = started.headers["location"]
    hook = f"/api/hooks/{community}/troublesome"
    assert (await running.http.post(hook, content=b"fail")).status_code == 200
    assert (await running.http.post(hook, content=b"one")).status_code == 200
    delivered = await eventually(lambda: running.driver.to(community), seconds=60)
    assert delivered[0]["outcome"] == {"heard": ["one"]}
    assert (await running.http.delete(location)).status_code == 200


@one_database
async def test_a_generator_exit_closes_nothing_of_the_engines(running: RunningEngine) -> None:
    community = await running.community({"name": "troublesome", "config": {}})
    started = await running.start(community, "troublesome.fragile")
    hook = f"/api/hooks/{community}/troublesome"
    assert (await running.http.post(hook, content="generator-exit")).status_code == 200
    assert (await running.http.post(hook, content="after")).status_code == 200
    closed = await running.http.delete(started.headers["location"])
    assert closed.status_code == 200, closed.text
