"""Values that cannot be stored or sent, of plugin code or drivers, are reported and stop nobody."""

from __future__ import annotations

import base64
from typing import Any
from uuid import uuid4

import pytest

from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually

ODD = {"name": "odd", "config": {}}
FEEDS = (
    "/api/internal/process",
    "/api/internal/events",
    "/api/internal/deliveries",
    "/api/internal/webhooks",
)


async def can_be_read(running: RunningEngine) -> bool:
    """Whether all that drivers read, of all communities, can be read."""
    answers = [await running.http.get(path) for path in FEEDS]
    return [answer.status_code for answer in answers] == [200] * len(FEEDS)


@one_database
@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("event type", "half a surrogate pair"),
        ("event time", "half a surrogate pair"),
        ("state key", "failed in action"),
        ("state size", "allowed are 1000000"),
        ("many", "more than 500000 values"),
        ("long", "more than 500000 values"),
    ],
)
async def test_an_action_that_does_something_odd_is_reported_as_its_plugins_fault(
    running: RunningEngine, deed: str, words: str
) -> None:
    community = await running.community(ODD)
    for action in ("do", "do-again"):
        answer = await running.act(community, f"odd.{action}", deed=deed, call="c")
        assert (answer.status_code, answer.json()["title"]) == (500, "The plugin failed"), deed
        assert words in answer.json()["detail"]
    assert await can_be_read(running)


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("half", 502, "half ? pair"),
        ("nul", 502, "a ?"),
        ("object", 502, "<object object at"),
        ("status", 500, "odd"),
        ("wait", 502, "later"),
        ("long", 502, "aaa"),
        ("unspeakable", 500, "failed in"),
    ],
)
async def test_errors_of_plugin_code_can_be_stored_and_sent(
    running: RunningEngine, how: str, status: int, words: str
) -> None:
    community = await running.community(ODD)
    answer = await running.act(community, "odd.fail", how=how)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert len(answer.content) < 5_000
    if how == "wait":
        return
    started = await running.start(community, "odd.vote", how=how)
    assert started.status_code == status, started.text
    assert await can_be_read(running)


async def test_votes_behind_webhooks_with_odd_keys_are_counted(running: RunningEngine) -> None:
    community = await running.community(ODD)
    started = await running.start(community, "odd.vote")
    expected = []
    for odd in ("number", "false", "half", "nul", "list", "object"):
        for text in (f"odd {odd}", f"vote after {odd}"):
            sent = await running.http.post(f"/api/hooks/{community}/odd", content=text)
            assert sent.status_code == 200
        expected.append(f"vote after {odd}")
    done = (await running.http.delete(started.headers["location"])).json()
    votes = done["outcome"]["votes"]
    assert [vote for vote in votes if vote.startswith("vote")] == expected
    assert done["webhooks_left_out"] == 0
    assert "odd half" not in votes


async def test_an_id_that_cannot_be_stored_is_none(running: RunningEngine) -> None:
    community = await running.community(ODD)
    for _ in range(2):
        sent = await running.http.post(f"/api/hooks/{community}/odd", headers={"x-half": "1"})
        assert sent.status_code == 200
    page = await running.http.get("/api/internal/webhooks", params={"community": community})
    assert [row["delivery_id"] for row in page.json()["webhooks"]] == [None, None]


@one_database
@pytest.mark.parametrize("arguments", [[], [""], ["x" * 1_500_000], ["\u00e9"], ["no such id"]])
async def test_a_signal_that_names_no_webhook_wedges_nothing(
    running: RunningEngine, arguments: list[Any]
) -> None:
    community = await running.community(ODD)
    started = await running.start(community, "odd.vote")
    workflow_id = f"process/{community}/odd.vote/{started.json()['id']}"
    handle = running.client.get_workflow_handle(workflow_id)
    await handle.signal("receive_webhook", args=arguments)
    await running.http.post(f"/api/hooks/{community}/odd", content="vote")
    done = await running.http.delete(started.headers["location"])
    assert done.json()["outcome"] == {"votes": ["vote"]}


def cursor(moment: str, row_id: str = "x") -> str:
    return base64.urlsafe_b64encode(f"{moment}|{row_id}".encode()).decode()


@pytest.mark.parametrize(
    "path",
    [
        *(
            f"/api/internal/{rows}?cursor={cursor(moment)}"
            for rows in ("process", "deliveries", "webhooks")
            for moment in ("0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00")
        ),
        f"/api/internal/process?cursor={cursor('2026-01-01T00:00:00+00:00', chr(0))}",
        "/api/internal/community/%00",
        "/api/internal/process/odd.vote/%00",
        "/api/internal/process?community=%00",
        "/api/internal/events?community=%00",
        "/api/internal/webhooks/%00",
        "/api/internal/endpoints/%00",
    ],
)
async def test_odd_places_are_refused(running: RunningEngine, path: str) -> None:
    answer = await running.http.get(path)
    assert answer.status_code == 400, answer.text


async def test_a_webhook_for_nul_is_refused(running: RunningEngine) -> None:
    assert (await running.http.post("/api/hooks/%00/odd", content="x")).status_code == 400


@pytest.mark.parametrize("path", ["deliveries/redeliver", "webhooks/replay"])
async def test_odd_ranges_are_refused_and_small_letters_read(
    running: RunningEngine, path: str
) -> None:
    for body in (
        {"since": "0001-01-01T00:00:00+14:00"},
        {"since": "2020-01-01T00:00:00Z", "until": "9999-12-31T23:59:59-14:00"},
        {"since": "2020-01-01T00:00:00Z", "community": "\x00"},
    ):
        answer = await running.http.post(f"/api/internal/{path}", json=body)
        assert answer.status_code == 400, answer.text
    small = {"since": "2020-01-01t00:00:00z", "community": f"c-{uuid4().hex}"}
    answer = await running.http.post(f"/api/internal/{path}", json=small)
    assert answer.is_success, answer.text


async def test_numbers_that_are_too_large_are_no_json(running: RunningEngine) -> None:
    community = await running.community(ODD)
    answer = await running.http.post(
        "/api/internal/process/odd.vote",
        headers={"X-Metagov-Community": community, "Content-Type": "application/json"},
        content=b'{"x": 1e400}',
    )
    assert answer.status_code == 400
    assert "1e400 is too large a number" in answer.json()["detail"]


async def test_a_webhook_that_is_no_json_is_no_fault_of_its_plugin(
    running: RunningEngine, caplog: pytest.LogCaptureFixture
) -> None:
    community = await running.community({"name": "tutorial", "config": {"api_key": "x"}})
    await running.http.post(f"/api/hooks/{community}/tutorial", content="no JSON")

    async def failure() -> Any:
        page = await running.http.get("/api/internal/webhooks", params={"community": community})
        return page.json()["webhooks"][0]["error"]

    error = await eventually(failure)
    assert (error["kind"], error["status"]) == ("bad_webhook", 400)
    assert "plugin code failed" not in caplog.text
