"""The Loomio plugin against its twin, through the whole engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from engine.invocations.policy import FINDABLE_START
from sandbox.loomio.api import create_app
from sandbox.loomio.state import API_KEY, GROUP, OTHER_GROUP, SUBGROUP, Fault, LoomioTwin
from sandbox.loomio.webhooks import EVENT_KINDS
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually, serve


@pytest.fixture
async def twin() -> AsyncIterator[LoomioTwin]:
    twin = LoomioTwin()
    async with serve(create_app(twin)) as url:
        twin.base_url = url
        yield twin


def config(twin: LoomioTwin, **more: Any) -> dict[str, Any]:
    settings = {"server_url": twin.base_url, "api_key": API_KEY, "group_id": GROUP}
    return {"name": "loomio", "config": settings | more}


def tomorrow() -> str:
    return (datetime.now(UTC) + timedelta(days=1)).isoformat()


async def started(
    running: RunningEngine, twin: LoomioTwin, **more: Any
) -> tuple[str, dict[str, Any], str]:
    """A community with a poll whose webhooks reach the engine: community, record, poll key."""
    community = await running.community(config(twin, webhook_slug="sl0g"))
    hook = f"{running.http.base_url}/api/hooks/{community}/loomio/sl0g"
    twin.chatbots.append({"server": hook, "event_kinds": _every_kind()})
    body = {"title": "Lunch?", "options": ["one", "two"], "closing_at": tomorrow()} | more
    callback = f"{running.driver.url}/{community}"
    answer = await running.start(community, "loomio.poll", callback_url=callback, **body)
    assert answer.status_code == 202, answer.text
    record = answer.json()
    return community, record, record["url"].rpartition("/")[2]


def _every_kind() -> list[str]:
    return EVENT_KINDS


@pytest.mark.parametrize("old_webhooks", [False, True])
async def test_votes_are_reported_as_they_are_cast_and_the_close_at_the_end(
    running: RunningEngine, twin: LoomioTwin, old_webhooks: bool
) -> None:
    twin.old_webhooks = old_webhooks
    community, record, key = await started(running, twin)
    assert record["url"] == f"{twin.base_url}/p/{key}"
    assert record["outcome"]["votes"]["one"] == {"count": 0, "score": 0, "voters": []}
    twin.vote(key, 502, {"one": 1})
    await eventually(lambda: [r for r in running.driver.to(community) if _count(r, "one") == 1])
    twin.vote(key, 503, {"one": 1})
    twin.vote(key, 504, {"two": 1})
    twin.close(key)
    location = f"/api/internal/process/loomio.poll/{record['id']}"
    done = await running.completed(location)
    assert done["outcome"] == {
        "votes": {
            "one": {"count": 2, "score": 2, "voters": [502, 503]},
            "two": {"count": 1, "score": 1, "voters": [504]},
        },
        "voters": 3,
        "eligible": 3,
        "undecided": 0,
        "turnout": 1.0,
        "winner": ["one"],
        "closed_by": "platform",
    }
    delivered = await eventually(
        lambda: [r for r in running.driver.to(community) if r["status"] == "completed"]
    )
    assert delivered == [done]
    assert twin.requests["POST /api/b2/polls"] == 1


def _count(record: dict[str, Any], option: str) -> int:
    count: int = record["outcome"]["votes"][option]["count"]
    return count


async def test_poll_expires_at_its_closing_time(running: RunningEngine, twin: LoomioTwin) -> None:
    _, record, key = await started(running, twin)
    twin.vote(key, 502, {"two": 1})
    twin.skew = timedelta(days=2)
    done = await running.completed(f"/api/internal/process/loomio.poll/{record['id']}")
    assert done["outcome"]["closed_by"] == "deadline"
    assert done["outcome"]["winner"] == ["two"]


async def test_delete_does_what_loomio_allows_and_says_what_it_does_not(
    running: RunningEngine, twin: LoomioTwin
) -> None:
    _, record, key = await started(running, twin)
    location = f"/api/internal/process/loomio.poll/{record['id']}"
    answer = await running.http.delete(location)
    assert answer.status_code == 502
    detail = answer.json()["detail"]
    assert detail.startswith("Failed to close process")
    assert "cannot close a poll" in detail
    assert f"{twin.base_url}/p/{key}" in detail
    poll = twin.find(key)
    assert poll is not None
    assert poll.closing_at is not None
    # Loomio closes on full hours; one that is less than a minute away may be gone too soon.
    assert poll.closing_at <= datetime.now(UTC) + timedelta(hours=1, minutes=1)
    assert (await running.http.get(location)).json()["status"] == "pending"
    twin.close(key)
    await running.completed(location)


async def test_proposal_has_options_though_none_were_given(
    running: RunningEngine, twin: LoomioTwin
) -> None:
    community = await running.community(config(twin))
    body = {"title": "Adopt?", "closing_at": tomorrow()}
    record = (await running.start(community, "loomio.poll", **body)).json()
    assert list(record["outcome"]["votes"]) == ["Agree", "Disagree", "Abstain"]


async def test_hidden_results_stay_hidden_until_the_close(
    running: RunningEngine, twin: LoomioTwin
) -> None:
    _, record, key = await started(running, twin, anonymous=True)
    assert "votes" not in record["outcome"]
    twin.vote(key, 502, {"two": 1})
    twin.close(key)
    done = await running.completed(f"/api/internal/process/loomio.poll/{record['id']}")
    assert done["outcome"]["votes"] == {
        "one": {"count": 0, "score": 0},
        "two": {"count": 1, "score": 1},
    }


async def test_poll_deleted_on_the_platform(running: RunningEngine, twin: LoomioTwin) -> None:
    community, record, key = await started(running, twin)
    poll = twin.find(key)
    assert poll is not None
    poll.discarded_at = twin.now()
    twin.announce("poll_edited", poll)
    done = await running.completed(f"/api/internal/process/loomio.poll/{record['id']}")
    assert done["errors"]["code"] == "poll_deleted"
    assert await eventually(lambda: running.driver.to(community)) == [done]


async def test_webhook_without_a_link_makes_every_poll_be_read(
    running: RunningEngine, twin: LoomioTwin
) -> None:
    community, record, key = await started(running, twin)
    twin.chatbots.clear()
    twin.close(key)
    hook = f"/api/hooks/{community}/loomio/sl0g"
    assert (await running.http.post(hook, json={"text": "no link"})).status_code == 200
    await running.completed(f"/api/internal/process/loomio.poll/{record['id']}")


async def test_webhook_about_another_poll_reads_nothing(
    running: RunningEngine, twin: LoomioTwin
) -> None:
    community, record, _ = await started(running, twin)
    before = twin.requests["GET /api/b2/polls/{id}"]
    hook = f"/api/hooks/{community}/loomio/sl0g"
    text = f"[x]({twin.base_url}/p/polKEYother/x)"
    assert (await running.http.post(hook, json={"text": text})).status_code == 200

    async def handled() -> bool:
        from sqlmodel import select

        from engine.store.webhooks import HANDLED, ReceivedWebhook

        async with running.engine.database.read() as session:
            query = select(ReceivedWebhook).where(ReceivedWebhook.community == community)
            rows = (await session.exec(query)).all()
        return any(text in row.body.decode() and row.status == HANDLED for row in rows)

    await eventually(handled)
    reads = twin.requests["GET /api/b2/polls/{id}"] - before
    # The announcement of the poll itself may have led to one read.
    assert reads <= 1
    assert record["status"] == "pending"


async def test_members_and_discussion(running: RunningEngine, twin: LoomioTwin) -> None:
    twin.members += [(600 + n, f"Member {n}", f"m{n}", False) for n in range(60)]
    community = await running.community(config(twin))
    members = (await running.act(community, "loomio.list-members")).json()["members"]
    assert len(members) == 64
    assert members[0] == {
        "id": 501,
        "name": "Ada Example",
        "username": "ada",
        "admin": False,
        "pending": False,
        "bot": True,
    }
    discussion = (await running.act(community, "loomio.create-discussion", title="Hm")).json()
    assert discussion["url"] == f"{twin.base_url}/d/{discussion['key']}"
    body = {"title": "In it", "closing_at": tomorrow(), "topic_id": discussion["topic_id"]}
    in_thread = await running.start(community, "loomio.poll", **body)
    assert in_thread.status_code == 202, in_thread.text


async def test_wrong_key_is_reported_when_the_plugin_is_enabled(
    running: RunningEngine, twin: LoomioTwin
) -> None:
    name = f"c-{uuid4().hex}"
    answer = await running.http.put(
        f"/api/internal/community/{name}",
        json={"name": name, "plugins": [config(twin, api_key="not-the-key")]},
    )
    assert answer.status_code == 400
    assert "api_key" in answer.json()["detail"]
    assert "not-the-key" not in answer.text


@one_database
async def test_what_the_platform_refuses_is_reported(
    running: RunningEngine, twin: LoomioTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The request waits for all look-ups of what a start may have made.
    hasty = replace(FINDABLE_START, pause=0.5)
    monkeypatch.setattr("engine.invocations.process_calls.FINDABLE_START", hasty)
    community = await running.community(config(twin))
    body = {"title": "Too late", "closing_at": "2020-01-01"}
    refused = await running.start(community, "loomio.poll", **body)
    assert refused.status_code == 502
    assert "must be in the future" in refused.json()["detail"]
    twin.failures = [500] * 20
    down = await running.start(community, "loomio.poll", title="x", closing_at=tomorrow())
    assert down.status_code == 502
    assert "Sorry, something went wrong" in down.json()["detail"]
    twin.failures = []
    twin.rate_limited = 1
    patient = await running.start(community, "loomio.poll", title="x", closing_at=tomorrow())
    assert patient.status_code == 202, "a 429 proves that nothing was done, so it is tried again"
    assert len(twin.polls) == 1


@one_database
@pytest.mark.parametrize("made", [True, False])
async def test_a_start_whose_answer_was_lost_makes_one_poll(
    running: RunningEngine, twin: LoomioTwin, made: bool
) -> None:
    """Loomio may have made the poll, or not, before it failed: the list of its polls shows it."""
    community = await running.community(config(twin))
    # Longer than a call may take, so the answer is lost.
    twin.failures = [Fault(200, 4, late=True) if made else Fault(500)]
    started = await running.start(community, "loomio.poll", title="x", closing_at=tomorrow())
    assert started.status_code == 202, started.text
    polls = list(twin.polls.values())
    assert len(polls) == 1
    assert started.json()["url"].endswith(f"/p/{polls[0].key}")
    assert polls[0].fields["details"].startswith("<!-- metagov ")


@one_database
async def test_a_poll_in_a_thread_cannot_be_looked_up(
    running: RunningEngine, twin: LoomioTwin
) -> None:
    community = await running.community(config(twin))
    made = await running.act(community, "loomio.create-discussion", title="T", description="D")
    twin.failures = [Fault(500)]
    started = await running.start(
        community, "loomio.poll", title="x", closing_at=tomorrow(), topic_id=made.json()["topic_id"]
    )
    assert started.status_code == 502
    listed = await running.http.get("/api/internal/process", params={"community": community})
    assert listed.json()["processes"][0]["errors"]["code"] == "start_outcome_unknown"


async def test_orphan_is_refused_and_removed(running: RunningEngine, twin: LoomioTwin) -> None:
    community = await running.community(config(twin))
    twin.makes_orphans = True
    answer = await running.start(
        community, "loomio.poll", title="x", options=["a", "b"], closing_at=tomorrow()
    )
    assert answer.status_code == 502
    assert "without its group or options" in answer.json()["detail"]
    assert [p.discarded_at is not None for p in twin.polls.values()] == [True]


@one_database
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("proposal", {}),
        ("poll", {"options": ["a", "b"], "maximum_stance_choices": 2}),
        ("count", {"options": ["accept", "decline"], "agree_target": 2}),
        ("check", {"options": ["looks_good", "concerned"]}),
        ("question", {"stance_reason_required": "required"}),
        ("meeting", {"options": ["2027-01-01T10:00:00Z", "2027-01-02"]}),
        ("dot_vote", {"options": ["a", "b"], "dots_per_person": 4}),
        ("score", {"options": ["a", "b"], "min_score": 0, "max_score": 3}),
        ("ranked_choice", {"options": ["a", "b", "c"], "minimum_stance_choices": 1}),
        ("stv", {"options": ["a", "b"], "tags": ["board"]}),
    ],
)
async def test_every_type_of_poll(
    running: RunningEngine, twin: LoomioTwin, kind: str, more: dict[str, Any]
) -> None:
    community = await running.community(config(twin))
    body = {"title": "Well?", "poll_type": kind, "closing_at": tomorrow()} | more
    answer = await running.start(community, "loomio.poll", **body)
    assert answer.status_code == 202, answer.text
    (poll,) = twin.polls.values()
    assert poll.kind == kind
    if "options" in more:
        assert [option.given for option in poll.options] == more["options"]
    for name in set(more) - {"options"}:
        assert poll.fields[name] == more[name]
    if poll.options:
        twin.vote(poll.key, 502, {poll.options[0].label: 1})
    twin.close(poll.key)
    handle = await running.http.delete(answer.headers["location"])
    assert handle.status_code == 200, handle.text
    outcome = handle.json()["outcome"]
    assert outcome["closed_by"] == "platform"
    assert outcome["voters"] == bool(poll.options)
    assert outcome["eligible"] == 3
    if poll.options:
        assert outcome["votes"][poll.options[0].label]["count"] == 1
        assert outcome.get("winner") == (None if kind == "stv" else [poll.options[0].label])


@one_database
async def test_subgroups(running: RunningEngine, twin: LoomioTwin) -> None:
    community = await running.community(config(twin))
    answer = await running.start(
        community, "loomio.poll", title="Board?", closing_at=tomorrow(), group_id=SUBGROUP
    )
    assert answer.status_code == 202, answer.text
    (poll,) = twin.polls.values()
    assert poll.group_id == SUBGROUP
    discussion = await running.act(
        community, "loomio.create-discussion", title="Board talk", group_id=SUBGROUP
    )
    assert twin.discussions[discussion.json()["id"]]["group_id"] == SUBGROUP
    members = await running.act(community, "loomio.list-members", group_id=SUBGROUP)
    assert members.status_code == 200
    refused = await running.act(community, "loomio.list-members", group_id=OTHER_GROUP)
    assert refused.status_code == 502
    assert f"no subgroup of group {GROUP}" in refused.json()["detail"]
    unknown = await running.start(
        community, "loomio.poll", title="Whose?", closing_at=tomorrow(), group_id=404
    )
    assert unknown.status_code == 502
    assert len(twin.polls) == 1


@one_database
@pytest.mark.parametrize("old_webhooks", [False, True])
async def test_every_kind_of_webhook_is_an_event(
    running: RunningEngine, twin: LoomioTwin, old_webhooks: bool
) -> None:
    twin.old_webhooks = old_webhooks
    community, _, key = await started(running, twin)
    poll = twin.find(key)
    assert poll is not None
    for kind in EVENT_KINDS[3:]:
        twin.announce(kind, poll)
    discussion = twin.add_discussion({"title": "Talk", "group_id": GROUP})
    twin.add_comment(discussion, {"body": "Hello"})
    # The poll's own start is an event too, and so are the discussion and its comment.
    expected = 1 + len(EVENT_KINDS[3:]) + 2

    async def delivered() -> list[dict[str, Any]]:
        params: dict[str, Any] = {"community": community, "limit": 500}
        listed = (await running.http.get("/api/internal/events", params=params)).json()
        found = [item["data"] for item in listed["events"]]
        return [event for event in found if event.get("source") == "loomio"]

    async def all_delivered() -> bool:
        return len(await delivered()) >= expected

    await eventually(all_delivered, 30)
    events = await delivered()
    assert len(events) == expected
    kinds = {event["event_type"] for event in events}
    # Nobody edits a discussion on the twin.
    everything = set(EVENT_KINDS) - {"discussion_edited"}
    assert kinds == (everything if old_webhooks else {"group_news"})
    about_the_poll = [event for event in events if event["data"]["polls"] == [key]]
    assert len(about_the_poll) == len(events) - 2
    assert about_the_poll[0]["data"]["urls"] == [f"{twin.base_url}/p/{key}"]
    rest = [event["data"]["discussions"] for event in events if event not in about_the_poll]
    assert rest == [[discussion["key"]]] * 2


@one_database
async def test_a_key_that_rotates_while_a_poll_is_open(
    running: RunningEngine, twin: LoomioTwin
) -> None:
    community = await running.community(config(twin))
    answer = await running.start(community, "loomio.poll", title="Lunch?", closing_at=tomorrow())
    (poll,) = twin.polls.values()
    twin.api_key = "another-key"
    refused = await running.act(community, "loomio.list-members")
    assert refused.status_code == 502
    assert refused.json()["type"].endswith(":authentication")
    again = await running.http.delete(answer.headers["location"])
    assert again.status_code == 502
    await running.community(config(twin, api_key="another-key"), name=community)
    twin.close(poll.key)
    closed = await running.http.delete(answer.headers["location"])
    assert closed.status_code == 200, closed.text
    assert closed.json()["outcome"]["closed_by"] == "platform"
