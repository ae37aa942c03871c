"""The plugin for X against its twin, through the whole engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sandbox.twitter.api import create_app
from sandbox.twitter.state import ACCOUNT, APP_BEARER, KEYS, USER_BEARER, TwitterTwin
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually, serve

pytestmark = one_database
SIGNED = dict(KEYS)
USER = {"bearer_token": USER_BEARER}
APP = {"bearer_token": APP_BEARER, "username": ACCOUNT}


@pytest.fixture
async def twin() -> AsyncIterator[TwitterTwin]:
    twin = TwitterTwin()
    async with serve(create_app(twin)) as url:
        twin.base_url = url
        yield twin


def config(twin: TwitterTwin, **settings: Any) -> dict[str, Any]:
    return {"name": "twitter", "config": {"api_url": twin.base_url} | settings}


async def put(running: RunningEngine, name: str, plugin: dict[str, Any]) -> httpx.Response:
    body = {"name": name, "readable_name": "", "plugins": [plugin]}
    return await running.http.put(f"/api/internal/community/{name}", json=body)


async def events(running: RunningEngine, community: str) -> list[dict[str, Any]]:
    params: dict[str, Any] = {"community": community, "limit": 500}
    delivered = (await running.http.get("/api/internal/events", params=params)).json()
    return [item["data"] for item in delivered["events"] if "event_type" in item["data"]]


async def delivered(running: RunningEngine, community: str, count: int) -> list[dict[str, Any]]:
    """Have the task run, as an operator does in the Temporal UI, until so many events are there."""

    async def all_delivered() -> bool:
        if len(await events(running, community)) >= count:
            return True
        # A run is skipped while one is under way.
        await handle.trigger()
        return False

    handle = running.client.get_schedule_handle(f"task/{community}/twitter.read-timelines")
    await eventually(all_delivered, 30)
    found = await events(running, community)
    assert len(found) == count
    return found


@pytest.mark.parametrize("keys", [SIGNED, USER], ids=["oauth1", "bearer"])
async def test_actions(running: RunningEngine, twin: TwitterTwin, keys: dict[str, str]) -> None:
    community = await running.community(config(twin, **keys))

    async def act(name: str, **parameters: Any) -> httpx.Response:
        return await running.act(community, f"twitter.{name}", **parameters)

    sent = await act("send-tweet", text="Vote now: 50% & more, für alle!")
    assert sent.status_code == 200, sent.text
    first = sent.json()
    assert first["url"] == f"https://x.com/{ACCOUNT}/status/{first['id']}"
    assert twin.tweets[int(first["id"])].text == "Vote now: 50% & more, für alle!"
    quoted = await act("send-tweet", text="Look", quote_tweet_id=first["id"])
    assert twin.tweets[int(quoted.json()["id"])].quotes == int(first["id"])
    reply = (await act("reply", tweet_id=first["id"], text="Result: adopted")).json()
    assert twin.tweets[int(reply["id"])].replies_to == int(first["id"])
    again = await act("reply", tweet_id=first["id"], text="Result: adopted")
    assert (again.status_code, again.json()["type"].rpartition(":")[2]) == (
        502,
        "platform_rejected",
    )
    assert "duplicate" in again.json()["detail"]
    assert (await act("delete-tweet", id=reply["id"])).json() == {"deleted": True}
    assert int(reply["id"]) not in twin.tweets
    user = (await act("get-user", username="ada")).json()
    assert user == twin.show_user("ada")
    assert (await act("get-user", id=user["id"])).json() == user
    nobody = await act("get-user", username="nobody")
    assert "Could not find user" in nobody.json()["detail"]
    assert (await act("get-user")).status_code == 400
    assert (await act("send-tweet", text="")).status_code == 400


async def test_an_app_reads_and_cannot_post(running: RunningEngine, twin: TwitterTwin) -> None:
    community = await running.community(config(twin, **APP))
    sent = await running.act(community, "twitter.send-tweet", text="Vote now")
    assert (sent.status_code, sent.json()["type"].rpartition(":")[2]) == (502, "authentication")
    assert "Application-Only" in sent.json()["detail"]


@pytest.mark.parametrize(
    ("settings", "status", "named"),
    [
        (SIGNED | {"consumer_secret": "revoked"}, 400, "consumer_secret"),
        ({"bearer_token": "revoked"}, 400, "bearer_token"),
        ({"bearer_token": APP_BEARER}, 400, "name a username"),
        (APP | {"username": "nobody"}, 502, "username 'nobody'"),
        ({}, 400, "needs exactly one of consumer_key, consumer_secret"),
        (SIGNED | USER, 400, "needs exactly one of"),
    ],
)
async def test_a_config_that_does_not_work_is_reported(
    running: RunningEngine, twin: TwitterTwin, settings: dict[str, str], status: int, named: str
) -> None:
    answer = await put(running, "keyless", config(twin, **settings))
    assert answer.status_code == status, answer.text
    assert named in answer.text
    assert ("name a username" in answer.text) == (named == "name a username")
    for secret in (*KEYS.values(), USER_BEARER, APP_BEARER, "revoked"):
        assert secret not in answer.text


async def test_limits_are_respected(running: RunningEngine, twin: TwitterTwin) -> None:
    community = await running.community(config(twin, **USER))
    twin.rate_limited = 1
    sent = await running.act(community, "twitter.send-tweet", text="Vote now")
    assert sent.status_code in (429, 502, 503), sent.text
    assert 0 < int(sent.headers["retry-after"]) <= 900


@pytest.mark.parametrize("keys", [SIGNED, APP], ids=["oauth1", "app"])
async def test_events(running: RunningEngine, twin: TwitterTwin, keys: dict[str, str]) -> None:
    old = twin.post("ada", f"@{ACCOUNT} before you came")
    community = await running.community(config(twin, **keys))
    texts = [f"Hey @{ACCOUNT} {n}" for n in range(120)]
    posts = [twin.post("ada", text) for text in texts]
    own = twin.post(ACCOUNT, "Vote now")
    twin.post("grace", "nothing to do with it")
    found = await delivered(running, community, 121)
    mentions = [event for event in found if event["event_type"] == "mention_created"]
    assert [event["data"]["id"] for event in mentions] == [str(post.id) for post in posts]
    assert str(old.id) not in [event["data"]["id"] for event in found]
    assert mentions[0]["initiator"] == {"user_id": "ada", "provider": "twitter"}
    assert mentions[0]["data"]["author"] == {"id": "1002", "username": "ada"}
    assert mentions[0]["data"]["url"] == f"https://x.com/ada/status/{posts[0].id}"
    (created,) = [event for event in found if event["event_type"] == "tweet_created"]
    assert created["data"]["id"] == str(own.id)
    answer = twin.post("ada", f"@{ACCOUNT} again", replies_to=own.id)
    last = (await delivered(running, community, 122))[-1]["data"]
    assert last["id"] == str(answer.id)
    assert last["referenced_tweets"] == [{"type": "replied_to", "id": str(own.id)}]
