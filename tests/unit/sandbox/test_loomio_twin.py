"""The Loomio twin answers as the platform's contract says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from sandbox.loomio.api import CHATBOT_FIELDS, COMMENT_FIELDS, DISCUSSION_FIELDS, create_app
from sandbox.loomio.polls import COMMON_OPTIONS, POLL_FIELDS, POLL_TYPES
from sandbox.loomio.state import API_KEY, GROUP, LoomioTwin
from sandbox.loomio.webhooks import EVENT_KINDS
from sandbox.serving import serve_in_thread
from tests.servers import driver_server, eventually, serve

Twin = tuple[LoomioTwin, httpx.AsyncClient]


@pytest.fixture
def loomio(contracts: Path) -> Path:
    return contracts / "loomio"


@pytest.fixture
async def twin() -> AsyncIterator[Twin]:
    twin = LoomioTwin()
    async with serve(create_app(twin)) as url:
        twin.base_url = url
        headers = {"Authorization": f"Bearer {API_KEY}"}
        async with httpx.AsyncClient(base_url=f"{url}/api/b2", headers=headers) as client:
            yield twin, client


def example(loomio: Path, name: str) -> Any:
    return json.loads((loomio / "examples" / name).read_text())


def request_of(loomio: Path) -> dict[str, Any]:
    body: dict[str, Any] = example(loomio, "b2_poll_create.request.json")
    del body["_note"]
    body["poll"]["closing_at"] = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    return body


def same_shape(ours: Any, theirs: Any, path: str = "") -> None:
    """Every key of ours is one of theirs, of the same type where both have a value."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        variable = path.endswith(("voter_scores", "option_scores"))
        for key, value in ours.items():
            assert variable or key in theirs, f"{path}/{key} is none of the platform's"
            if not variable:
                same_shape(value, theirs[key], f"{path}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        for item in ours[: len(theirs)]:
            same_shape(item, theirs[0], f"{path}[]")
    elif ours is not None and theirs is not None:
        number = (int, float)
        kinds = (type(ours), type(theirs))
        assert kinds[0] is kinds[1] or all(issubclass(k, number) for k in kinds), (path, kinds)


async def test_poll_create_and_show(loomio: Path, twin: Twin) -> None:
    state, client = twin
    created = await client.post("polls", json=request_of(loomio))
    assert created.status_code == 200
    key = created.json()["polls"][0]["key"]
    state.vote(key, 502, {"agree": 1})
    shown = (await client.get(f"polls/{key}")).json()
    theirs = example(loomio, "b2_poll_show_open.json")
    same_shape(shown, theirs)
    poll = shown["polls"][0]
    assert poll["poll_option_names"] == ["Agree", "Disagree", "Abstain"]
    assert poll["closing_at"].endswith(":00:00Z"), "rounded down to the hour"
    assert [r["id"] for r in poll["results"]][-1] == -1
    assert poll["results"][0].keys() == theirs["polls"][0]["results"][0].keys()
    assert (await client.get(f"polls/{poll['id']}")).json()["polls"][0]["key"] == key


async def test_closed_and_hidden_polls(loomio: Path, twin: Twin) -> None:
    state, client = twin
    body = request_of(loomio)
    body["poll"] |= {"hide_results": "until_closed"}
    key = (await client.post("polls", json=body)).json()["polls"][0]["key"]
    hidden = (await client.get(f"polls/{key}")).json()["polls"][0]
    theirs = example(loomio, "b2_poll_show_hidden_results.json")["polls"][0]
    for absent in ("results", "stance_counts", "total_score"):
        assert absent not in theirs
        assert absent not in hidden
    state.close(key)
    closed = (await client.get(f"polls/{key}")).json()
    same_shape(closed, example(loomio, "b2_poll_show_closed.json"))
    assert closed["polls"][0]["closed_at"] is not None


async def test_flat_body_makes_an_orphan(loomio: Path, twin: Twin) -> None:
    _, client = twin
    theirs = example(loomio, "b2_poll_create_orphan.json")
    flat = await client.post("polls", json=request_of(loomio)["poll"])
    assert flat.status_code == 200
    poll = flat.json()["polls"][0]
    same_shape(poll, theirs["polls"][0])
    assert poll["group_id"] is theirs["polls"][0]["group_id"] is None
    assert poll["poll_option_names"] == theirs["polls"][0]["poll_option_names"] == []


async def test_errors(loomio: Path, twin: Twin) -> None:
    state, client = twin
    errors = example(loomio, "errors.json")
    bad_key = await client.get("groups/7", headers={"Authorization": "Bearer no"})
    assert (bad_key.status_code, bad_key.json()) == (403, errors["403_bad_key"])
    in_query = await client.get("groups/7?api_key=" + API_KEY, headers={"Authorization": ""})
    assert in_query.status_code == 403
    assert (await client.get("groups/8")).json() == errors["403_record"]
    assert (await client.get("polls/polKEY9")).json() == errors["404"]
    body = request_of(loomio)
    body["poll"]["discussion_id"] = 1
    unknown = await client.post("polls", json=body)
    assert (unknown.status_code, unknown.json()) == (400, errors["400_unpermitted_param"])
    body = request_of(loomio)
    body["poll"]["closing_at"] = "2020-01-01T00:00:00Z"
    late = await client.post("polls", json=body)
    assert (late.status_code, late.json()) == (422, errors["422"])
    state.rate_limited = 1
    limited = await client.get("groups/7")
    assert (limited.status_code, limited.text) == (429, errors["429_text_plain"])


async def test_memberships(loomio: Path, twin: Twin) -> None:
    _, client = twin
    theirs = example(loomio, "b2_memberships.json")
    ours = (await client.get("memberships", params={"group_id": GROUP})).json()
    same_shape(ours, theirs)
    page = await client.get("memberships", params={"group_id": GROUP, "limit": 1, "offset": 1})
    assert len(page.json()["memberships"]) == 1
    assert page.json()["meta"]["total"] == 4
    stranger = (await client.get("memberships", params={"group_id": 99})).json()
    assert stranger["memberships"] == []


async def test_webhooks_hold_text_only_and_once_held_more(loomio: Path, twin: Twin) -> None:
    state, client = twin
    kinds = json.loads((loomio / "webhook_event_kinds.json").read_text())["kinds"]
    assert kinds == EVENT_KINDS
    async with driver_server() as receiver:
        bot = {"group_id": GROUP, "server": f"{receiver.url}/hook", "event_kinds": kinds}
        await client.post("chatbots", json=bot)
        await client.post("polls", json=request_of(loomio))
        today = (await eventually(lambda: receiver.to("hook")))[0]
        theirs = json.loads((loomio / "webhooks/2026_markdown_poll_created.json").read_text())
        assert today.keys() == theirs["body"].keys()
        state.old_webhooks = True
        await client.post("polls", json=request_of(loomio))
        await eventually(lambda: len(receiver.to("hook")) == 2)
        old = json.loads((loomio / "webhooks/2021_markdown_poll_expired.json").read_text())
        assert receiver.to("hook")[1].keys() == old["body"].keys()
        same_shape(receiver.to("hook")[1], old["body"])


def test_fields_are_the_contracts(loomio: Path) -> None:
    schemas = document(loomio)["components"]["schemas"]
    for name, ours in (
        ("PollInput", POLL_FIELDS),
        ("DiscussionInput", DISCUSSION_FIELDS),
        ("CommentInput", COMMENT_FIELDS),
        ("WebhookInput", CHATBOT_FIELDS),
    ):
        assert set(schemas[name]["properties"]) == ours
    kinds = json.loads((loomio / "poll_types.json").read_text())["types"]
    assert set(kinds) == POLL_TYPES
    common = {k: set(v["common_options"]) for k, v in kinds.items() if "common_options" in v}
    assert common == COMMON_OPTIONS


def document(loomio: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((loomio / "openapi.b2.governance.json").read_text())
    return found


def routes() -> set[tuple[str, str]]:
    app = create_app(LoomioTwin())
    found = app.openapi()["paths"]
    return {
        (method, re.sub(r"\{\w+\}", "{id}", path))
        for path, operations in found.items()
        for method in operations
        if path.startswith("/api/")
    }


def test_routes_are_the_contracts_and_none_closes_or_votes(loomio: Path) -> None:
    theirs = {
        (method, path)
        for path, operations in document(loomio)["paths"].items()
        for method in operations
    }
    ours = routes()
    assert ours <= theirs
    assert ("post", "/api/b2/polls") in ours
    assert not [path for _, path in ours if re.search("close|reopen|vote|stance", path)]


@pytest.mark.parametrize("path", ["polls/{}/close", "polls/{}/vote", "polls/{}/stances", "nothing"])
async def test_no_api_route_closes_or_votes(loomio: Path, twin: Twin, path: str) -> None:
    _, client = twin
    key = (await client.post("polls", json=request_of(loomio))).json()["polls"][0]["key"]
    answer = await client.post(path.format(key), json={})
    assert (answer.status_code, answer.json()) == (404, example(loomio, "errors.json")["404"])
    assert (await client.get(f"polls/{key}")).json()["polls"][0]["closed_at"] is None


async def test_answers_have_all_keys_of_the_platform(loomio: Path, twin: Twin) -> None:
    state, client = twin
    await client.post("polls", json=request_of(loomio))
    poll = next(iter(state.polls.values()))
    shown = (await client.get(f"polls/{poll.id}")).json()
    theirs = example(loomio, "b2_poll_show_open.json")
    for root in ("polls", "poll_options", "users"):
        assert shown[root][0].keys() == theirs[root][0].keys(), root
    assert shown.keys() == theirs.keys() - {"_derived"}
    assert shown["topics"][0].keys() <= theirs["topics"][0].keys()
    poll.fields["hide_results"] = "until_closed"
    hidden = (await client.get(f"polls/{poll.id}")).json()
    theirs = example(loomio, "b2_poll_show_hidden_results.json")
    assert hidden["polls"][0].keys() == theirs["polls"][0].keys()
    assert hidden.keys() == theirs.keys() - {"_derived"}
    state.close(poll.key)
    closed = (await client.get(f"polls/{poll.id}")).json()
    theirs = example(loomio, "b2_poll_show_closed.json")
    assert closed["polls"][0].keys() == theirs["polls"][0].keys()
    orphan = (await client.post("polls", json=request_of(loomio)["poll"])).json()
    theirs = example(loomio, "b2_poll_create_orphan.json")
    assert orphan["polls"][0].keys() == theirs["polls"][0].keys()
    assert orphan.keys() == theirs.keys() - {"_derived"}
    schemas = document(loomio)["components"]["schemas"]
    for answer in (shown, hidden, closed, orphan):
        jsonschema.validate(answer, schemas["RecordResponse"])


async def test_votes_are_counted_with_the_undecided_in_a_row_of_their_own(twin: Twin) -> None:
    _, client = twin
    key = await a_poll(client, poll_type="score", options=["a", "b"], max_score=5)
    await sandbox(client, f"polls/{key}/vote", {"user": 502, "choices": {"a": 1, "b": 4}})
    await sandbox(client, f"polls/{key}/vote", {"user": 502, "choices": {"a": 2, "b": 4}})
    answer = await sandbox(client, f"polls/{key}/vote", {"user": 503, "choices": {"b": 5}})
    assert answer.status_code == 200
    poll = (await client.get(f"polls/{key}")).json()["polls"][0]
    rows = [(r["name"], r["score"], r["rank"], r["voter_scores"]) for r in poll["results"]]
    assert rows[:2] == [("b", 9, 1, {"502": 4, "503": 5}), ("a", 2, 2, {"502": 2})]
    assert poll["results"][2]["id"] == -1
    assert poll["results"][2]["voter_ids"] == [504]
    assert (poll["total_score"], poll["stance_counts"]) == (11, [9, 2])
    assert (poll["decided_voters_count"], poll["voters_count"]) == (2, 3)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"user": 502, "option": "agree"}, 200),
        ({"user": 502, "option": "Agree", "reason": "why not"}, 200),
        ({"user": 501, "option": "agree"}, 422),
        ({"user": 999, "option": "agree"}, 422),
        ({"user": 502, "option": "perhaps"}, 422),
        ({"user": 502, "choices": {"agree": 1, "disagree": 1}}, 422),
        ({"user": 502, "choices": []}, 422),
        ({}, 422),
    ],
)
async def test_members_vote_as_the_poll_allows(
    twin: Twin, body: dict[str, Any], status: int
) -> None:
    _, client = twin
    key = await a_poll(client)
    assert (await sandbox(client, f"polls/{key}/vote", body)).status_code == status
    poll = (await client.get(f"polls/{key}")).json()["polls"][0]
    assert poll["decided_voters_count"] == int(status == 200)
    assert (await sandbox(client, "polls/nope/vote", body)).status_code == 404


async def test_reasons_stand_in_the_thread(loomio: Path, twin: Twin) -> None:
    _, client = twin
    for anonymous in (False, True):
        key = await a_poll(client, anonymous=anonymous)
        vote = {"user": 503, "option": "agree", "reason": "Looks sound."}
        await sandbox(client, f"polls/{key}/vote", vote)
        await sandbox(client, f"polls/{key}/close", {})
        topic = (await client.get(f"polls/{key}")).json()["polls"][0]["topic_id"]
        items = (await client.get(f"threads/{topic}/items")).json()
        same_shape(
            items["stances"][0], example(loomio, "b2_stances_in_thread_items.json")["stances"][0]
        )
        assert items["stances"][0]["reason"] == "Looks sound."
        assert items["stances"][0]["participant_id"] == (None if anonymous else 503)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"poll_type": "ranked_choice", "options": ["a"]}, "poll_options"),
        ({"poll_type": "stv", "options": []}, "poll_options"),
        ({"poll_type": "riddle"}, "poll_type"),
        ({"title": ""}, "title"),
        ({"anonymous": True, "closing_at": None}, "closing_at"),
        ({"anonymous": True, "poll_type": "count"}, "anonymous"),
    ],
)
async def test_what_does_not_hold_together_is_refused(
    loomio: Path, twin: Twin, fields: dict[str, Any], wrong: str
) -> None:
    state, client = twin
    body = request_of(loomio)
    body["poll"] |= fields
    answer = await client.post("polls", json=body)
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == [wrong]
    # The two forms of an error do not exclude each other in the document, so `oneOf` itself fails.
    jsonschema.validate(
        answer.json(), document(loomio)["components"]["schemas"]["Error"]["oneOf"][1]
    )
    assert not state.polls


async def test_anonymous_hides_results_and_then_who_voted(twin: Twin) -> None:
    _, client = twin
    key = await a_poll(client, anonymous=True)
    await sandbox(client, f"polls/{key}/vote", {"user": 502, "option": "agree"})
    open_poll = (await client.get(f"polls/{key}")).json()["polls"][0]
    assert open_poll["hide_results"] == "until_closed"
    assert "results" not in open_poll
    await sandbox(client, f"polls/{key}/close", {})
    row = (await client.get(f"polls/{key}")).json()["polls"][0]["results"][0]
    assert (row["voter_count"], row["voter_ids"], row["voter_scores"]) == (1, [], {})


async def test_results_until_vote_are_served(twin: Twin) -> None:
    _, client = twin
    key = await a_poll(client, hide_results="until_vote")
    assert "results" in (await client.get(f"polls/{key}")).json()["polls"][0]


async def test_labels_belong_to_the_poll_type(twin: Twin) -> None:
    _, client = twin
    for kind, labels in (("check", ["Looks good", "agree"]), ("poll", ["looks_good", "agree"])):
        key = await a_poll(client, poll_type=kind, options=["looks_good", "agree"])
        poll = (await client.get(f"polls/{key}")).json()["polls"][0]
        assert poll["poll_option_names"] == labels


async def test_change_of_the_end_and_of_the_options(loomio: Path, twin: Twin) -> None:
    state, client = twin
    key = await a_poll(client)
    for user, option in ((502, "agree"), (503, "disagree")):
        await sandbox(client, f"polls/{key}/vote", {"user": user, "option": option})
    late = await client.patch(f"polls/{key}", json={"poll": {"closing_at": "2020-01-01"}})
    assert (late.status_code, late.json()) == (422, example(loomio, "errors.json")["422"])
    unknown = await client.patch(f"polls/{key}", json={"poll": {"closed_at": "2027-01-01"}})
    assert unknown.status_code == 400
    soon = state.now() + timedelta(hours=5, minutes=1)
    new = {"closing_at": soon.isoformat(), "options": ["agree", "block"]}
    poll = (await client.patch(f"polls/{key}", json={"poll": new})).json()["polls"][0]
    assert poll["poll_option_names"] == ["Agree", "Block"]
    assert poll["decided_voters_count"] == 1, "the vote for the option left out is lost"
    assert poll["closing_at"] == f"{soon:%Y-%m-%dT%H}:00:00Z"


async def test_discarded_poll_shows_neither_title_nor_results(twin: Twin) -> None:
    state, client = twin
    key = await a_poll(client)
    assert (await client.delete(f"polls/{key}")).status_code == 200
    poll = (await client.get(f"polls/{key}")).json()["polls"][0]
    assert poll["title"] is None
    assert poll["discarded_at"]
    assert "results" not in poll
    assert poll["closed_at"] is None, "to discard is not to close"
    listed = await client.get("polls", params={"group_id": GROUP, "status": "all"})
    assert listed.json()["polls"] == []
    state.discarded_are_gone = True
    assert (await client.get(f"polls/{key}")).status_code == 404


async def test_lists_of_polls_are_paged(twin: Twin) -> None:
    state, client = twin
    keys = [await a_poll(client) for _ in range(3)]
    state.close(keys[0])
    for status, total in (("active", 2), ("closed", 1), ("all", 3)):
        query: dict[str, Any] = {
            "group_id": GROUP,
            "status": status,
            "limit": 1,
            "offset": total - 1,
        }
        page = (await client.get("polls", params=query)).json()
        assert [p["key"] for p in page["polls"]] == [keys[0] if status == "closed" else keys[2]]
        assert page["meta"] == {"root": "polls", "total": total}
    assert (await client.get("polls", params={"group_id": GROUP, "limit": 0})).status_code == 400


async def test_discussions_and_their_flat_comments(loomio: Path, twin: Twin) -> None:
    _, client = twin
    flat = await client.post("discussions", json={"group_id": GROUP, "title": "Hm"})
    assert flat.status_code == 400
    new = {"discussion": {"group_id": GROUP, "title": "Hm"}}
    made = (await client.post("discussions", json=new)).json()["discussions"][0]
    for name in (made["id"], made["key"]):
        shown = (await client.get(f"discussions/{name}")).json()
        assert shown["discussions"] == [made]
        assert shown["topics"][0]["topicable_id"] == made["id"]
    listed = await client.get("discussions", params={"group_id": GROUP})
    assert listed.json()["meta"]["total"] == 1
    theirs = example(loomio, "b2_comment_create.json")
    request = theirs["request"] | {"discussion_id": made["id"]}
    answer = (await client.post("comments", json=request)).json()
    assert answer.keys() == theirs["response"].keys()
    assert answer["comments"][0].keys() == theirs["response"]["comments"][0].keys()
    same_shape(answer, theirs["response"])
    assert (await client.post("comments", json={"comment": request})).status_code == 400


async def test_key_in_the_body_of_a_request(twin: Twin) -> None:
    state, client = twin
    body = {"discussion_id": state.add_discussion({"title": "x"})["id"], "body": "y"}
    without = {"Authorization": ""}
    assert (await client.post("comments", json=body, headers=without)).status_code == 403
    with_key = body | {"api_key": API_KEY}
    assert (await client.post("comments", json=with_key, headers=without)).status_code == 200


async def test_clock_and_a_job_that_lags(twin: Twin) -> None:
    _, client = twin
    key = await a_poll(client)
    lag = {"advance_seconds": 3 * 86400, "job_lag_seconds": 2 * 86400}
    await sandbox(client, "clock", lag)
    poll = (await client.get(f"polls/{key}")).json()["polls"][0]
    assert poll["closed_at"] is None
    now = (await sandbox(client, "clock", {"advance_seconds": 86400})).json()["now"]
    assert poll["closing_at"] < now
    poll = (await client.get(f"polls/{key}")).json()["polls"][0]
    assert poll["closed_at"] >= poll["closing_at"]
    voted = await sandbox(client, f"polls/{key}/vote", {"user": 502, "option": "agree"})
    assert voted.status_code == 422
    assert (
        await sandbox(client, f"polls/{key}/reopen", {"closing_at": "2020-01-01"})
    ).status_code == 422
    assert (await sandbox(client, f"polls/{key}/reopen", {})).status_code == 200
    assert (await client.get(f"polls/{key}")).json()["polls"][0]["closed_at"] is None
    assert (await sandbox(client, "clock", {"advance_seconds": "soon"})).status_code == 422


async def test_faults_and_the_log(loomio: Path, twin: Twin) -> None:
    state, client = twin
    await sandbox(client, "faults", {"count": 2, "status": 503})
    statuses = [(await client.get("groups/7")).status_code for _ in range(3)]
    assert statuses == [503, 503, 200]
    await sandbox(client, "faults", {"count": 1, "status": 200, "delay_seconds": 0.2})
    began = time.monotonic()
    assert (await client.get("polls/polKEY9")).status_code == 404
    assert time.monotonic() - began >= 0.2
    assert (await sandbox(client, "faults", {"status": 302})).status_code == 422
    log = (await client.get(f"{state.base_url}/sandbox/log")).json()
    assert log == {"GET /api/b2/groups/{id}": 3, "GET /api/b2/polls/{id}": 1}


async def test_limit_of_requests_in_five_minutes(loomio: Path, twin: Twin) -> None:
    state, client = twin
    state.rate_limit = 2
    answers = [await client.get("groups/7") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].text == example(loomio, "errors.json")["429_text_plain"]
    assert answers[2].headers["content-type"].startswith("text/plain")
    assert "retry-after" not in answers[2].headers
    state.skew += timedelta(minutes=5, seconds=1)
    assert (await client.get("groups/7")).status_code == 200


@pytest.mark.parametrize("form", ["slack", "discord"])
async def test_forms_of_webhooks(loomio: Path, twin: Twin, form: str) -> None:
    _, client = twin
    async with driver_server() as receiver:
        url = f"{receiver.url}/hook"
        hook = {"url": url, "webhook_kind": form, "event_kinds": ["poll_created"]}
        await sandbox(client, "webhooks", hook)
        key = await a_poll(client)
        await sandbox(client, f"polls/{key}/vote", {"user": 502, "option": "agree"})
        await client.post("chatbots/check", json={"group_id": GROUP, "server": url})
        output = await eventually(lambda: len(receiver.to("hook")) == 2 and receiver.to("hook"))
        theirs = json.loads((loomio / f"webhooks/2026_{form}_poll_created.json").read_text())
        assert sorted(map(sorted, output)) == sorted([["text"], sorted(theirs["body"])])
        assert any(f"/p/{key}/" in body["text"] for body in output)


async def test_webhook_that_fails_is_not_sent_again(twin: Twin) -> None:
    _, client = twin
    async with driver_server() as receiver:
        receiver.answers = [500]
        kinds = ["poll_created", "poll_closed_by_user"]
        await sandbox(client, "webhooks", {"url": f"{receiver.url}/hook", "event_kinds": kinds})
        key = await a_poll(client)
        await eventually(lambda: receiver.bodies)
        await sandbox(client, f"polls/{key}/close", {})
        output = await eventually(lambda: receiver.to("hook"))
        assert "poll closed by user" in output[0]["text"]
        assert len(receiver.bodies) == 2
        assert not [name for name in receiver.headers[0] if "signature" in name]


async def test_chatbot_wants_what_the_platform_knows(twin: Twin) -> None:
    state, client = twin
    for body in ({"url": "http://x"}, {"server": "http://x", "group_id": 8}, {}):
        assert (await client.post("chatbots", json=body)).status_code in (400, 403, 422)
    made = (await client.post("chatbots", json={"server": "http://127.0.0.1:9"})).json()
    number = made["chatbots"][0]["id"]
    listed = await client.get("chatbots", params={"group_id": GROUP})
    assert [bot["id"] for bot in listed.json()["chatbots"]] == [number]
    assert (await client.delete(f"chatbots/{number}")).json() == {"success": "success"}
    assert state.chatbots == []


async def test_page_has_buttons_that_work_and_trusts_no_title(twin: Twin) -> None:
    state, client = twin
    key = await a_poll(client, title="<script>x</script>", options=["agree", '"><b>'])
    page = await client.get(f"{state.base_url}/", headers={"Accept": "text/html"})
    assert "<script>" not in page.text
    assert "<b>" not in page.text
    assert f"action=/sandbox/polls/{key}/close" in page.text
    form = {"user": "502", "option": "Agree", "reason": "because"}
    pressed = await client.post(
        f"{state.base_url}/sandbox/polls/{key}/vote", data=form, headers={"Accept": "text/html"}
    )
    assert (pressed.status_code, pressed.headers["location"]) == (303, "/")
    poll = state.find(key)
    assert poll is not None
    assert poll.votes[502].reason == "because"


def test_twin_runs_in_a_thread() -> None:
    twin = LoomioTwin(old_webhooks=True)
    with serve_in_thread(create_app(twin)) as url:
        assert twin.base_url == url
        headers = {"Authorization": f"Bearer {API_KEY}"}
        answer = httpx.get(f"{twin.base_url}/api/b2/groups", headers=headers)
        assert answer.json()["groups"][0]["id"] == GROUP
    with pytest.raises(httpx.ConnectError):
        httpx.get(twin.base_url)


async def a_poll(client: httpx.AsyncClient, **fields: Any) -> str:
    closing_at = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    poll = {"group_id": GROUP, "title": "T", "poll_type": "proposal", "closing_at": closing_at}
    answer = await client.post(
        "polls", json={"poll": poll | {"options": ["agree", "disagree"]} | fields}
    )
    assert answer.status_code == 200, answer.text
    key: str = answer.json()["polls"][0]["key"]
    return key


async def sandbox(client: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    return await client.post(str(client.base_url.join(f"/sandbox/{path}")), json=body)


def test_plugin_asks_as_the_contract_says(loomio: Path) -> None:
    from engine.plugins import Parameters
    from engine.plugins.loomio.plugin import _poll_fields
    from engine.plugins.loomio.schemas import POLL

    document = json.loads((loomio / "openapi.b2.governance.json").read_text())
    schema = document["components"]["schemas"]["PollInput"]
    for given in (
        {"title": "t", "closing_at": "2027-01-01"},
        {"title": "t", "closing_at": "2027-01-01T10:00:00Z", "options": ["a"], "topic_id": 3},
        {"title": "t", "closing_at": "2027-01-01", "poll_type": "question", "anonymous": False},
        {"title": "t", "closing_at": "2027-01-01", "quorum_pct": 50, "notify_on_open": True},
        {"title": "t", "closing_at": "2027-01-01", "recipient_user_ids": [1], "agree_target": 2},
    ):
        jsonschema.validate(_poll_fields(Parameters(given, POLL), 7), schema)
