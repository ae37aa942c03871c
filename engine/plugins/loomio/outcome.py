"""Reads Loomio's polls, closing times and webhooks. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from engine.plugins import closing, tally

HOUR = timedelta(hours=1)
# Until a request with the next full hour has arrived, that hour must not have come.
SHORTEST_NOTICE = timedelta(minutes=1)
# Its winners are seats won in rounds, which the highest score does not give.
COUNTED_IN_ROUNDS = "stv"
# https://www.loomio.com/p/{key}/{title}, or d/ for a discussion: in rendered text of any language,
# or in the old `url`.
_LINK = re.compile(r"//([^/\s]+)/([pd])/([A-Za-z0-9]+)")


def outcome_of(poll: Mapping[str, Any]) -> dict[str, Any]:
    """Make the outcome of a poll as Loomio shows it, without votes while it hides them."""
    voters = int(poll.get("decided_voters_count") or 0)
    eligible = int(poll.get("voters_count") or 0)
    results, quorum = poll.get("results"), poll.get("quorum_pct")
    # Rows 0 (none of the above) and -1 (undecided) are no options.
    options = [row for row in results or [] if row["id"] > 0]
    votes = {row["name"]: _votes(row, poll) for row in options}
    closed = bool(poll.get("closed_at"))
    known = closed and results is not None and poll.get("poll_type") != COUNTED_IN_ROUNDS
    outcome = tally.outcome(
        votes,
        voters=voters,
        eligible=eligible,
        quorum=None if quorum is None else eligible > 0 and voters * 100 >= quorum * eligible,
        winner=tally.winners(votes) if known else None,
        closed_by=("deadline" if _expired(poll) else "platform") if closed else None,
    )
    outcome["undecided"] = int(poll.get("undecided_voters_count") or 0)
    if quorum is not None:
        outcome["quorum_pct"] = quorum
    if results is None:
        del outcome["votes"]
    return outcome


def poll_keys(text: str, server: str | None = None) -> list[str]:
    """The keys of the polls that a text links to, each once, on this server if one is given."""
    return _keys("p", text, server)


def discussion_keys(text: str, server: str | None = None) -> list[str]:
    """The keys of the discussions that a text links to, as ``poll_keys``."""
    return _keys("d", text, server)


def _keys(kind: str, text: str, server: str | None) -> list[str]:
    host = urlsplit(server).netloc.lower() if server else None
    # JSON may have its slashes escaped.
    links = _LINK.findall(text.replace("\\/", "/"))
    found = [key for at, what, key in links if what == kind and host in (None, at.lower())]
    return list(dict.fromkeys(found))


def moment(text: str | None) -> datetime | None:
    """Read a time as Loomio and drivers write it.

    Args:
        text: ISO 8601; without a zone it is UTC, a date is its first moment. Empty: no time.

    Returns:
        The moment in UTC, or None.

    Raises:
        ValueError: It is no such text.
    """
    return closing.moment(text) if text else None


def on_the_hour(when: datetime) -> datetime:
    """The full hour at or before a moment: to it Loomio rounds closing times."""
    return when.replace(minute=0, second=0, microsecond=0)


def soonest_closing(now: datetime) -> datetime:
    """The soonest closing time that Loomio takes: the next full hour, if a minute away or more."""
    return on_the_hour(now + SHORTEST_NOTICE) + HOUR


def _votes(row: Mapping[str, Any], poll: Mapping[str, Any]) -> tally.OptionVotes:
    voters = None if poll.get("anonymous") else tuple(sorted(row.get("voter_ids") or []))
    return tally.OptionVotes(row.get("voter_count", 0), voters, row["score"])


def _expired(poll: Mapping[str, Any]) -> bool:
    """Whether its time was up when it was closed."""
    closing_at, closed_at = moment(poll.get("closing_at")), moment(poll.get("closed_at"))
    return closing_at is not None and closed_at is not None and closed_at >= closing_at
