"""The Open Collective twin answers as the platform's contract says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from graphql import build_schema, find_breaking_changes

from sandbox.opencollective.api import create_app
from sandbox.opencollective.models import EMOJI, LEGACY_ID, SLUG, CodedError
from sandbox.opencollective.schema import SCHEMA
from sandbox.opencollective.state import API_KEY, OpenCollectiveTwin
from sandbox.opencollective.webhooks import WEBHOOK_TYPES, webhook_body
from tests.servers import serve
from tests.unit.sandbox.test_discourse_twin import keys_of

Twin = tuple[OpenCollectiveTwin, httpx.AsyncClient]
ACCOUNT = {"slug": SLUG}


@pytest.fixture
def opencollective(contracts: Path) -> Path:
    return contracts / "opencollective"


@pytest.fixture
async def twin() -> AsyncIterator[Twin]:
    twin = OpenCollectiveTwin()
    async with serve(create_app(twin)) as url:
        twin.base_url = url
        headers = {"Personal-Token": API_KEY}
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            yield twin, client


async def ask(client: httpx.AsyncClient, query: str, **variables: Any) -> dict[str, Any]:
    answer = await client.post("/graphql/v2", json={"query": query, "variables": variables})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def operations(opencollective: Path) -> dict[str, str]:
    return dict(json.loads((opencollective / "examples/operations.json").read_text()))


def test_what_it_serves_the_platform_serves(opencollective: Path) -> None:
    text = (opencollective / "schemaV2.graphql").read_text()
    theirs = build_schema(text, assume_valid=True)
    assert [change.description for change in find_breaking_changes(SCHEMA, theirs)] == []
    names = json.loads((opencollective / "activity_types.json").read_text())["map"]
    assert {name: names[name] for name in WEBHOOK_TYPES} == WEBHOOK_TYPES


async def test_it_answers_the_operations_of_the_contract(opencollective: Path, twin: Twin) -> None:
    state, client = twin
    ask_for = operations(opencollective)
    title = {"title": "Camp?", "html": "<p>A camp</p>"}
    made = await ask(client, ask_for["createConversation"], account=ACCOUNT, **title)
    conversation = made["data"]["createConversation"]
    comment = {"html": "<p>Yes!</p>", "conversation": {"id": conversation["publicId"]}}
    said = (await ask(client, ask_for["createComment"], comment=comment))["data"]["createComment"]
    body = conversation["body"]["id"]
    state.react("ada", state.conversations[conversation["id"]].body, EMOJI[0])
    reacted = await ask(client, ask_for["addEmojiReaction"], comment={"id": body}, emoji="👍\ufe0f")
    after = reacted["data"]["addEmojiReaction"]["comment"]
    assert after == {"id": body, "reactions": {"👍\ufe0f": 2}, "userReactions": ["👍\ufe0f"]}
    read = await ask(client, ask_for["conversationResults"], id=conversation["id"])
    assert read["data"]["conversation"]["body"]["reactions"] == {"👍\ufe0f": 2}
    assert [c["html"] for c in read["data"]["conversation"]["comments"]["nodes"]] == ["<p>Yes!</p>"]
    await ask(client, ask_for["deleteComment"], id=said["id"])
    assert not state.conversations[conversation["id"]].comments
    expense = {"legacyId": state.file_expense("ada", "Server bill", 4200).number}
    done = await ask(client, ask_for["processExpense"], expense=expense, action="APPROVE")
    assert done["data"]["processExpense"]["status"] == "APPROVED"
    shown = (await ask(client, ask_for["expense"], expense=expense))["data"]["expense"]
    assert (shown["amount"], shown["payee"]) == (4200, {"slug": "ada"})
    members = (await ask(client, ask_for["members"], slug=SLUG))["data"]["account"]["members"]
    assert members["totalCount"] == len(state.members)
    webhook = {"account": ACCOUNT, "webhookUrl": "https://example.org/hook"}
    hook = (await ask(client, ask_for["createWebhook"], webhook=webhook))["data"]["createWebhook"]
    assert hook["activityType"] == "ACTIVITY_ALL"
    await ask(client, ask_for["deleteWebhook"], webhook={"id": hook["publicId"]})
    assert not state.webhooks


async def test_refusals_are_the_platforms(opencollective: Path, twin: Twin) -> None:
    state, client = twin
    theirs = json.loads((opencollective / "examples/errors.json").read_text())
    create = operations(opencollective)["createConversation"]
    wanted = {"account": ACCOUNT, "title": "Camp?", "html": "<p>A camp</p>"}
    body = {"query": create, "variables": wanted}
    async with httpx.AsyncClient(base_url=client.base_url) as stranger:
        answer = await stranger.post("/graphql/v2", json=body)
    (error,) = answer.json()["errors"]
    (expected,) = theirs["graphql_error"]["errors"]
    assert answer.status_code == 200
    assert answer.json()["data"] == theirs["graphql_error"]["data"]
    assert (error["message"], error["path"]) == (expected["message"], expected["path"])
    assert error["extensions"]["code"] == expected["extensions"]["code"]
    wrong = await client.post("/graphql/v2", json=body, headers={"Personal-Token": "wrong"})
    assert wrong.status_code == 401
    state.scopes.discard("conversations")
    (error,) = (await ask(client, create, **wanted))["errors"]
    (expected,) = theirs["scope_missing"]["errors"]
    assert error["message"] == expected["message"]
    assert error["extensions"]["code"] == expected["extensions"]["code"]
    state.wants_second_factor = True
    webhook = {"account": ACCOUNT, "webhookUrl": "https://example.org/hook"}
    hook = operations(opencollective)["createWebhook"]
    (error,) = (await ask(client, hook, webhook=webhook))["errors"]
    assert error["message"] == theirs["two_factor"]["errors"][0]["message"]
    state.rate_limited = 1
    limited = await client.post("/graphql/v2", json=body)
    assert (limited.status_code, limited.json()) == (429, theirs["http_429"])
    assert limited.headers["retry-after"] == "60"


async def test_documents_that_are_none_are_refused(twin: Twin) -> None:
    _, client = twin
    for query, code in (
        ("query {", "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("query($id: String!) { conversation(id: $id) { id } }", "BAD_USER_INPUT"),
    ):
        body = {"query": query, "variables": {"colour": "red"}}
        answer = await client.post("/graphql/v2", json=body)
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["extensions"]["code"] == code


async def test_webhooks_are_the_contracts(opencollective: Path, twin: Twin) -> None:
    state, _ = twin
    expense = state.file_expense("ada", "Server bill", 4200)
    for action in ("APPROVE", "HOLD"):
        state.process("ada", expense, action)
    state.comment("ada", expense, "<p>Paid it myself</p>")
    state.publish("ada", "News", "<p>Hi</p>")
    state.comment("ada", state.converse("ada", "Camp?", "<p>Camp</p>", []), "<p>Yes</p>")
    ours = {}
    for activity in state.activities:
        body = webhook_body(activity)
        ours[body["type"]] = body
    compared = sorted((opencollective / "webhooks").glob("*.json"))
    assert compared
    for path in compared:
        theirs = json.loads(path.read_text())["body"]
        body = ours[theirs["type"]]
        keys_of(body, theirs)
        assert bool(body["data"]) == bool(theirs["data"]), theirs["type"]
        assert set(body) == set(theirs)
    assert {body["CollectiveId"] for body in ours.values()} == {LEGACY_ID}


async def test_only_eight_emoji_and_only_public_webhooks(twin: Twin) -> None:
    state, _ = twin
    conversation = state.converse("ada", "Camp?", "<p>Camp</p>", [])
    for emoji in ("👍", "👍🏽", "🍕"):
        with pytest.raises(CodedError):
            state.react("ada", conversation.body, emoji)
    state.public_webhooks_only = True
    for url in ("http://127.0.0.1:8080/hook", "https://engine.internal/hook", "http://localhost/"):
        with pytest.raises(CodedError):
            state.add_webhook("ACTIVITY_ALL", url)
    state.add_webhook("ACTIVITY_ALL", "https://example.org/hook")


async def test_a_person_can_play_a_vote_by_hand(twin: Twin) -> None:
    state, client = twin
    conversation = state.converse("ada", "Camp?", "<p>Shall we?</p>", [])
    assert "Camp?" in (await client.get("/")).text
    action = f"/sandbox/conversations/{conversation.id}"
    thumb = {"username": "grace", "emoji": EMOJI[0]}
    assert (await client.post(f"{action}/react", data=thumb)).status_code == 303
    assert f"{EMOJI[0]} 1" in (await client.get("/")).text
    taken = await client.post(f"{action}/react", data=thumb | {"remove": "1"})
    assert (taken.status_code, conversation.body.reactions[EMOJI[0]]) == (303, set())
    refused = await client.post(f"{action}/react", data=thumb | {"emoji": "🍕"})
    assert refused.status_code == 422
    said = {"username": "grace", "html": "<p>Yes</p>"}
    assert (await client.post(f"{action}/comment", data=said)).status_code == 303
    filed = {"username": "grace", "description": "Tents", "amount": "9900"}
    assert (await client.post("/sandbox/expenses", data=filed)).status_code == 303
    assert "Tents: $99.00, pending" in (await client.get("/")).text
    news = {"username": "ada", "title": "News", "html": "<p>Hi</p>"}
    assert (await client.post("/sandbox/updates", data=news)).status_code == 303
    assert (await client.post("/sandbox/members", data={"slug": "linus"})).status_code == 303
    assert (await client.post(f"{action}/delete")).status_code == 303
    assert (await client.post(f"{action}/delete")).status_code == 404
    assert (await client.post("/sandbox/clock", data={"advance_seconds": "60"})).status_code == 303
