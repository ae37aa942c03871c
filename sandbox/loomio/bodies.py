"""The bodies that the Loomio twin takes, and those that it answers with."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response

from sandbox.loomio.polls import Member, Poll, as_text, show_options, show_poll
from sandbox.loomio.state import LoomioTwin


async def read_body(request: Request) -> dict[str, Any]:
    """Read a JSON object or a form; of anything else, nothing.

    Args:
        request: The request.

    Returns:
        Its fields.
    """
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl((await request.body()).decode()))
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


Fields = Annotated[dict[str, Any], Depends(read_body)]


def records(
    root: str, rows: list[dict[str, Any]], total: int | None = None, **more: Any
) -> Response:
    """Answer with records and those that stand beside them."""
    meta: dict[str, Any] = {"root": root} | ({} if total is None else {"total": total})
    return JSONResponse({root: rows, **more, "meta": meta})


def refused(status: int, message: str | None = None) -> Response:
    """Refuse a request: ``{"error": ...}`` with the message, else with the status."""
    return JSONResponse({"error": message or status}, status)


def invalid(errors: dict[str, list[str]]) -> Response:
    """Refuse what does not hold together, by field."""
    return JSONResponse({"errors": errors}, 422)


def show_user(member: Member) -> dict[str, Any]:
    """Show a member, a row of ``users``."""
    return {
        "id": member.id,
        "name": member.name,
        "username": member.username,
        "avatar_initials": "".join(word[0] for word in member.name.split())[:2],
        "avatar_kind": "initials",
        "thumb_url": None,
        "time_zone": "UTC",
        "locale": "en",
        "created_at": "2024-10-19T02:52:23.311Z",
        "titles": {},
        "delegates": {},
        "email_verified": True,
        "bot": member.bot,
    }


def one_poll(twin: LoomioTwin, poll: Poll) -> Response:
    """Answer with a poll and those that stand beside it."""
    row = show_poll(poll, twin.voters(poll))
    if poll.group_id is None:
        return records("polls", [row])
    more: dict[str, Any] = {
        "topics": [_poll_topic(twin, poll)],
        "poll_options": show_options(poll),
        "users": [show_user(twin.bot)],
    }
    if not poll.hidden:
        more["outcomes"] = []
    return records("polls", [row], **more)


def discussion_topic(discussion: dict[str, Any]) -> dict[str, Any]:
    """Show a discussion's thread, a row of ``topics``."""
    number, group = discussion["topic_id"], discussion["group_id"]
    return _topic(number, group, "Discussion", discussion["id"])


def show_membership(group: int, member: Member) -> dict[str, Any]:
    """Show a member of a group, a row of ``memberships``."""
    pending, admin = member.username == "mary", member.username == "grace"
    return {
        "id": 9000 + member.id,
        "group_id": group,
        "user_id": member.id,
        "inviter_id": 502,
        "volume_email": "normal",
        "volume_push": "normal",
        "admin": admin,
        "delegate": False,
        "experiences": {},
        "title": None,
        "created_at": "2026-05-27T13:18:28.444Z",
        "accepted_at": None if pending else "2026-05-27T13:18:57.456Z",
    }


def _poll_topic(twin: LoomioTwin, poll: Poll) -> dict[str, Any]:
    return _topic(poll.topic_id, poll.group_id, "Poll", poll.id) | {
        "items_count": 1 + len(poll.votes),
        "replies_count": len(poll.votes),
        "active_polls_count": int(poll.closed_at is None),
        "closed_polls_count": int(poll.closed_at is not None),
        "last_activity_at": as_text(twin.now()),
        "discarded_at": as_text(poll.discarded_at),
        "poll_id": poll.id,
    }


def _topic(number: int, group: int | None, kind: str, owner: int) -> dict[str, Any]:
    return {
        "id": number,
        "group_id": group,
        "max_depth": 3,
        "allow_comments": True,
        "locked_at": None,
        "pinned_at": None,
        "discarded_at": None,
        "topicable_id": owner,
        "topicable_type": kind,
        "tags": [],
    }
