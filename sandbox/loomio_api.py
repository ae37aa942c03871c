"""The b2 API of the Loomio twin: its gate (keys, limits, faults) and its routes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from sandbox.loomio_polls import (
    GROUP,
    POLL_FIELDS,
    Member,
    Poll,
    as_text,
    moment,
    on_the_hour,
    refusals,
    show_options,
    show_poll,
    show_stances,
)
from sandbox.loomio_webhooks import WEBHOOK_KINDS

if TYPE_CHECKING:
    from sandbox.loomio import LoomioTwin

DISCUSSION_FIELDS = {
    "group_id", "title", "description", "description_format", "private", "recipient_audience",
    "recipient_user_ids", "recipient_emails", "recipient_message", "tags",
}  # fmt: skip
COMMENT_FIELDS = {"discussion_id", "parent_id", "parent_type", "body", "body_format"}
CHATBOT_FIELDS = {
    "group_id", "name", "kind", "webhook_kind", "server", "event_kinds", "notification_only",
}  # fmt: skip
BLANK = ["can't be blank"]
_NAMED = re.compile(r"/(groups|polls|discussions|threads|comments|chatbots)/(?!check$)[^/]+")

Limit = Annotated[int, Query(ge=1)]
Offset = Annotated[int, Query(ge=0)]


def add_gate(app: FastAPI, twin: LoomioTwin) -> None:
    """Let through what has the key, below the limits, and count it."""

    @app.middleware("http")
    async def gate(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if not request.url.path.startswith("/api/"):
            return await call_next(request)
        pattern = _NAMED.sub(r"/\1/{id}", request.url.path)
        twin.requests[f"{request.method} {pattern}"] += 1
        if twin.over_the_limit():
            return PlainTextResponse("Retry later", 429)
        fault = twin.next_fault()
        if fault is not None and not fault.late:
            await asyncio.sleep(fault.delay_seconds)
            if fault.status >= 400:
                page = "<!doctype html><title>Sorry, something went wrong</title>"
                return HTMLResponse(page, fault.status)
        if not await _has_key(request, twin.api_key):
            return refused(403, "You are not authorized to access this page.")
        answer = await call_next(request)
        if fault is not None and fault.late:
            await asyncio.sleep(fault.delay_seconds)
        return answer

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        return refused(404)

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> Response:
        return refused(400)


async def _has_key(request: Request, key: str) -> bool:
    given = request.headers.get("authorization", "")
    if given:
        return given == f"Bearer {key}"
    if "api_key" in request.query_params:
        return False
    return (await read_body(request)).get("api_key") == key


def add_groups(app: FastAPI, twin: LoomioTwin) -> None:
    """Groups, memberships, discussions and comments."""

    @app.get("/api/b2/groups")
    async def list_groups() -> Response:
        return records("groups", list(twin.groups.values()), total=len(twin.groups))

    @app.get("/api/b2/groups/{name}")
    async def get_group(name: str) -> Response:
        for group in twin.groups.values():
            if name in (str(group["id"]), group["key"], group["handle"]):
                return records("groups", [group])
        return refused(403, "Not authorized to show Group.")

    @app.get("/api/b2/memberships")
    async def list_memberships(group_id: int, limit: Limit = 50, offset: Offset = 0) -> Response:
        members = [Member(*m) for m in twin.members] if group_id in twin.groups else []
        page = members[offset : offset + limit]
        rows = [_show_membership(group_id, member) for member in page]
        users = [show_user(member) for member in page]
        return records("memberships", rows, total=len(members), users=users)

    @app.post("/api/b2/discussions")
    async def create_discussion(request: Request) -> Response:
        fields = (await read_body(request)).get("discussion")
        if not isinstance(fields, dict) or set(fields) - DISCUSSION_FIELDS:
            return refused(400)
        if not fields.get("title"):
            return invalid({"title": BLANK})
        if fields.get("group_id") not in twin.groups:
            return refused(403, "Not authorized to create Discussion.")
        discussion = twin.add_discussion(fields)
        return records("discussions", [discussion], topics=[_discussion_topic(discussion)])

    @app.get("/api/b2/discussions/{name}")
    async def get_discussion(name: str) -> Response:
        for discussion in twin.discussions.values():
            if name in (str(discussion["id"]), discussion["key"]):
                return records("discussions", [discussion], topics=[_discussion_topic(discussion)])
        return refused(404)

    @app.get("/api/b2/discussions")
    async def list_discussions(group_id: int, limit: Limit = 50, offset: Offset = 0) -> Response:
        rows = [d for d in twin.discussions.values() if d["group_id"] == group_id]
        return records("discussions", rows[offset : offset + limit], total=len(rows))

    @app.post("/api/b2/comments")
    async def create_comment(request: Request) -> Response:
        fields = await read_body(request)
        fields.pop("api_key", None)
        if set(fields) - COMMENT_FIELDS:
            return refused(400)
        if not fields.get("body"):
            return invalid({"body": BLANK})
        discussion = twin.discussions.get(fields.get("discussion_id", 0))
        if discussion is None:
            return refused(404)
        comment = twin.add_comment(discussion, fields)
        return records("comments", [comment], users=[show_user(twin.bot)])


def add_polls(app: FastAPI, twin: LoomioTwin) -> None:
    """Polls, which nobody can close or vote in here, and the threads that show their votes."""

    @app.post("/api/b2/polls")
    async def create_poll(request: Request) -> Response:
        body = await read_body(request)
        fields = body.get("poll")
        if not isinstance(fields, dict) or twin.makes_orphans:
            # Rails wraps the columns only: what is left has neither group nor options.
            columns = POLL_FIELDS - {"options", "group_id", "topic_id"}
            given = fields if isinstance(fields, dict) else body
            kept = {name: value for name, value in given.items() if name in columns}
            if not kept:
                return refused(400)
            wrong = refusals({**kept, "options": ["", ""]}, twin.now())
            orphan = None if wrong else twin.add_poll(kept, None, [])
            return _answer(twin, orphan) if orphan else invalid(wrong)
        if set(fields) - POLL_FIELDS:
            return refused(400)
        wrong = refusals(fields, twin.now())
        if wrong:
            return invalid(wrong)
        group = fields.get("group_id")
        if group not in twin.groups and not twin.has_topic(fields.get("topic_id")):
            return refused(403, "Not authorized to create Poll.")
        # Invitations are read from the top level, whatever the nested part says.
        invited = list(body.get("recipient_user_ids") or [])
        if body.get("recipient_audience") == "group":
            invited += [member[0] for member in twin.members]
        return _answer(twin, twin.add_poll(fields, group or GROUP, invited))

    @app.get("/api/b2/polls/{name}")
    async def get_poll(name: str) -> Response:
        poll = twin.find(name, discarded=not twin.discarded_are_gone)
        return _answer(twin, poll) if poll else refused(404)

    @app.get("/api/b2/polls")
    async def list_polls(
        group_id: int, status: str = "active", limit: Limit = 50, offset: Offset = 0
    ) -> Response:
        wanted = {"active": [False], "closed": [True], "all": [True, False]}.get(status, [])
        rows = [
            show_poll(poll, twin.voters(poll))
            for poll in list(twin.polls.values())
            if poll.group_id == group_id
            and poll.discarded_at is None
            and (poll.closed_at is not None) in wanted
        ]
        more: dict[str, Any] = {"outcomes": []} if status == "closed" else {}
        return records("polls", rows[offset : offset + limit], total=len(rows), **more)

    @app.patch("/api/b2/polls/{name}")
    async def update_poll(name: str, request: Request) -> Response:
        poll = twin.find(name)
        if poll is None:
            return refused(404)
        fields = (await read_body(request)).get("poll")
        if not isinstance(fields, dict) or set(fields) - POLL_FIELDS:
            return refused(400)
        names = [option.given for option in poll.options]
        # A closing time that stays as it is may lie in the past.
        unchanged = {**poll.fields, "options": names, "closing_at": None, "anonymous": False}
        wrong = refusals({**unchanged, **fields}, twin.now())
        if "closing_at" in fields and moment(fields["closing_at"]) is None:
            wrong["closing_at"] = ["must be in the future"]
        if wrong:
            return invalid(wrong)
        if "closing_at" in fields:
            closing_at = moment(fields["closing_at"])
            poll.closing_at = on_the_hour(closing_at) if closing_at else None
        if "options" in fields:
            twin.replace_options(poll, fields["options"])
        poll.fields |= {k: v for k, v in fields.items() if k not in ("options", "closing_at")}
        twin.announce("poll_edited", poll)
        return _answer(twin, poll)

    @app.delete("/api/b2/polls/{name}")
    async def discard_poll(name: str) -> Response:
        poll = twin.find(name)
        if poll is None:
            return refused(404)
        poll.discarded_at = twin.now()
        return _answer(twin, poll)

    @app.get("/api/b2/threads/{topic_id}/items")
    async def list_items(topic_id: int) -> Response:
        polls = [p for p in list(twin.polls.values()) if p.topic_id == topic_id and p.group_id]
        kept = [poll for poll in polls if poll.discarded_at is None]
        comments = [c for c in twin.comments if c["topic_id"] == topic_id]
        if not kept and not comments and not twin.has_topic(topic_id):
            return refused(404)
        stances = [stance for poll in kept for stance in show_stances(poll)]
        items = [
            {"id": n, "sequence_id": n, "kind": kind, "topic_id": topic_id,
             "itemable_type": type_, "itemable_id": row_id}
            for n, (kind, type_, row_id) in enumerate(
                [("poll_created", "Poll", poll.id) for poll in kept]
                + [("new_comment", "Comment", comment["id"]) for comment in comments]
                + [("stance_created", "Stance", stance["id"]) for stance in stances]
            )
        ]  # fmt: skip
        return records(
            "items",
            items,
            total=len(items),
            polls=[show_poll(poll, twin.voters(poll)) for poll in kept],
            poll_options=[option for poll in kept for option in show_options(poll)],
            stances=stances,
            comments=comments,
            users=[show_user(Member(*member)) for member in twin.members],
        )


def add_chatbots(app: FastAPI, twin: LoomioTwin) -> None:
    """Webhooks, which the platform calls chatbots."""

    @app.get("/api/b2/chatbots")
    async def list_chatbots(group_id: int) -> Response:
        return records("chatbots", twin.chatbots, total=len(twin.chatbots))

    @app.post("/api/b2/chatbots")
    async def create_chatbot(request: Request) -> Response:
        fields = await read_body(request)
        fields.pop("api_key", None)
        if set(fields) - CHATBOT_FIELDS:
            return refused(400)
        if not fields.get("server"):
            return invalid({"server": BLANK})
        if fields.get("webhook_kind", "markdown") not in WEBHOOK_KINDS:
            return invalid({"webhook_kind": ["is none that this twin can imitate"]})
        if fields.get("group_id", GROUP) not in twin.groups:
            return refused(403, "User is not an admin")
        return records("chatbots", [twin.add_chatbot(fields)])

    @app.post("/api/b2/chatbots/check")
    async def check_chatbot(request: Request) -> Response:
        twin.sender.send(str((await read_body(request)).get("server")), {"text": "It works."})
        return Response()

    @app.delete("/api/b2/chatbots/{number}")
    async def delete_chatbot(number: int) -> Response:
        kept = [chatbot for chatbot in twin.chatbots if chatbot.get("id") != number]
        if len(kept) == len(twin.chatbots):
            return refused(404)
        twin.chatbots[:] = kept
        return JSONResponse({"success": "success"})


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


def _answer(twin: LoomioTwin, poll: Poll) -> Response:
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


def _discussion_topic(discussion: dict[str, Any]) -> dict[str, Any]:
    number, group = discussion["topic_id"], discussion["group_id"]
    return _topic(number, group, "Discussion", discussion["id"])


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


def _show_membership(group: int, member: Member) -> dict[str, Any]:
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
