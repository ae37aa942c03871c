"""Polls as Loomio 3.8 has them: kinds, rules for what it refuses, and how it shows them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

COMMON_OPTIONS = {
    "proposal": {
        "agree", "abstain", "disagree", "block", "veto", "consent", "objection", "object",
        "looks_good", "accept", "decline",
    },
    "count": {"accept", "decline"},
    "check": {"looks_good", "not_sure", "concerned"},
}  # fmt: skip
POLL_TYPES = {
    "proposal", "poll", "count", "score", "ranked_choice", "meeting", "dot_vote", "check",
    "question", "stv",
}  # fmt: skip
# Any other kind is taken without options too: nobody can vote in it then.
LEAST_OPTIONS = {"ranked_choice": 2, "stv": 2}
NEVER_ANONYMOUS = {"count", "question", "meeting"}
CHOOSE_ONE = {"proposal", "count", "check"}
BY_PRIORITY = {"proposal", "meeting", "count", "check"}
LARGEST_SCORE = {"meeting": 2, "score": 5}
CHARTS = {"proposal": "pie", "poll": "bar", "meeting": "grid"}
POLL_FIELDS = {
    "group_id", "topic_id", "title", "poll_type", "details", "details_format", "options",
    "closing_at", "opening_at", "specified_voters_only", "hide_results", "shuffle_options",
    "anonymous", "notify_on_closing_soon", "notify_on_open", "recipient_audience",
    "recipient_user_ids", "recipient_emails", "recipient_message", "recipient_chatbot_ids",
    "notify_recipients", "stance_reason_required", "quorum_pct", "agree_target",
    "dots_per_person", "min_score", "max_score", "minimum_stance_choices",
    "maximum_stance_choices", "tags",
}  # fmt: skip
# What a poll shows of its fields as they were given, and what it shows if they were not.
_SHOWN = {
    "details_format": "md", "opening_at": None, "notify_on_closing_soon": "nobody",
    "notify_on_open": True, "stance_reason_required": "optional", "quorum_pct": None,
    "agree_target": None, "dots_per_person": 1, "min_score": 1, "minimum_stance_choices": 1,
    "maximum_stance_choices": 1, "shuffle_options": False, "details": None,
    "hide_results": "off", "specified_voters_only": False, "anonymous": False,
}  # fmt: skip
_ALWAYS: dict[str, Any] = {
    "voting_system": "stance", "versions_count": 1, "chart_column": "score_percent",
    "limit_reason_length": True, "show_none_of_the_above": False, "can_respond_maybe": False,
    "reason_prompt": None, "content_locale": None, "mentioned_usernames": [], "attachments": [],
    "link_previews": [], "current_outcome_id": None, "stv_seats": None, "stv_method": None,
    "stv_quota": None, "poll_template_id": None, "poll_template_key": None,
    "meeting_duration": None,
    "result_columns": ["chart", "name", "votes", "votes_cast_percent", "voter_percent", "voters"],
}  # fmt: skip
_UNDECIDED = "poll_common_votes_panel.undecided"


class Member(NamedTuple):
    """A member of the group."""

    id: int
    name: str
    username: str
    bot: bool


@dataclass(frozen=True)
class Option:
    """An option: as it was given, and as the platform labels it."""

    id: int
    given: str
    label: str


@dataclass
class Stance:
    """A member's vote: score by option id, with its reason."""

    id: int
    scores: dict[int, int]
    reason: str
    cast_at: datetime


@dataclass
class Poll:
    """A poll with its members' votes."""

    id: int
    key: str
    fields: dict[str, Any]
    group_id: int | None
    topic_id: int
    options: list[Option]
    closing_at: datetime | None
    created_at: datetime
    author_id: int
    invited: list[int] = field(default_factory=list)
    closed_at: datetime | None = None
    discarded_at: datetime | None = None
    votes: dict[int, Stance] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Its poll type."""
        return str(self.fields.get("poll_type", "proposal"))

    @property
    def anonymous(self) -> bool:
        """Whether nobody learns who voted what."""
        return bool(self.fields.get("anonymous"))

    @property
    def hidden(self) -> bool:
        """Whether its results are kept back now."""
        until_closed = self.fields.get("hide_results") == "until_closed" or self.anonymous
        return until_closed and self.closed_at is None

    def may_vote(self, member: Member) -> bool:
        """Whether a member is one of its voters."""
        invited = member.id in self.invited or not self.fields.get("specified_voters_only")
        return invited and not member.bot

    def choose(self, choices: dict[str, int]) -> dict[int, int]:
        """Find the options that a vote names, and check its scores.

        Args:
            choices: Score by option, as it was given or as it is labelled.

        Returns:
            Score by option id.

        Raises:
            KeyError: There is no such option.
            ValueError: The poll's kind does not allow these choices.
        """
        by_name = {name.lower(): o.id for o in self.options for name in (o.given, o.label)}
        scores = {by_name[name.lower()]: score for name, score in choices.items()}
        if not scores or (self.kind in CHOOSE_ONE and len(scores) > 1):
            raise ValueError(f"a {self.kind} wants one option, not {len(scores)}")
        if self.kind in LARGEST_SCORE:
            largest = int(self.fields.get("max_score", LARGEST_SCORE[self.kind]))
            if any(not 0 <= score <= largest for score in scores.values()):
                raise ValueError(f"scores go from 0 to {largest}")
        return scores


def refusals(fields: dict[str, Any], now: datetime) -> dict[str, list[str]]:
    """Check a poll that is to be created, or what it would be after a change.

    Args:
        fields: The poll's fields.
        now: The present time.

    Returns:
        By field what is wrong with it; empty if the platform takes the poll.
    """
    kind = fields.get("poll_type")
    wrong: dict[str, list[str]] = {}
    if not fields.get("title"):
        wrong["title"] = ["can't be blank"]
    if kind not in POLL_TYPES:
        wrong["poll_type"] = ["is not included in the list"]
    least = LEAST_OPTIONS.get(str(kind), 0)
    if len(fields.get("options") or []) < least:
        wrong["poll_options"] = [f"must have at least {least} options"]
    closing_at = moment(fields.get("closing_at"))
    if closing_at is not None and on_the_hour(closing_at) <= now:
        wrong["closing_at"] = ["must be in the future"]
    if fields.get("anonymous") and kind in NEVER_ANONYMOUS:
        wrong["anonymous"] = ["is not allowed for this poll type"]
    if fields.get("anonymous") and closing_at is None:
        wrong["closing_at"] = ["can't be blank"]
    return wrong


def label(name: str, kind: str) -> str:
    """How the platform labels an option of a poll type in English."""
    known = COMMON_OPTIONS.get(kind, set())
    return name.replace("_", " ").capitalize() if name in known else name


def show_poll(poll: Poll, voters: Collection[int]) -> dict[str, Any]:
    """Show a poll.

    Args:
        poll: The poll.
        voters: The ids of those who may vote.

    Returns:
        The row of ``polls``; it has no results while they are hidden, nor once it is discarded.
    """
    cast, gone = len(poll.votes), poll.discarded_at is not None
    largest = LARGEST_SCORE.get(poll.kind, 1)
    answer = {
        **{name: poll.fields.get(name, default) for name, default in _SHOWN.items()},
        **_ALWAYS,
        "id": poll.id,
        "key": poll.key,
        "poll_type": poll.kind,
        "title": None if gone else poll.fields.get("title"),
        "group_id": poll.group_id,
        "topic_id": poll.topic_id,
        "author_id": poll.author_id,
        "closing_at": as_text(poll.closing_at),
        "closed_at": as_text(poll.closed_at),
        "opened_at": as_text(poll.created_at) if poll.closing_at else None,
        "created_at": as_text(poll.created_at),
        "cast_stances_pct": round(100 * cast / len(voters)) if voters else 0,
        "decided_voters_count": cast,
        "undecided_voters_count": len(voters) - cast,
        "voters_count": len(voters),
        "poll_option_names": [option.label for option in poll.options],
        "poll_option_name_format": "iso8601" if poll.kind == "meeting" else "plain",
        "poll_option_ids": [option.id for option in poll.options],
        "max_score": poll.fields.get("max_score", largest),
        "chart_type": CHARTS.get(poll.kind, "bar"),
        "discarded_at": as_text(poll.discarded_at),
        "discarded_by": poll.author_id if gone else None,
        **_quorum(poll, len(voters)),
    }
    if poll.anonymous:
        answer["hide_results"] = "until_closed"
    if poll.hidden or gone or poll.group_id is None:
        return answer
    results = _results(poll, voters)
    scores = [row["score"] for row in results if row["id"] > 0]
    return answer | {"results": results, "stance_counts": scores, "total_score": sum(scores)}


def show_options(poll: Poll) -> list[dict[str, Any]]:
    """Show a poll's options, the rows of ``poll_options``."""
    nothing = ("meaning", "prompt", "test_operator", "test_percent", "test_against")
    return [
        {
            "id": option.id,
            "poll_id": poll.id,
            "name": option.label,
            "priority": place,
            "color": "#70C9F8",
            "icon": _icon(option),
            **dict.fromkeys(nothing),
        }
        for place, option in enumerate(poll.options)
    ]


def show_stances(poll: Poll) -> list[dict[str, Any]]:
    """Show a poll's votes with their reasons, the rows of ``stances``; none while hidden."""
    if poll.hidden:
        return []
    return [
        {
            "id": stance.id,
            "poll_id": poll.id,
            "participant_id": None if poll.anonymous else user,
            "none_of_the_above": False,
            "reason": stance.reason,
            "reason_format": "md",
            "latest": True,
            "cast_at": as_text(stance.cast_at),
            "revoked_at": None,
            "option_scores": {str(option): score for option, score in stance.scores.items()},
        }
        for user, stance in poll.votes.items()
    ]


def on_the_hour(when: datetime) -> datetime:
    """The hour that a moment lies in: closing times are rounded down to it."""
    return when.replace(minute=0, second=0, microsecond=0)


def moment(text: Any) -> datetime | None:
    """Read a time; what cannot be read is none at all, as for the platform."""
    if not isinstance(text, str):
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def as_text(when: datetime | None) -> str | None:
    """Write a time as the platform does."""
    if when is None:
        return None
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _quorum(poll: Poll, voters: int) -> dict[str, int]:
    percent = poll.fields.get("quorum_pct") or 0
    count = -(-voters * percent // 100)
    return {"quorum_count": count, "quorum_votes_required": max(0, count - len(poll.votes))}


def _results(poll: Poll, voters: Collection[int]) -> list[dict[str, Any]]:
    rows = []
    for option in poll.options:
        scores = {u: s.scores[option.id] for u, s in poll.votes.items() if option.id in s.scores}
        row = _result(poll, option.id, option.label, scores, list(scores), len(voters))
        rows.append(row | {"icon": _icon(option)})
    if poll.kind not in BY_PRIORITY:
        rows.sort(key=lambda row: -row["score"])
    total = sum(row["score"] for row in rows)
    best = max((row["score"] for row in rows), default=0)
    for rank, row in enumerate(rows, 1):
        row["rank"] = rank
        row["score_percent"] = 100 * row["score"] / total if total else 0.0
        row["max_score_percent"] = 100 * row["score"] / best if best else 0.0
    undecided = [user for user in voters if user not in poll.votes]
    rest = _result(poll, -1, _UNDECIDED, {}, undecided, len(voters))
    return [*rows, rest | {"color": "#BBBBBB"}]


def _result(
    poll: Poll,
    number: int,
    name: str,
    scores: dict[int, int],
    counted: Sequence[int],
    voters: int,
) -> dict[str, Any]:
    return {
        "id": number,
        "poll_id": poll.id,
        "name": name,
        "name_format": "iso8601" if poll.kind == "meeting" and number > 0 else "plain",
        "icon": None,
        "rank": None,
        "score": sum(scores.values()),
        "target_percent": 0,
        "score_percent": None,
        "max_score_percent": 0,
        "voter_percent": 100 * len(counted) / voters if voters else 0.0,
        "average": sum(scores.values()) / len(scores) if scores else 0,
        "voter_scores": {} if poll.anonymous else {str(u): s for u, s in scores.items()},
        "voter_ids": [] if poll.anonymous else list(counted)[:500],
        "voter_count": len(counted),
        "color": "#70C9F8",
        "test_operator": None,
        "test_against": None,
        "test_percent": None,
        "test_result": None,
    }


def _icon(option: Option) -> str | None:
    return option.given if option.label != option.given else None
