"""Reads Loomio's polls: outcome, and which poll a webhook is about. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

# https://www.loomio.com/p/{key}/{title}: in rendered text of any language, or in the old `url`.
_POLL_LINK = re.compile(r"/p/([A-Za-z0-9]+)")


def outcome_of(poll: Mapping[str, Any]) -> dict[str, Any]:
    """Make the outcome of a poll as Loomio shows it.

    Args:
        poll: A poll of ``GET /api/b2/polls/{id}``.

    Returns:
        Votes by option (absent while results are hidden), turnout, and once it is closed the
        winners: the options with the highest score, if anybody voted.
    """
    voters = int(poll.get("decided_voters_count") or 0)
    eligible = int(poll.get("voters_count") or 0)
    outcome: dict[str, Any] = {
        "voters": voters,
        "eligible": eligible,
        "undecided": int(poll.get("undecided_voters_count") or 0),
        "turnout": round(voters / eligible, 4) if eligible else 0.0,
    }
    results = poll.get("results")
    if results is not None:
        # Rows 0 (none of the above) and -1 (undecided) are no options.
        options = [row for row in results if row["id"] > 0]
        outcome["votes"] = {row["name"]: _votes(row, poll) for row in options}
        if poll.get("closed_at"):
            best = max((row["score"] for row in options), default=0)
            outcome["winner"] = [row["name"] for row in options if best and row["score"] == best]
    if poll.get("closed_at"):
        outcome["closed_by"] = "deadline" if _expired(poll) else "platform"
    return outcome


def poll_keys(text: str) -> list[str]:
    """Find the polls that a webhook links to.

    Args:
        text: The webhook's body.

    Returns:
        Their keys, each once.
    """
    return list(dict.fromkeys(_POLL_LINK.findall(text)))


def _votes(row: Mapping[str, Any], poll: Mapping[str, Any]) -> dict[str, Any]:
    votes: dict[str, Any] = {"count": row.get("voter_count", 0), "score": row["score"]}
    if not poll.get("anonymous"):
        votes["voters"] = sorted(row.get("voter_ids") or [])
    return votes


def _expired(poll: Mapping[str, Any]) -> bool:
    """Whether its time was up when it was closed."""
    closing_at = poll.get("closing_at")
    return bool(closing_at) and (
        datetime.fromisoformat(poll["closed_at"]) >= datetime.fromisoformat(str(closing_at))
    )
