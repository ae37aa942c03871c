"""Polls of the Discourse twin: their markup, their votes, their results."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

TYPES = ("regular", "multiple", "number", "ranked_choice")
RESULTS = ("always", "on_vote", "on_close", "staff_only")
MOST_OPTIONS = 20
PRELOADED = 25
_BLOCK = re.compile(r"^\[poll([^\]]*)\]$(.*?)^\[/poll\]$", re.MULTILINE | re.DOTALL)
_ATTRIBUTE = re.compile(r"(\w+)=(\S+)")


@dataclass
class TwinPoll:
    """A poll.

    Attributes:
        id: Its number.
        name: Its name within its post.
        kind: Its type.
        results: Who sees results, and when.
        public: Whether voters are shown.
        options: Text by id, in the order in which they were written.
        bounds: ``min``, ``max`` and ``step``, where they apply.
        close: When it closes by itself.
        title: Its heading.
        chart_type: How its results are drawn.
        groups: Who may vote.
        votes: The option ids by voter; in ranked choice in the voter's order.
        closed_at: When it was closed.
        closed_by: By whom; None: by the system.
        status: The stored status, which follows the closing time when the job has run.
    """

    id: int
    name: str
    kind: str
    results: str
    public: bool
    options: dict[str, str]
    bounds: dict[str, int]
    close: datetime | None
    title: str | None
    chart_type: str
    groups: str | None
    votes: dict[str, list[str]] = field(default_factory=dict)
    closed_at: datetime | None = None
    closed_by: str | None = None
    status: str = "open"

    def is_closed(self, now: datetime) -> bool:
        """Whether nobody can vote any more."""
        return self.status == "closed" or (self.close is not None and self.close <= now)


def digest(text: str) -> str:
    """An option's id."""
    array = json.dumps([text], ensure_ascii=False, separators=(",", ":"))
    return hashlib.md5(array.encode(), usedforsecurity=False).hexdigest()


def parse(raw: str, number: int) -> TwinPoll | str | None:
    """Read the poll in a post's text.

    Args:
        raw: The text.
        number: The poll's number, if there is one.

    Returns:
        The poll; the sentence that refuses it; or None if the text holds none.
    """
    block = _BLOCK.search(raw)
    if block is None:
        return None
    given = dict(_ATTRIBUTE.findall(block.group(1)))
    lines = [line.strip() for line in block.group(2).strip().splitlines() if line.strip()]
    title = next((line[2:] for line in lines if line.startswith("# ")), None)
    texts = [line[2:] for line in lines if line.startswith("* ")]
    kind = given.get("type", "regular")
    bounds = {name: int(given[name]) for name in ("min", "max", "step") if name in given}
    if kind == "number":
        if texts:
            return None  # Discourse takes such a block for text.
        step = bounds.setdefault("step", 1)
        texts = [str(n) for n in range(bounds.get("min", 1), bounds.get("max", 10) + 1, step)]
    refusal = _refusal(kind, given, texts, bounds)
    if refusal:
        return refusal
    return TwinPoll(
        id=number,
        name=given.get("name", "poll"),
        kind=kind,
        results=given.get("results", "always"),
        public=given.get("public") == "true",
        options={digest(text): text for text in texts},
        bounds=bounds,
        close=_moment(given.get("close")),
        title=title,
        chart_type=given.get("chartType", "bar"),
        groups=given.get("groups"),
    )


def show(poll: TwinPoll, now: datetime, *, staff: bool, voted: bool) -> dict[str, Any]:
    """Write a poll as the API does.

    Args:
        poll: The poll.
        now: The twin's time.
        staff: Whether the caller is staff.
        voted: Whether the caller has voted.

    Returns:
        JSON data; without ``votes`` for whom the results are hidden from.
    """
    closed = poll.is_closed(now)
    seen = {
        "always": True,
        "on_vote": voted or closed,
        "on_close": closed,
        "staff_only": staff,
    }[poll.results]
    counts = {option: len(voters) for option, voters in voters_of(poll).items()}
    shown: dict[str, Any] = {
        "id": poll.id,
        "name": poll.name,
        "type": poll.kind,
        "status": poll.status,
        "dynamic": False,
        "results": poll.results,
        **poll.bounds,
        "options": [
            {"id": option, "html": text} | ({"votes": counts[option]} if seen else {})
            for option, text in poll.options.items()
        ],
        "voters": len(poll.votes),
        "chart_type": poll.chart_type,
        "title": poll.title,
        "closed_at": as_text(poll.closed_at) if poll.closed_at else None,
        "closed_by": user(poll.closed_by) if poll.closed_by else None,
    }
    if poll.public:
        shown["public"] = True
    if poll.close is not None:
        shown["close"] = as_text(poll.close)
    if poll.groups is not None:
        shown["groups"] = poll.groups
    if poll.public and seen:
        shown["preloaded_voters"] = {
            option: listed(poll, option)[:PRELOADED] for option in poll.options
        }
    if poll.kind == "ranked_choice" and seen:
        shown["ranked_choice_outcome"] = runoff(poll)
    return shown


def voters_of(poll: TwinPoll) -> dict[str, list[str]]:
    """Who voted for each option; in ranked choice, who put it first."""
    first_only = poll.kind == "ranked_choice"
    return {
        option: [
            voter
            for voter, chosen in poll.votes.items()
            if option in (chosen[:1] if first_only else chosen)
        ]
        for option in poll.options
    }


def listed(poll: TwinPoll, option: str) -> list[dict[str, Any]]:
    """The voters of an option, as the API lists them."""
    if poll.kind != "ranked_choice":
        return [user(voter) for voter in voters_of(poll)[option]]
    return [
        {
            "rank": str(chosen.index(option) + 1) if option in chosen else "Abstain",
            "user": user(voter),
        }
        for voter, chosen in poll.votes.items()
    ]


def runoff(poll: TwinPoll) -> dict[str, Any]:
    """Count ranked ballots: all that are last together leave together."""
    racing = list(poll.options)
    rounds: list[dict[str, Any]] = []
    found: dict[str, Any] = {
        "tied": False, "tied_candidates": None, "winner": False, "winning_candidate": None,
    }  # fmt: skip
    while racing:
        counts = dict.fromkeys(racing, 0)
        for chosen in poll.votes.values():
            best = next((option for option in chosen if option in counts), None)
            if best is not None:
                counts[best] += 1
        cast = sum(counts.values())
        leading = next((option for option in racing if counts[option] * 2 > cast), None)
        last = [option for option in racing if counts[option] == min(counts.values())]
        stage: dict[str, Any] = {"round": len(rounds) + 1, "majority": None, "eliminated": None}
        if leading is not None:
            rounds.append(stage | {"majority": _candidate(poll, leading)})
            found |= {"winner": True, "winning_candidate": _candidate(poll, leading)}
            break
        if len(last) == len(racing):
            tied = [_candidate(poll, option) for option in racing]
            found |= {"tied": bool(cast), "winner": None, "tied_candidates": tied if cast else None}
            rounds.append(stage)
            break
        rounds.append(stage | {"eliminated": [_candidate(poll, option) for option in last]})
        racing = [option for option in racing if option not in last]
    return found | {"round_activity": rounds}


def user(name: str) -> dict[str, Any]:
    """A user, as lists of voters have it."""
    return {
        "id": sum(name.encode()),
        "username": name,
        "name": name.title(),
        "avatar_template": "/letter_avatar_proxy/v4/letter/a/ac91a4/{size}.png",
    }


def as_text(moment: datetime) -> str:
    """A time, as the API writes it."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _refusal(
    kind: str, given: dict[str, str], texts: list[str], bounds: dict[str, int]
) -> str | None:
    if kind not in TYPES or given.get("results", "always") not in RESULTS:
        return "Poll type or results are not valid."
    if len(texts) < 2:
        return "Poll must have at least 2 options."
    if len(texts) > MOST_OPTIONS:
        return f"Poll must have at most {MOST_OPTIONS} options."
    if len(set(texts)) < len(texts):
        return "Poll must have different options."
    least, most = bounds.get("min", 1), bounds.get("max", len(texts))
    if kind == "multiple" and not (0 < least <= most <= len(texts) and least < len(texts)):
        return "Poll with multiple choice has invalid parameters."
    return None


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None  # Silently, as the platform does: such a poll never closes.


def _candidate(poll: TwinPoll, option: str) -> dict[str, str]:
    return {"digest": option, "html": poll.options[option]}
