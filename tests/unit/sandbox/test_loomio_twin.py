"""The Loomio twin answers as the platform's contract says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from sandbox.loomio import API_KEY, EVENT_KINDS, GROUP, POLL_FIELDS, LoomioTwin
from tests.servers import driver_server, eventually, serve


@pytest.fixture
def loomio(contracts: Path) -> Path:
    return contracts / "loomio"


@pytest.fixture
async def twin() -> AsyncIterator[tuple[LoomioTwin, httpx.AsyncClient]]:
    twin = LoomioTwin()
    async with serve(twin.app) as url:
        twin.base_url = url
        headers = {"Authorization": f"Bearer {API_KEY}"}
        async with httpx.AsyncClient(base_url=f"{url}/api/b2", headers=headers) as client:
            yield twin, client


def example(loomio: Path, name: str) -> Any:
    return json.loads((loomio / "examples" / name).read_text())


def request_of(loomio: Path) -> dict[str, Any]:
    body = example(loomio, "b2_poll_create.request.json")
    del body["_note"]
    body["poll"]["closing_at"] = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    return body


def same_shape(ours: Any, theirs: Any, path: str = "") -> None:
    """Every key of ours is one of theirs, of the same type where both have a value."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        variable = path.endswith("voter_scores")
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


async def test_poll_create_and_show(
    loomio: Path, twin: tuple[LoomioTwin, httpx.AsyncClient]
) -> None:
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


async def test_closed_and_hidden_polls(
    loomio: Path, twin: tuple[LoomioTwin, httpx.AsyncClient]
) -> None:
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


async def test_flat_body_makes_an_orphan(
    loomio: Path, twin: tuple[LoomioTwin, httpx.AsyncClient]
) -> None:
    _, client = twin
    theirs = example(loomio, "b2_poll_create_orphan.json")
    flat = await client.post("polls", json=request_of(loomio)["poll"])
    assert flat.status_code == 200
    poll = flat.json()["polls"][0]
    same_shape(poll, theirs["polls"][0])
    assert poll["group_id"] is theirs["polls"][0]["group_id"] is None
    assert poll["poll_option_names"] == theirs["polls"][0]["poll_option_names"] == []


async def test_errors(loomio: Path, twin: tuple[LoomioTwin, httpx.AsyncClient]) -> None:
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


async def test_memberships(loomio: Path, twin: tuple[LoomioTwin, httpx.AsyncClient]) -> None:
    _, client = twin
    theirs = example(loomio, "b2_memberships.json")
    ours = (await client.get("memberships", params={"group_id": GROUP})).json()
    same_shape(ours, theirs)
    page = await client.get("memberships", params={"group_id": GROUP, "limit": 1, "offset": 1})
    assert len(page.json()["memberships"]) == 1
    assert page.json()["meta"]["total"] == 4
    stranger = (await client.get("memberships", params={"group_id": 99})).json()
    assert stranger["memberships"] == []


async def test_webhooks_hold_text_only_and_once_held_more(
    loomio: Path, twin: tuple[LoomioTwin, httpx.AsyncClient]
) -> None:
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
        assert receiver.to("hook")[1].keys() <= old["body"].keys()


def test_fields_are_the_contracts(loomio: Path) -> None:
    document = json.loads((loomio / "openapi.b2.governance.json").read_text())
    schemas = document["components"]["schemas"]
    assert set(schemas["PollInput"]["properties"]) <= POLL_FIELDS
    jsonschema.Draft202012Validator.check_schema(schemas["PollInput"])


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
    ):
        jsonschema.validate(_poll_fields(Parameters(given, POLL), 7), schema)
