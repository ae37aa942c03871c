"""The X twin answers as the platform's contract says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.plugins.twitter.signing import OAuth1
from sandbox.twitter.api import create_app
from sandbox.twitter.state import ACCOUNT, APP_BEARER, KEYS, USER_BEARER, TwitterTwin
from tests.servers import serve

Twin = tuple[TwitterTwin, httpx.AsyncClient]


@pytest.fixture
def examples(contracts: Path) -> dict[str, Any]:
    return dict(json.loads((contracts / "x/examples/api.json").read_text()))


@pytest.fixture
async def twin() -> AsyncIterator[Twin]:
    twin = TwitterTwin()
    async with serve(create_app(twin)) as url:
        twin.base_url = url
        headers = {"Authorization": f"Bearer {USER_BEARER}"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            yield twin, client


async def test_posting_is_the_contracts(examples: dict[str, Any], twin: Twin) -> None:
    _, client = twin
    body = {"text": examples["create.request"]["text"]}
    made = await client.post("/2/tweets", json=body)
    assert (made.status_code, made.json()) == (201, examples["create.201"])
    answered = await client.post("/2/tweets", json=examples["reply.request"])
    assert answered.status_code == 201
    again = await client.post("/2/tweets", json=examples["reply.request"])
    assert (again.status_code, again.json()) == (403, examples["forbidden_403"])
    assert again.headers["content-type"] == "application/problem+json"
    unknown = await client.post("/2/tweets", json=body | {"colour": "red"})
    assert (unknown.status_code, unknown.json()) == (400, examples["problem_400"])
    gone = await client.delete(f"/2/tweets/{made.json()['data']['id']}")
    assert gone.json() == examples["delete.200"]


async def test_limits_are_reported(examples: dict[str, Any], twin: Twin) -> None:
    state, client = twin
    state.limits["POST /2/tweets"] = 1
    first = await client.post("/2/tweets", json={"text": "one"})
    assert first.headers["x-rate-limit-remaining"] == "0"
    second = await client.post("/2/tweets", json={"text": "two"})
    theirs = examples["rate_limited_429"]
    assert (second.status_code, second.json()) == (429, theirs["body"])
    assert set(theirs["headers"]) <= set(second.headers)
    wait = int(second.headers["x-rate-limit-reset"]) - state.now().timestamp()
    assert 0 < wait <= 900
    later = {"advance_seconds": str(wait + 1)}
    assert (await client.post("/sandbox/clock", data=later)).status_code == 303
    assert (await client.post("/2/tweets", json={"text": "two"})).status_code == 201


async def test_who_is_known(twin: Twin) -> None:
    state, client = twin
    assert (await client.get("/2/users/me")).json()["data"]["username"] == ACCOUNT
    app = {"Authorization": f"Bearer {APP_BEARER}"}
    assert (await client.get("/2/users/me", headers=app)).status_code == 403
    assert (await client.post("/2/tweets", json={"text": "x"}, headers=app)).status_code == 403
    found = await client.get("/2/users/by/username/ada", headers=app)
    assert found.json()["data"] == state.show_user("ada")
    assert (await client.get("/2/users/1002", headers=app)).json() == found.json()
    missing = (await client.get("/2/users/by/username/nobody")).json()["errors"][0]
    assert missing["title"] == "Not Found Error"
    for wrong in ("Bearer wrong", "Basic x", "OAuth oauth_nonce=1", ""):
        answer = await client.get("/2/users/me", headers={"Authorization": wrong})
        assert answer.status_code == 401


async def test_signatures_are_checked(twin: Twin) -> None:
    _, client = twin
    url = f"{client.base_url}/2/users/1001/mentions"
    params: dict[str, Any] = {"max_results": 5, "tweet.fields": "author_id,created_at"}
    async with httpx.AsyncClient(auth=OAuth1(KEYS)) as signed:
        sent = await signed.get(url, params=params)
        assert sent.status_code == 200
        again = {"Authorization": sent.request.headers["authorization"]}
    async with httpx.AsyncClient() as plain:
        assert (await plain.get(sent.request.url, headers=again)).status_code == 401
    for name in KEYS:
        async with httpx.AsyncClient(auth=OAuth1(KEYS | {name: "wrong"})) as forged:
            assert (await forged.get(url, params=params)).status_code == 401, name


async def test_a_clock_that_is_wrong_signs_in_vain(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = twin
    monkeypatch.setattr("oauthlib.oauth1.rfc5849.generate_timestamp", lambda: "1700000000")
    async with httpx.AsyncClient(auth=OAuth1(KEYS)) as signed:
        assert (await signed.get(f"{client.base_url}/2/users/me")).status_code == 401


async def test_timelines_are_paged(twin: Twin) -> None:
    state, client = twin
    empty = (await client.get("/2/users/1001/tweets")).json()
    assert empty == {"meta": {"result_count": 0}}
    posts = [state.post("ada", f"@{ACCOUNT} {n}") for n in range(12)]
    params = {"max_results": "5", "since_id": str(posts[1].id), "expansions": "author_id"}
    first = (await client.get("/2/users/1001/mentions", params=params)).json()
    assert [t["text"] for t in first["data"]] == [f"@{ACCOUNT} {n}" for n in range(11, 6, -1)]
    assert first["includes"]["users"] == [state.show_user("ada")]
    assert first["meta"]["newest_id"] == str(posts[11].id)
    params["pagination_token"] = first["meta"]["next_token"]
    second = (await client.get("/2/users/1001/mentions", params=params)).json()
    assert second["meta"]["oldest_id"] == str(posts[2].id)
    assert "next_token" not in second["meta"]
    assert (await client.get("/2/users/1001/tweets?max_results=1")).status_code == 400


async def test_a_person_can_post_by_hand(twin: Twin) -> None:
    state, client = twin
    form = {"username": "grace", "text": f"Hello @{ACCOUNT}"}
    assert (await client.post("/sandbox/tweets", data=form)).status_code == 303
    assert "Hello @governance_bot" in (await client.get("/")).text
    assert len(state.mentions(ACCOUNT)) == 1
    assert (await client.post("/sandbox/tweets", data=form)).status_code == 422
    nobody = await client.post("/sandbox/tweets", data=form | {"username": "nobody"})
    assert nobody.status_code == 422
    assert "nobody" in nobody.text
    unsaid = await client.post("/sandbox/tweets", data={"username": "grace"})
    assert (unsaid.status_code, "text" in unsaid.text) == (404, True)
    soon = await client.post("/sandbox/clock", data={"advance_seconds": "soon"})
    assert (soon.status_code, "'soon'" in soon.text) == (422, True)
    assert (await client.post("/sandbox/clock")).status_code == 404
