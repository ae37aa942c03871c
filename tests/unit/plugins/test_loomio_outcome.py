"""What the Loomio plugin reads in polls and webhooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import engine.plugins.loomio
from engine.plugins.loomio.outcome import outcome_of, poll_keys

PAYLOADS = Path(engine.plugins.loomio.__file__).parent / "payloads"


def _poll(**more: Any) -> dict[str, Any]:
    rows = [
        {"id": 1, "name": "Agree", "score": 3, "voter_count": 3, "voter_ids": [5, 2, 3]},
        {"id": 2, "name": "Disagree", "score": 3, "voter_count": 3, "voter_ids": [4]},
        {"id": 0, "name": "none", "score": 9, "voter_count": 9, "voter_ids": []},
        {"id": -1, "name": "undecided", "score": 9, "voter_count": 2, "voter_ids": [6, 7]},
    ]
    counts = {"voters_count": 8, "decided_voters_count": 6, "undecided_voters_count": 2}
    return (
        {"closing_at": "2026-12-01T12:00:00Z", "closed_at": None, "results": rows} | counts | more
    )


def test_rows_that_are_no_options_are_not_counted() -> None:
    outcome = outcome_of(_poll())
    assert list(outcome["votes"]) == ["Agree", "Disagree"]
    assert outcome["votes"]["Agree"] == {"count": 3, "score": 3, "voters": [2, 3, 5]}
    assert outcome["turnout"] == 0.75
    assert "winner" not in outcome


def test_a_tie_has_two_winners_and_nobody_wins_without_votes() -> None:
    closed = _poll(closed_at="2026-12-01T12:03:00Z")
    assert outcome_of(closed)["winner"] == ["Agree", "Disagree"]
    assert outcome_of(closed)["closed_by"] == "deadline"
    for row in closed["results"]:
        row["score"] = 0
    assert outcome_of(closed)["winner"] == []


def test_closed_early_is_closed_by_the_platform() -> None:
    assert outcome_of(_poll(closed_at="2026-11-30T12:00:00Z"))["closed_by"] == "platform"


def test_hidden_results_are_absent() -> None:
    poll = _poll()
    del poll["results"]
    assert "votes" not in outcome_of(poll)


def test_keys_in_webhooks() -> None:
    assert poll_keys((PAYLOADS / "poll_created__today.json").read_text()) == ["k3yBench"]
    assert poll_keys((PAYLOADS / "poll_expired__2021.json").read_text()) == ["k3yBench"]
    assert poll_keys((PAYLOADS / "new_discussion__today.json").read_text()) == []


def test_contract_examples(contracts: Path) -> None:
    shown = json.loads((contracts / "loomio/examples/b2_poll_show_closed.json").read_text())
    outcome = outcome_of(shown["polls"][0])
    assert outcome["winner"]
    assert outcome["voters"] == shown["polls"][0]["decided_voters_count"]
    captured = contracts / "loomio/webhooks/2026_slack_poll_created.json"
    assert poll_keys(captured.read_text()) == ["polKEY01"]
