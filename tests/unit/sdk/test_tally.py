"""The voting core: examples that one can count by hand, and properties that hold for all votes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sdk import tally
from engine.sdk.tally import (
    Ballot,
    OptionVotes,
    VotingRules,
    count,
    decided,
    instant_runoff,
    outcome,
    quorum_met,
    valid_ballots,
    winners,
)
from tests.conftest import REPOSITORY

OPTIONS = ("a", "b", "c", "d")
VOTERS = [f"v{n}" for n in range(9)]

plain = st.builds(Ballot, st.sampled_from(VOTERS), st.tuples(st.sampled_from(OPTIONS)))
ranked = st.builds(
    Ballot,
    st.sampled_from(VOTERS),
    st.permutations(OPTIONS).flatmap(lambda p: st.integers(0, 4).map(lambda n: tuple(p[:n]))),
)
anything = st.builds(
    Ballot,
    st.sampled_from([*VOTERS, "stranger"]),
    st.lists(st.sampled_from([*OPTIONS, "none of them"]), max_size=5).map(tuple),
)


def ballots(*cast: str) -> list[Ballot]:
    """``ada:a`` is Ada's vote for a, ``bob:ab`` is Bob's for a, then b."""
    return [Ballot(who, tuple(what)) for who, _, what in (one.partition(":") for one in cast)]


def counts(cast: Sequence[Ballot], rules: VotingRules) -> dict[str, int]:
    return {option: votes.count for option, votes in count(cast, rules).items()}


def test_one_vote_for_each_voter() -> None:
    cast = ballots("ada:a", "bob:b", "ada:b", "cyd:a", "cyd:")
    assert counts(cast, VotingRules(OPTIONS)) == {"a": 0, "b": 2, "c": 0, "d": 0}
    first = VotingRules(OPTIONS, may_change=False)
    assert counts(cast, first) == {"a": 2, "b": 1, "c": 0, "d": 0}


def test_who_may_not_vote_and_what_is_no_ballot_does_not_count() -> None:
    rules = VotingRules(("a", "b"), eligible=frozenset({"ada", "bob"}), most_choices=1)
    cast = ballots("ada:a", "eve:b", "bob:ab", "bob:x", "ada:aa")
    assert valid_ballots(cast, rules) == ballots("ada:a")


@pytest.mark.parametrize(("tie", "expected"), [("all", ["a", "b"]), ("none", [])])
def test_tie(tie: str, expected: list[str]) -> None:
    votes = {"a": OptionVotes(2), "b": OptionVotes(2), "c": OptionVotes(1)}
    assert winners(votes, tie) == expected  # type: ignore[arg-type]
    assert winners({"a": OptionVotes(0)}) == []
    assert winners({"a": OptionVotes(1, score=2), "b": OptionVotes(3, score=1)}) == ["a"]


def test_quorum() -> None:
    ten = frozenset(str(n) for n in range(10))
    assert quorum_met(0, VotingRules(OPTIONS)) is None
    assert quorum_met(2, VotingRules(OPTIONS, quorum_votes=3)) is False
    # A share of 0.3 of ten is three, though 0.1 * 3 is more than 0.3.
    rules = VotingRules(OPTIONS, eligible=ten, quorum_share=0.3)
    assert [quorum_met(n, rules) for n in (2, 3)] == [False, True]
    assert quorum_met(5, VotingRules(OPTIONS, quorum_share=0.5)) is False


def test_decided_before_the_time_is_up() -> None:
    votes = {"a": OptionVotes(3), "b": OptionVotes(1)}
    assert not decided(votes, 4, VotingRules(OPTIONS))
    assert decided(votes, 4, VotingRules(OPTIONS, threshold_votes=3))
    assert not decided(votes, 4, VotingRules(OPTIONS, threshold_votes=4))
    assert not decided(votes, 4, VotingRules(OPTIONS, threshold_votes=3, quorum_votes=5))
    tied = {"a": OptionVotes(3), "b": OptionVotes(3)}
    assert not decided(tied, 6, VotingRules(OPTIONS, threshold_votes=3))
    six = frozenset("uvwxyz")
    share = VotingRules(OPTIONS, eligible=six, threshold_share=0.5)
    assert decided(votes, 4, share)
    assert not decided({"a": OptionVotes(2), "b": OptionVotes(1)}, 3, share)


def test_instant_runoff() -> None:
    rules = VotingRules(("a", "b", "c"), most_choices=None)
    cast = ballots("v1:ac", "v2:ac", "v3:bca", "v4:bca", "v5:cba")
    runoff = instant_runoff(cast, rules)
    assert runoff.winner == ("b",)
    assert [dict(r.counts) for r in runoff.rounds] == [{"a": 2, "b": 2, "c": 1}, {"a": 2, "b": 3}]
    assert [r.eliminated for r in runoff.rounds] == [("c",), ()]
    assert instant_runoff([], rules).winner == ()
    assert instant_runoff(ballots("v1:a", "v2:b"), rules).winner == ("a", "b")


def test_outcome_has_one_shape() -> None:
    votes = {"a": OptionVotes(2, ("ada", "bob")), "b": OptionVotes(1, None, 4.0)}
    assert outcome(votes, voters=3) == {
        "votes": {"a": {"count": 2, "voters": ["ada", "bob"]}, "b": {"count": 1, "score": 4.0}},
        "voters": 3,
    }
    closed = outcome(votes, voters=3, eligible=9, quorum=False, winner=["a"], closed_by="deadline")
    assert closed["turnout"] == 0.3333
    assert (closed["eligible"], closed["quorum_met"]) == (9, False)
    assert (closed["winner"], closed["closed_by"]) == (["a"], "deadline")
    assert outcome({}, voters=0, eligible=0)["turnout"] == 0.0


@given(st.lists(anything), st.sampled_from([1, 2, None]), st.booleans())
def test_no_voter_counts_twice(cast: list[Ballot], most: int | None, may_change: bool) -> None:
    rules = VotingRules(OPTIONS, frozenset(VOTERS), most, may_change)
    for votes in count(cast, rules).values():
        assert votes.voters is not None
        assert len(set(votes.voters)) == votes.count
        assert set(votes.voters) <= set(VOTERS)
    voters = {ballot.voter for ballot in valid_ballots(cast, rules)}
    assert sum(counts(cast, rules).values()) <= len(voters) * (most or len(OPTIONS))


@given(st.lists(plain, unique_by=lambda b: b.voter), st.randoms())
def test_the_order_of_voters_plays_no_part(cast: list[Ballot], random: object) -> None:
    rules = VotingRules(OPTIONS)
    shuffled = list(cast)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert count(shuffled, rules) == count(cast, rules)


@given(st.lists(plain, unique_by=lambda b: b.voter, min_size=1))
def test_one_more_vote_for_a_winner_lets_it_win_alone(cast: list[Ballot]) -> None:
    rules = VotingRules(OPTIONS)
    winner = winners(count(cast, rules))[0]
    assert winners(count([*cast, Ballot("late", (winner,))], rules)) == [winner]


@given(st.lists(ranked, unique_by=lambda b: b.voter))
def test_an_instant_runoff_ends_and_keeps_its_count(cast: list[Ballot]) -> None:
    rules = VotingRules(OPTIONS, most_choices=None)
    runoff = instant_runoff(cast, rules)
    voting = len(valid_ballots(cast, rules))
    left = set(OPTIONS)
    assert 1 <= len(runoff.rounds) <= len(OPTIONS)
    for stage in runoff.rounds:
        assert set(stage.counts) == left
        assert sum(stage.counts.values()) <= voting
        left -= set(stage.eliminated)
    assert set(runoff.winner) <= left
    assert bool(runoff.winner) == bool(voting)


@given(st.lists(ranked, unique_by=lambda b: b.voter, min_size=1), st.sampled_from(OPTIONS))
def test_who_has_a_majority_of_first_preferences_wins(cast: list[Ballot], option: str) -> None:
    rules = VotingRules(OPTIONS, most_choices=None)
    firm = [Ballot(f"firm{n}", (option,)) for n in range(len(cast) + 1)]
    assert instant_runoff([*cast, *firm], rules).winner == (option,)


@pytest.mark.parametrize(
    ("emoji", "bare"),
    [
        ("👍\ufe0f", "👍"),
        ("👍🏽", "👍"),
        ("👎🏿", "👎"),
        ("❤\ufe0f", "❤"),
        ("yes", "yes"),
        ("", ""),
    ],
)
def test_variation_selectors_and_skin_tones_are_left_out(emoji: str, bare: str) -> None:
    assert tally.bare_emoji(emoji) == bare
    assert tally.bare_emoji(bare) == bare


def test_the_tutorials_example() -> None:
    """What the plugin tutorial prints, run as it is printed."""
    tutorial = (REPOSITORY / "docs/plugin-tutorial.md").read_text()
    code = tutorial.partition("```python\nrules = ")[2].partition("```")[0]
    cast = [Ballot(f"v{n}", ("👍",)) for n in range(5)]
    vote: Any = SimpleNamespace(outcome=None)
    exec(f"rules = {code}", {"tally": tally, "ballots": cast, "self": vote})
    assert vote.outcome["winner"] == ["👍"]
    assert (vote.outcome["quorum_met"], vote.outcome["closed_by"]) == (True, "decided")
