"""What the Discourse plugin writes and reads, and the signatures that it takes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.plugins import Parameters, WebhookRequest
from engine.plugins.discourse.plugin import Discourse
from engine.plugins.discourse.poll import is_closed, markup, names_of, option_id, outcome_of
from engine.plugins.discourse.schemas import OUTCOME, POLL
from engine.sdk.parameters import fill_defaults, validate
from sandbox.discourse.polls import parse

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


def given(**parameters: object) -> Parameters:
    values = fill_defaults({"title": "Adopt it?", **parameters}, POLL)
    assert not validate(values, POLL)
    return Parameters(values, POLL)


def test_markup_is_what_the_forum_reads() -> None:
    parameters = given(options=["Yes", "No"], groups=["core", "staff"], results="on_vote")
    raw = markup(parameters, NOW)
    assert raw == (
        "[poll name=poll type=regular results=on_vote public=true chartType=bar groups=core,staff "
        "close=2026-12-01T12:00:00.000Z]\n# Adopt it?\n* Yes\n* No\n[/poll]"
    )
    poll = parse(raw, 1)
    assert poll is not None
    assert not isinstance(poll, str)
    assert (poll.close, poll.title, poll.public) == (NOW, "Adopt it?", True)


@pytest.mark.parametrize(
    "body",
    [
        {"options": ["a\n* b", "c"]},
        {"options": ["[/poll]", "c"]},
        {"options": ["only one"]},
        {},
        {"poll_type": "number", "options": ["1", "2"], "min": 1, "max": 2},
        {"poll_type": "number"},
        {"options": ["a", "b"], "category": 1, "topic_id": 2},
        {"options": ["a", "b"], "groups": ["a]b"]},
    ],
)
def test_what_would_be_no_poll_is_refused(body: dict[str, object]) -> None:
    assert validate(fill_defaults({"title": "x", **body}, POLL), POLL)


def test_option_ids_are_the_platforms(contracts: Path) -> None:
    vector = json.loads((contracts / "signature-vectors.json").read_text())
    published = vector["discourse_poll_option_digest"]
    assert option_id(published["text"]) == published["digest"]
    assert option_id(published["text2"]) == published["digest2"]


def test_an_option_that_was_read_as_markup_is_known_by_its_place() -> None:
    poll = {"options": [{"id": "other", "html": "<b>a</b>"}, {"id": option_id("b"), "html": "b"}]}
    assert names_of(poll, ["**a**", "b"]) == {"other": "**a**", option_id("b"): "b"}


def test_captured_polls_are_read(contracts: Path) -> None:
    path = contracts / "discourse/polls/post_with_poll.response.json"
    poll = json.loads(path.read_text())["polls"][0]
    names = {option["id"]: option["html"] for option in poll["options"]}
    outcome = outcome_of(poll, names, {}, None)
    assert outcome == {"votes": {"Yes": {"count": 1}, "No": {"count": 0}}, "voters": 1}
    assert not validate(outcome, OUTCOME)
    assert not is_closed(poll, datetime(2026, 11, 30, tzinfo=UTC))
    assert is_closed(poll, NOW)
    ranked = json.loads((contracts / "discourse/polls/ranked_choice_poll.json").read_text())["poll"]
    outcome = outcome_of(ranked, names, {}, "platform")
    assert outcome["winner"] == ["Yes"]
    assert outcome["rounds"] == [{"majority": "Yes", "eliminated": []}]


def test_signatures_of_the_contract_verify(contracts: Path) -> None:
    vector = json.loads((contracts / "signature-vectors.json").read_text())["discourse"]
    scheme = Discourse.webhook_signature
    assert scheme is not None
    headers = {vector["header"]: vector["value"]}
    config = {"webhook_secret": vector["secret"]}
    right = WebhookRequest(body=vector["body"].encode(), headers=headers)
    assert scheme.verify(right, config, NOW)
    wrong = WebhookRequest(body=b"{}", headers=headers)
    assert not scheme.verify(wrong, config, NOW)
    assert not scheme.verify(right, {}, NOW)
    for path in sorted((contracts / "discourse/webhooks").glob("*_*.json")):
        delivery = json.loads(path.read_text())
        if "raw_body" in delivery:
            sent = {name: str(value) for name, value in delivery["headers"].items()}
            request = WebhookRequest(body=delivery["raw_body"].encode(), headers=sent)
            assert scheme.verify(request, config, NOW), path.name
