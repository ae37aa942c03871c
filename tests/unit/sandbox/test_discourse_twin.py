"""The Discourse twin answers as the platform's contract says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from sandbox.discourse.api import POST_FIELDS, create_app
from sandbox.discourse.polls import as_text, digest
from sandbox.discourse.state import API_KEY, BOT, WEBHOOK_KEY, DiscourseTwin
from sandbox.twin import RefusedError
from tests.servers import serve

Twin = tuple[DiscourseTwin, httpx.AsyncClient]
SECOND = timedelta(seconds=1)


@pytest.fixture
def discourse(contracts: Path) -> Path:
    return contracts / "discourse"


@pytest.fixture
async def twin() -> AsyncIterator[Twin]:
    twin = DiscourseTwin()
    async with serve(create_app(twin)) as url:
        twin.base_url = url
        headers = {"Api-Key": API_KEY, "Api-Username": BOT}
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            yield twin, client


def example(discourse: Path, name: str) -> Any:
    return json.loads((discourse / name).read_text())


async def post(client: httpx.AsyncClient, markup: str, **more: Any) -> dict[str, Any]:
    answer = await client.post("/posts.json", json={"title": "A poll", "raw": markup} | more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def keys_of(ours: Any, theirs: Any, path: str = "") -> None:
    """Every key of ours is one of theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        by_id = path.endswith(("preloaded_voters", "polls_votes"))
        for key, value in ours.items():
            assert by_id or key in theirs, f"{path}/{key} is none of the platform's"
            if not by_id:
                keys_of(value, theirs[key], f"{path}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and theirs:
        for item in ours:
            keys_of(item, theirs[0], f"{path}[]")


@pytest.mark.parametrize(
    ("attributes", "options"),
    [
        ("type=regular public=true", "* Yes\n* No\n"),
        ("type=multiple min=1 max=2", "* Yes\n* No\n* Later\n"),
        ("type=number min=1 max=3 step=1", ""),
        ("type=ranked_choice public=true", "* Yes\n* No\n"),
    ],
)
async def test_polls_are_as_the_contract_has_them(
    discourse: Path, twin: Twin, attributes: str, options: str
) -> None:
    state, client = twin
    close = as_text(state.now() + timedelta(days=1))
    raw = f"[poll {attributes} close={close}]\n# Adopt it?\n{options}[/poll]"
    made = await post(client, raw)
    poll = state.posts[made["id"]].poll
    assert poll is not None
    texts = list(poll.options.values())
    state.vote(made["id"], "ada", texts if poll.kind == "ranked_choice" else texts[:1])
    shown = (await client.get(f"/posts/{made['id']}.json")).json()
    schema = example(discourse, "polls/openapi.polls.json")["components"]["schemas"]["Poll"]
    jsonschema.validate(shown["polls"][0], schema)
    allowed = set(schema["properties"])
    assert set(shown["polls"][0]) <= allowed
    if poll.kind == "ranked_choice":
        keys_of(shown["polls"][0], example(discourse, "polls/ranked_choice_poll.json")["poll"])


async def test_post_and_toggle_have_the_platforms_keys(discourse: Path, twin: Twin) -> None:
    state, client = twin
    raw = "[poll type=regular results=always public=true]\n# Adopt it?\n* Yes\n* No\n[/poll]"
    made = await post(client, raw)
    state.vote(made["id"], "ada", ["Yes"])
    shown = (await client.get(f"/posts/{made['id']}.json")).json()
    theirs = example(discourse, "polls/post_with_poll.response.json")
    keys_of(shown["polls"], theirs["polls"])
    for key in set(theirs) - {"_derived", "polls_votes"}:
        assert key in shown
    assert [option["id"] for option in shown["polls"][0]["options"]] == [
        option["id"] for option in theirs["polls"][0]["options"]
    ]
    body = {"post_id": made["id"], "poll_name": "poll", "status": "closed"}
    toggled = (await client.put("/polls/toggle_status.json", json=body)).json()
    keys_of(toggled, example(discourse, "polls/toggle_status.response.json"))
    assert toggled["poll"]["status"] == "closed"
    again = await client.put("/polls/toggle_status.json", json=body)
    assert again.status_code == 200
    other = await client.put(
        "/polls/toggle_status.json", json=body, headers={"Api-Username": "ada"}
    )
    assert other.status_code == 422
    voters = await client.get(
        "/polls/voters.json",
        params={"post_id": made["id"], "poll_name": "poll", "option_id": digest("Yes")},
    )
    keys_of(voters.json(), example(discourse, "polls/voters.response.json"))


async def test_refusals_are_the_platforms(discourse: Path, twin: Twin) -> None:
    state, client = twin
    theirs = example(discourse, "polls/errors.json")
    wrong = await client.get("/u/ada.json", headers={"Api-Key": "wrong"})
    assert (wrong.status_code, wrong.json()) == (403, theirs["forbidden_403"])
    missing = await client.get("/posts/1.json")
    assert (missing.status_code, missing.json()) == (404, theirs["not_found_404"])
    invalid = await client.post("/posts.json", json={"title": "t", "raw": "[poll]\n* A\n[/poll]"})
    assert (invalid.status_code, invalid.json()) == (422, theirs["post_create_validation_422"])
    body = {"post_id": 1, "poll_name": "foobar", "status": "closed"}
    unknown = await client.put("/polls/toggle_status.json", json=body)
    assert (unknown.status_code, unknown.json()) == (422, theirs["poll_error_422"])
    state.rate_limited = 1
    limited = await client.get("/u/ada.json")
    assert limited.status_code == 429
    assert limited.json() == theirs["rate_limited_429"]["body"]
    assert limited.headers["retry-after"] == theirs["rate_limited_429"]["headers"]["Retry-After"]


async def test_the_status_follows_the_closing_time_late(twin: Twin) -> None:
    state, client = twin
    state.job_lag = timedelta(hours=1)
    close = as_text(state.now() + 5 * SECOND)
    made = await post(client, f"[poll results=on_close close={close}]\n* A\n* B\n[/poll]")
    state.vote(made["id"], "ada", ["A"])
    open_ = (await client.get(f"/posts/{made['id']}.json")).json()["polls"][0]
    assert "votes" not in open_["options"][0]
    state.skew = 6 * SECOND
    with pytest.raises(RefusedError):
        state.vote(made["id"], "grace", ["A"])
    over = (await client.get(f"/posts/{made['id']}.json")).json()["polls"][0]
    assert over["status"] == "open"
    assert over["options"][0]["votes"] == 1
    state.skew = timedelta(hours=2)
    state.expire()
    assert (await client.get(f"/posts/{made['id']}.json")).json()["polls"][0]["status"] == "closed"


async def test_requests_and_webhooks_are_the_contracts(discourse: Path, twin: Twin) -> None:
    state, client = twin
    paths = example(discourse, "openapi.governance.json")["paths"]
    content = paths["/posts.json"]["post"]["requestBody"]["content"]["application/json"]
    assert set(content["schema"]["properties"]) == POST_FIELDS
    made = await post(client, "Just a text")
    ours = state.show_webhook_post(state.posts[made["id"]])
    theirs = json.loads(example(discourse, "webhooks/post_created.json")["raw_body"])["post"]
    missing = set(ours) - set(theirs)
    assert not missing, missing
    topic = state.show_topic(state.topics[made["topic_id"]])
    theirs = json.loads(example(discourse, "webhooks/topic_created.json")["raw_body"])["topic"]
    assert not set(topic) - set(theirs)
    assert len(WEBHOOK_KEY) >= 12


async def test_a_person_can_play_a_vote_by_hand(twin: Twin) -> None:
    state, client = twin
    made = await post(client, "[poll type=multiple max=2]\n# Lunch?\n* soup\n* salad\n[/poll]")
    page = await client.get("/")
    assert "Lunch?" in page.text
    assert "value='soup'" in page.text
    url = f"/sandbox/posts/{made['id']}/vote"
    voted = await client.post(url, data={"username": "ada", "option": ["soup", "salad"]})
    assert voted.status_code == 303
    refused = await client.post(url, data={"username": "ada", "option": ["pizza"]})
    assert refused.status_code == 422
    nobody = await client.post(url, data={"option": ["soup"]})
    assert (nobody.status_code, "username" in nobody.text) == (404, True)
    reply = await client.post(
        f"/sandbox/topics/{made['topic_id']}/reply", data={"username": "ada", "raw": "I am hungry"}
    )
    assert reply.status_code == 303
    assert [p.raw for p in state.posts.values()][-1] == "I am hungry"
    assert (await client.post(f"/sandbox/posts/{made['id']}/close")).status_code == 303
    assert "closed, 1 votes" in (await client.get("/")).text
    assert (await client.post("/sandbox/clock", data={"advance_seconds": "60"})).status_code == 303
    hook = await client.post("/sandbox/webhooks", data={"url": "http://127.0.0.1:1/"})
    assert hook.status_code == 303
    assert state.webhooks == ["http://127.0.0.1:1/"]
