"""The voting core: ballots, tally, quorum, threshold, ties, and the outcome that drivers read.

Pure functions. A plugin whose platform counts gives what it counted to ``outcome``; one that counts
by itself, such as reactions to a message, goes from ballots through ``count`` or
``instant_runoff``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

_LOOKS = frozenset(map(chr, (0xFE0E, 0xFE0F, *range(0x1F3FB, 0x1F400))))

ClosedBy = Literal["platform", "driver", "deadline", "decided"]
TieRule = Literal["all", "none"]


@dataclass(frozen=True)
class Ballot:
    """One vote, as it was cast.

    Attributes:
        voter: Who cast it.
        choices: The options chosen; in a ranked vote in the voter's order, the best one first.
    """

    voter: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class VotingRules:
    """What a vote goes by.

    Attributes:
        options: What can be chosen.
        eligible: Who may vote; None: everybody.
        most_choices: How many options a ballot may name; None: all of them.
        may_change: Whether a voter's last ballot counts; else it is the first.
        quorum_votes: How many have to vote.
        quorum_share: What share of those who may vote have to, 0 to 1.
        threshold_votes: How many votes decide for an option before the vote's time is up.
        threshold_share: What share of those who may vote decides so, 0 to 1.
        tie: Whether all options with the most votes win, or none if they are several.
    """

    options: tuple[str, ...]
    eligible: frozenset[str] | None = None
    most_choices: int | None = 1
    may_change: bool = True
    quorum_votes: int = 0
    quorum_share: float = 0.0
    threshold_votes: int | None = None
    threshold_share: float | None = None
    tie: TieRule = "all"


@dataclass(frozen=True)
class OptionVotes:
    """What an option got.

    Attributes:
        count: How many voted for it.
        voters: Who did, if that may be shown.
        score: Its points, where votes weigh differently; None: its count.
    """

    count: int
    voters: tuple[str | int, ...] | None = None
    score: float | None = None

    @property
    def weight(self) -> float:
        """What the winner is found by."""
        return self.count if self.score is None else self.score


@dataclass(frozen=True)
class Round:
    """One round of an instant runoff.

    Attributes:
        counts: Ballots of each option that is still in the race.
        eliminated: The options that leave it.
    """

    counts: Mapping[str, int]
    eliminated: tuple[str, ...]


@dataclass(frozen=True)
class Runoff:
    """An instant runoff.

    Attributes:
        rounds: What happened in each round.
        winner: The option that won, or those that tied for the last place in the race.
    """

    rounds: tuple[Round, ...]
    winner: tuple[str, ...]


def bare_emoji(emoji: str) -> str:
    """Take what only changes an emoji's looks away, so that votes by reaction count as the same.

    Args:
        emoji: As a platform has it.

    Returns:
        It without variation selectors (U+FE0E, U+FE0F) and skin tones (U+1F3FB to U+1F3FF; both
        Unicode Technical Standard 51).
    """
    return "".join(c for c in emoji if c not in _LOOKS)


def valid_ballots(ballots: Iterable[Ballot], rules: VotingRules) -> list[Ballot]:
    """Find the ballots that count.

    Args:
        ballots: All that were cast, in their order.
        rules: The vote's rules.

    Returns:
        One ballot for each voter who may vote: the last one (the first, if votes may not be
        changed) that names options of the vote only, none twice, and not too many. A ballot without
        choices takes a vote back.
    """
    counted: dict[str, Ballot] = {}
    options = set(rules.options)
    most = len(options) if rules.most_choices is None else rules.most_choices
    for ballot in ballots:
        if rules.eligible is not None and ballot.voter not in rules.eligible:
            continue
        chosen = set(ballot.choices)
        if not chosen <= options or len(chosen) != len(ballot.choices) or len(chosen) > most:
            continue
        if rules.may_change or ballot.voter not in counted:
            counted[ballot.voter] = ballot
    return [ballot for ballot in counted.values() if ballot.choices]


def count(ballots: Iterable[Ballot], rules: VotingRules) -> dict[str, OptionVotes]:
    """Count the votes of each option (plurality; approval voting if ballots name several).

    Args:
        ballots: All that were cast, in their order.
        rules: The vote's rules.

    Returns:
        What each option got, in the options' order.
    """
    voters: dict[str, list[str]] = {option: [] for option in rules.options}
    for ballot in valid_ballots(ballots, rules):
        for option in ballot.choices:
            voters[option].append(ballot.voter)
    return {
        option: OptionVotes(len(names), tuple(sorted(names))) for option, names in voters.items()
    }


def winners(votes: Mapping[str, OptionVotes], tie: TieRule = "all") -> list[str]:
    """Find the options with the most votes.

    Args:
        votes: What each option got.
        tie: What happens if they are several.

    Returns:
        The winners in the options' order; none if nobody voted.
    """
    best = max((option.weight for option in votes.values()), default=0)
    found = [name for name, option in votes.items() if best > 0 and option.weight == best]
    return [] if tie == "none" and len(found) > 1 else found


def quorum_met(voters: int, rules: VotingRules) -> bool | None:
    """Look whether enough have voted.

    Args:
        voters: How many have.
        rules: The vote's rules.

    Returns:
        Whether they are enough; None if the rules ask for no quorum.
    """
    if not rules.quorum_votes and not rules.quorum_share:
        return None
    return voters >= rules.quorum_votes and _reaches(voters, rules.quorum_share, rules)


def decided(votes: Mapping[str, OptionVotes], voters: int, rules: VotingRules) -> bool:
    """Look whether a vote may be closed before its time is up.

    Args:
        votes: What each option got.
        voters: How many have voted.
        rules: The vote's rules.

    Returns:
        True if one option alone leads, has reached every threshold that the rules name, and the
        quorum is met.
    """
    if rules.threshold_votes is None and rules.threshold_share is None:
        return False
    leading = winners(votes)
    if len(leading) != 1 or quorum_met(voters, rules) is False:
        return False
    most = votes[leading[0]].count
    enough = rules.threshold_votes is None or most >= rules.threshold_votes
    return enough and _reaches(most, rules.threshold_share or 0, rules)


def instant_runoff(ballots: Iterable[Ballot], rules: VotingRules) -> Runoff:
    """Count ranked ballots: the options with the fewest ballots leave until one has most of them.

    All options that are last together leave together, as Discourse counts; a ballot whose options
    have all left is exhausted and counts for no majority.

    Args:
        ballots: All that were cast, in their order.
        rules: The vote's rules.

    Returns:
        The rounds and the winner; several if the options that are left tie, none if nobody voted.
    """
    counted = valid_ballots(ballots, rules)
    racing: list[str] = list(rules.options)
    rounds: list[Round] = []
    while racing:
        counts = dict.fromkeys(racing, 0)
        for ballot in counted:
            preferred = next((option for option in ballot.choices if option in counts), None)
            if preferred is not None:
                counts[preferred] += 1
        cast = sum(counts.values())
        leading = [option for option in racing if counts[option] * 2 > cast]
        least = min(counts.values())
        last = [option for option in racing if counts[option] == least]
        if leading or len(last) == len(racing):
            rounds.append(Round(counts, ()))
            return Runoff(tuple(rounds), tuple(leading or (last if cast else ())))
        rounds.append(Round(counts, tuple(last)))
        racing = [option for option in racing if option not in last]
    return Runoff((), ())


def outcome(
    votes: Mapping[str, OptionVotes],
    *,
    voters: int,
    eligible: int | None = None,
    quorum: bool | None = None,
    winner: Sequence[str] | None = None,
    closed_by: ClosedBy | None = None,
) -> dict[str, Any]:
    """Make the outcome that drivers read, the same for every platform.

    Args:
        votes: What each option got.
        voters: How many have voted.
        eligible: How many may vote, if that is known.
        quorum: Whether the quorum is met; None: there is none.
        winner: Who has won; None: not known yet, or never.
        closed_by: What closed the vote; None: it is open.

    Returns:
        Plain JSON data: ``votes``, ``voters``, and what is known of ``eligible``, ``turnout``,
        ``quorum_met``, ``winner`` and ``closed_by``.
    """
    found: dict[str, Any] = {
        "votes": {name: _option_outcome(option) for name, option in votes.items()},
        "voters": voters,
    }
    if eligible is not None:
        found["eligible"] = eligible
        found["turnout"] = round(voters / eligible, 4) if eligible else 0.0
    if quorum is not None:
        found["quorum_met"] = quorum
    if winner is not None:
        found["winner"] = list(winner)
    if closed_by is not None:
        found["closed_by"] = closed_by
    return found


def _option_outcome(option: OptionVotes) -> dict[str, Any]:
    shown: dict[str, Any] = {"count": option.count}
    if option.score is not None:
        shown["score"] = option.score
    if option.voters is not None:
        shown["voters"] = list(option.voters)
    return shown


def _reaches(voters: int, share: float, rules: VotingRules) -> bool:
    """Whether so many are a share of those who may vote; it is exact, as a share of 0.1 is not."""
    if not share:
        return True
    return rules.eligible is not None and voters >= Fraction(str(share)) * len(rules.eligible)
