"""Writes Discourse's poll markup, and reads its polls. Pure functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from engine.plugins import Parameters, closing, tally

NAME = "poll"
# The rank of a voter's first preference.
FIRST = "1"


def option_id(text: str) -> str:
    """The id that Discourse gives an option: MD5 of the JSON array that holds its text.

    Args:
        text: The option's text.

    Returns:
        32 hexadecimal digits.
    """
    array = json.dumps([text], ensure_ascii=False, separators=(",", ":"))
    return hashlib.md5(array.encode(), usedforsecurity=False).hexdigest()


def option_texts(parameters: Parameters) -> list[str]:
    """The texts of a poll's options: those given, or the numbers of a number poll."""
    if parameters.poll_type != "number":
        return list(parameters.options)
    step = parameters.step or 1
    return [str(number) for number in range(parameters.min, parameters.max + 1, step)]


def markup(parameters: Parameters, closing_at: datetime | None) -> str:
    """Write a poll as the text of a post.

    Args:
        parameters: The process' parameters.
        closing_at: When it closes, if it does by itself.

    Returns:
        Markdown, the details first.
    """
    attributes = {
        "name": NAME,
        "type": parameters.poll_type,
        "results": parameters.results,
        "public": "true" if parameters.public else "false",
        "chartType": parameters.chart_type,
    }
    if parameters.poll_type in ("multiple", "number"):
        bounds = {"min": parameters.min, "max": parameters.max}
        attributes |= {name: str(value) for name, value in bounds.items() if value is not None}
    if parameters.poll_type == "number":
        attributes["step"] = str(parameters.step or 1)
    if parameters.groups:
        attributes["groups"] = ",".join(parameters.groups)
    if closing_at is not None:
        # Discourse ignores a time that it cannot read; of this form it reads every one.
        attributes["close"] = closing_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    opening = " ".join(f"{name}={value}" for name, value in attributes.items())
    lines = [f"[poll {opening}]", f"# {' '.join(parameters.title.split())}"]
    if parameters.poll_type != "number":
        lines += [f"* {option}" for option in parameters.options]
    lines.append("[/poll]")
    return "\n\n".join(filter(None, [parameters.details, "\n".join(lines)]))


def find_poll(post: Mapping[str, Any]) -> dict[str, Any] | None:
    """The poll of our name in a post, if there is one."""
    polls: list[dict[str, Any]] = post.get("polls") or []
    return next((poll for poll in polls if poll.get("name") == NAME), None)


def names_of(poll: Mapping[str, Any], texts: Sequence[str]) -> dict[str, str]:
    """The options' texts by their ids; one that Discourse read as markup is known by its place."""
    predicted = {option_id(text): text for text in texts}
    ids = [str(option["id"]) for option in poll["options"]]
    if len(ids) != len(texts):
        return predicted
    placed = zip(ids, texts, strict=True)
    return {id_: predicted.get(id_, text) for id_, text in placed}


def closing_time(poll: Mapping[str, Any]) -> datetime | None:
    """When a poll closes by itself, if it does."""
    return closing.moment(poll["close"]) if poll.get("close") else None


def is_closed(poll: Mapping[str, Any], now: datetime) -> bool:
    """Whether nobody can vote any more: the stored status follows the closing time some time later.

    Args:
        poll: The poll.
        now: The present time.
    """
    closing_at = closing_time(poll)
    return poll["status"] == "closed" or (closing_at is not None and closing_at <= now)


def outcome_of(
    poll: Mapping[str, Any],
    names: Mapping[str, str],
    voters: Mapping[str, Sequence[str]],
    closed_by: tally.ClosedBy | None,
) -> dict[str, Any]:
    """Make the outcome of a poll as Discourse shows it, without votes while it hides them."""
    options = poll["options"]
    hidden = any("votes" not in option for option in options)
    votes = {
        names.get(option["id"], option["id"]): tally.OptionVotes(
            int(option.get("votes") or 0),
            tuple(voters[option["id"]]) if option["id"] in voters else None,
        )
        for option in options
    }
    ranked = poll.get("ranked_choice_outcome") if poll["type"] == "ranked_choice" else None
    winner = None
    if closed_by is not None and not hidden:
        winner = _ranked_winner(ranked, names) if ranked else tally.winners(votes)
    outcome = tally.outcome(
        votes, voters=int(poll.get("voters") or 0), winner=winner, closed_by=closed_by
    )
    if hidden:
        del outcome["votes"]
    elif poll["type"] == "number":
        cast = sum(option.count for option in votes.values())
        if cast:
            points = sum(float(name) * option.count for name, option in votes.items())
            outcome["average"] = round(points / cast, 4)
    if ranked and not hidden:
        outcome["rounds"] = [_round(stage, names) for stage in ranked["round_activity"]]
    return outcome


def _ranked_winner(ranked: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    if ranked.get("tied"):
        return _texts(ranked.get("tied_candidates"), names)
    return _texts([ranked.get("winning_candidate")] if ranked.get("winner") else [], names)


def _round(stage: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    majority = _texts([stage.get("majority")], names)
    return {
        "majority": majority[0] if majority else None,
        "eliminated": _texts(stage.get("eliminated"), names),
    }


def _texts(candidates: Any, names: Mapping[str, str]) -> list[str]:
    found = candidates if isinstance(candidates, list) else [candidates]
    return [names.get(one["digest"], one["digest"]) for one in found if one]
