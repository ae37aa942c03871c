"""The Discourse plugin against its twin, through the whole engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sandbox.discourse.api import create_app
from sandbox.discourse.state import API_KEY, BOT, WEBHOOK_KEY, DiscourseTwin
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually, serve

pytestmark = one_database


@pytest.fixture
async def twin() -> AsyncIterator[DiscourseTwin]:
    twin = DiscourseTwin()
    async with serve(create_app(twin)) as url:
        twin.base_url = url
        yield twin


def config(twin: DiscourseTwin, **more: Any) -> dict[str, Any]:
    settings = {
        "server_url": twin.base_url,
        "api_key": API_KEY,
        "api_username": BOT,
        "webhook_secret": WEBHOOK_KEY,
    }
    return {"name": "discourse", "config": settings | more}


class Forum:
    """A community on the twin, whose webhooks reach the engine."""

    def __init__(self, running: RunningEngine, twin: DiscourseTwin, community: str) -> None:
        self.running = running
        self.twin = twin
        self.community = community

    async def act(self, name: str, **parameters: Any) -> Any:
        answer = await self.running.act(self.community, f"discourse.{name}", **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    async def poll(self, **more: Any) -> tuple[str, int]:
        """Start a poll; gives its location and its post."""
        body = {"title": "Adopt the budget?", **more}
        if body.get("poll_type") != "number":
            body.setdefault("options", ["yes", "no"])
        answer = await self.running.start(self.community, "discourse.poll", **body)
        assert answer.status_code == 202, answer.text
        assert answer.json()["status"] == "pending"
        post = max(post.id for post in self.twin.posts.values() if post.poll)
        return answer.headers["location"], post

    async def outcome(self, location: str) -> dict[str, Any]:
        record: dict[str, Any] = (await self.running.http.get(location)).json()
        return dict(record["outcome"])

    def stir(self, post: int) -> None:
        """Something happens in a post's topic, and a webhook is sent."""
        topic = self.twin.posts[post].topic_id
        self.twin.add_post("mary", {"topic_id": topic, "raw": f"look {self.twin.new_id()}"})

    async def close(self, location: str) -> dict[str, Any]:
        answer = await self.running.http.delete(location)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def events(self, kind: str) -> list[dict[str, Any]]:
        params: dict[str, Any] = {"community": self.community, "limit": 500}
        delivered = (await self.running.http.get("/api/internal/events", params=params)).json()
        found = [item["data"] for item in delivered["events"]]
        return [event for event in found if event.get("event_type") == kind]


@pytest.fixture
async def forum(running: RunningEngine, twin: DiscourseTwin) -> Forum:
    community = await running.community(config(twin, webhook_slug="sl0g"))
    twin.webhooks.append(f"{running.http.base_url}/api/hooks/{community}/discourse/sl0g")
    return Forum(running, twin, community)


async def test_votes_are_seen_when_something_happens_and_a_driver_closes(forum: Forum) -> None:
    location, post = await forum.poll(details="Please read it.", category=4)
    assert "Please read it." in forum.twin.posts[post].raw
    assert forum.twin.topics[forum.twin.posts[post].topic_id].category_id == 4
    forum.twin.vote(post, "ada", ["yes"])
    forum.twin.vote(post, "grace", ["no"])
    forum.twin.vote(post, "linus", ["yes"])
    forum.stir(post)

    async def seen() -> bool:
        return bool((await forum.outcome(location))["voters"] == 3)

    await eventually(seen)
    assert await forum.outcome(location) == {
        "votes": {
            "yes": {"count": 2, "voters": ["ada", "linus"]},
            "no": {"count": 1, "voters": ["grace"]},
        },
        "voters": 3,
    }
    record = await forum.close(location)
    assert record["outcome"]["winner"] == ["yes"]
    assert record["outcome"]["closed_by"] == "driver"
    poll = forum.twin.posts[post].poll
    assert poll is not None
    assert (poll.status, poll.closed_by) == ("closed", BOT)


async def test_at_the_closing_time_it_is_over_though_the_status_is_open(forum: Forum) -> None:
    forum.twin.job_lag = timedelta(hours=1)
    soon = datetime.now(UTC) + timedelta(seconds=3)
    location, post = await forum.poll(results="on_close", closing_at=soon.isoformat())
    forum.twin.vote(post, "ada", ["no"])
    assert "votes" not in await forum.outcome(location)
    record = await forum.running.completed(location)
    assert record["outcome"]["closed_by"] == "deadline"
    assert record["outcome"]["winner"] == ["no"]
    poll = forum.twin.posts[post].poll
    assert poll is not None
    assert poll.status == "open"


async def test_ranked_choice_tells_its_rounds(forum: Forum) -> None:
    location, post = await forum.poll(poll_type="ranked_choice", options=["a", "b", "c"])
    for voter, ballot in {"ada": "acb", "grace": "acb", "linus": "bca", "mary": "bca"}.items():
        forum.twin.vote(post, voter, list(ballot))
    forum.twin.members[9] = "zoe"
    forum.twin.vote(post, "zoe", list("cba"))
    record = await forum.close(location)
    outcome = record["outcome"]
    assert outcome["winner"] == ["b"]
    assert outcome["rounds"] == [
        {"majority": None, "eliminated": ["c"]},
        {"majority": "b", "eliminated": []},
    ]
    assert outcome["votes"]["a"] == {"count": 2, "voters": ["ada", "grace"]}


async def test_number_and_multiple(forum: Forum) -> None:
    location, post = await forum.poll(poll_type="number", min=1, max=3)
    forum.twin.vote(post, "ada", ["1"])
    forum.twin.vote(post, "grace", ["2"])
    outcome = (await forum.close(location))["outcome"]
    assert outcome["average"] == 1.5
    assert outcome["winner"] == ["1", "2"]
    location, post = await forum.poll(
        title="Which?", poll_type="multiple", options=["x *y*", "z", "w"], max=2, public=False
    )
    forum.twin.vote(post, "ada", ["x *y*", "z"])
    forum.twin.vote(post, "grace", ["z"])
    outcome = (await forum.close(location))["outcome"]
    assert outcome["votes"] == {"x *y*": {"count": 1}, "z": {"count": 2}, "w": {"count": 0}}
    assert (outcome["voters"], outcome["winner"]) == (2, ["z"])


async def test_more_voters_than_a_post_shows_are_read_page_by_page(forum: Forum) -> None:
    location, post = await forum.poll()
    for number in range(60):
        forum.twin.vote(post, f"voter{number:02}", ["yes"])
    outcome = (await forum.close(location))["outcome"]
    assert outcome["votes"]["yes"]["voters"] == [f"voter{number:02}" for number in range(60)]


async def test_a_poll_that_is_deleted_ends(forum: Forum) -> None:
    location, post = await forum.poll()
    await forum.act("delete-post", id=post)
    record = await forum.running.completed(location)
    assert record["errors"]["code"] == "poll_deleted"


async def test_a_start_whose_answer_was_lost_is_found(forum: Forum) -> None:
    forum.twin.late_failures = [502]
    location, post = await forum.poll()
    assert len([p for p in forum.twin.posts.values() if p.poll]) == 1
    forum.twin.vote(post, "ada", ["yes"])
    assert (await forum.close(location))["outcome"]["winner"] == ["yes"]


async def test_polls_go_on_while_the_forum_fails(forum: Forum) -> None:
    location, post = await forum.poll()
    forum.twin.vote(post, "ada", ["yes"])
    forum.twin.failures = [500, 500]
    forum.stir(post)

    async def seen() -> bool:
        return bool((await forum.outcome(location))["voters"] == 1)

    await eventually(seen, 30)


async def test_a_post_held_for_review_starts_nothing(forum: Forum) -> None:
    forum.twin.reviews = True
    answer = await forum.running.start(
        forum.community, "discourse.poll", title="Held?", options=["a", "b"]
    )
    assert answer.status_code == 502
    assert "review" in answer.json()["detail"]
    held = await forum.act("create-topic", title="Held as well", raw="text")
    assert held == {"id": None, "topic_id": None, "url": None, "pending": True}


async def test_without_the_poll_plugin_the_post_is_deleted_again(forum: Forum) -> None:
    forum.twin.plain = True
    answer = await forum.running.start(
        forum.community, "discourse.poll", title="Plain?", options=["a", "b"]
    )
    assert answer.status_code == 502
    assert "made no poll" in answer.json()["detail"]
    assert all(post.deleted_at for post in forum.twin.posts.values())


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"api_key": "revoked"}, "api_key"),
        ({"api_username": "nobody"}, "api_username"),
        ({"webhook_secret": "short"}, "webhook_secret"),
        ({"server_url": "ftp://x"}, "server_url"),
    ],
)
async def test_a_config_that_does_not_work_is_reported(
    running: RunningEngine, twin: DiscourseTwin, more: dict[str, str], named: str
) -> None:
    plugin = config(twin, **more)
    body = {"name": "forumless", "readable_name": "", "plugins": [plugin]}
    answer = await running.http.put("/api/internal/community/forumless", json=body)
    assert answer.status_code == 400
    assert named in answer.text
    assert API_KEY not in answer.text


async def test_actions(forum: Forum) -> None:
    topic = await forum.act("create-topic", title="Hello", raw="First words", category=3)
    assert topic["url"] == f"{forum.twin.base_url}/t/hello/{topic['topic_id']}/1"
    reply = await forum.act("create-post", topic_id=topic["topic_id"], raw="An answer")
    assert reply["post_number"] == 2
    message = await forum.act(
        "create-message", title="For you", raw="Only you", recipients=["ada", "grace"]
    )
    assert forum.twin.topics[message["topic_id"]].recipients == ["ada", "grace"]
    await forum.act("edit-post", id=reply["id"], raw="A better answer", edit_reason="typo")
    assert forum.twin.posts[reply["id"]].raw == "A better answer"
    await forum.act("delete-post", id=reply["id"])
    assert forum.twin.posts[reply["id"]].deleted_at
    await forum.act("recover-post", id=reply["id"])
    assert forum.twin.posts[reply["id"]].deleted_at is None
    await forum.act("lock-post", id=reply["id"])
    assert forum.twin.posts[reply["id"]].locked
    await forum.act("lock-post", id=reply["id"], locked=False)
    assert not forum.twin.posts[reply["id"]].locked
    await forum.act("delete-topic", id=topic["topic_id"])
    assert forum.twin.topics[topic["topic_id"]].deleted_at
    user = await forum.act("get-user", username="ada")
    assert (user["username"], user["trust_level"]) == ("ada", 1)
    members = (await forum.act("list-members"))["members"]
    assert [member["username"] for member in members] == list(forum.twin.members.values())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("list-members", {"group": "unknown"}),
        ("create-post", {"topic_id": 999, "raw": "into nowhere"}),
        ("get-user", {"username": "nobody"}),
    ],
)
async def test_what_is_not_there_is_reported(
    forum: Forum, name: str, parameters: dict[str, Any]
) -> None:
    answer = await forum.running.act(forum.community, f"discourse.{name}", **parameters)
    assert answer.status_code == 502
    assert "errors" not in answer.json()["detail"]
    assert "answered 4" in answer.json()["detail"]


async def test_events(forum: Forum) -> None:
    async def updated() -> bool:
        return bool(await forum.events("user_updated"))

    forum.twin.set_user_fields("ada", {"1": "Paris"})
    await eventually(updated)
    forum.twin.set_user_fields("ada", {"1": "Rome"})
    await forum.act("create-topic", title="News", raw="There are news")

    async def delivered() -> bool:
        kinds = ("post_created", "topic_created", "user_fields_changed")
        return all([await forum.events(kind) for kind in kinds])

    await eventually(delivered)
    (post,) = await forum.events("post_created")
    assert post["data"]["raw"] == "There are news"
    assert post["initiator"] == {"user_id": BOT, "provider": "discourse"}
    assert post["source"] == "discourse"
    (topic,) = await forum.events("topic_created")
    assert topic["initiator"]["user_id"] == BOT
    (changed,) = await forum.events("user_fields_changed")
    assert changed["data"]["old_user_fields"] == {"1": "Paris"}
    assert changed["data"]["user_fields"] == {"1": "Rome"}


async def test_forged_webhooks(forum: Forum) -> None:
    forum.twin.announce("post_created", {"post": {"id": 1}}, secret="another secret of 12")
    forum.twin.announce("user_created", {"post": {"id": 2}})
    forum.twin.announce("ping", {"ping": "OK"})
    forum.twin.announce("post_created", {"post": {"id": 3, "topic_id": 3}})

    async def delivered() -> bool:
        return bool(await forum.events("post_created"))

    await eventually(delivered)
    assert [event["data"]["id"] for event in await forum.events("post_created")] == [3]
    assert await forum.events("user_created") == []
