"""What the Open Collective plugin asks, and how it counts and remembers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from graphql import GraphQLEnumType, GraphQLSchema, build_schema, parse, validate
from hypothesis import given
from hypothesis import strategies as st

from engine.plugins import closing
from engine.plugins.opencollective import queries, schemas
from engine.plugins.opencollective.activities import EVENTS, OVERLAP, cursor_after
from engine.plugins.opencollective.vote import votes_of
from engine.sdk import parameters
from sandbox.opencollective.models import EMOJI
from sandbox.opencollective.schema import SCHEMA

QUERIES = {name: text for name, text in vars(queries).items() if name.isupper() and name[0] != "_"}


@pytest.fixture(scope="module")
def platform(contracts: Path) -> GraphQLSchema:
    text = (contracts / "opencollective/schemaV2.graphql").read_text()
    return build_schema(text, assume_valid=True)


def test_every_query_is_one_of_the_platforms(platform: GraphQLSchema) -> None:
    assert len(QUERIES) > 10
    for name, query in QUERIES.items():
        for schema in (platform, SCHEMA):
            assert [error.message for error in validate(schema, parse(query))] == [], name


def test_every_choice_is_one_of_the_platforms(contracts: Path, platform: GraphQLSchema) -> None:
    for name, choices in (
        ("ExpenseProcessAction", schemas.EXPENSE_ACTIONS),
        ("MemberRole", schemas.ROLES),
    ):
        enum = platform.type_map[name]
        assert isinstance(enum, GraphQLEnumType)
        assert set(choices) <= set(enum.values)
    assert tuple(schemas.EMOJI) == EMOJI
    known = json.loads((contracts / "opencollective/activity_types.json").read_text())["map"]
    assert set(EVENTS) <= set(known)


def test_variation_selectors_and_skin_tones_do_not_matter() -> None:
    votes = votes_of({"👍": 1, "👍\ufe0f": 2, "👍🏽": 4, "👎🏿": 3, "🎉": 9})
    assert {option: vote.count for option, vote in votes.items()} == {"yes": 7, "no": 3}


@given(st.lists(st.integers(0, 3600), max_size=20))
def test_what_was_seen_is_not_sent_again(seconds: list[int]) -> None:
    items = [
        {
            "id": str(n),
            "createdAt": f"2026-11-23T{10 + s // 3600}:{s // 60 % 60:02}:{s % 60:02}.000Z",
        }
        for n, s in enumerate(seconds)
    ]
    cursor = cursor_after({}, items)
    if not items:
        assert cursor == {"at": None, "ids": {}}
        return
    newest = max(closing.moment(item["createdAt"]) for item in items)
    assert closing.moment(cursor["at"]) == newest
    for item in items:
        asked_for_again = closing.moment(item["createdAt"]) >= newest - OVERLAP
        assert (item["id"] in cursor["ids"]) == asked_for_again


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"title": "no"},
        {"title": "Camp?", "conversation_id": "c1"},
        {"title": "Camp?", "closing_at": "soon"},
        {"title": "Camp?", "closing_comment": "${unknown}"},
        {"title": "Camp?", "closing_comment": "costs $5"},
        {"title": "Camp?", "threshold_votes": 0},
    ],
)
def test_what_would_be_no_vote_is_refused(body: dict[str, object]) -> None:
    assert parameters.validate(parameters.fill_defaults(body, schemas.VOTE), schemas.VOTE)


def test_a_webhook_wants_an_address_that_nobody_guesses() -> None:
    config = {"access_token": "t", "collective_slug": "webpack"}
    assert parameters.validate(parameters.fill_defaults(config, schemas.CONFIG), schemas.CONFIG)
    for more in ({"webhook_slug": "f5c3ff8f"}, {"register_webhook": False}):
        whole = parameters.fill_defaults(config | more, schemas.CONFIG)
        assert not parameters.validate(whole, schemas.CONFIG)
