"""The b2 API of the Loomio twin: its gate (keys, limits, faults) and its routes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from sandbox.loomio import members
from sandbox.loomio.bodies import (
    Fields,
    discussion_topic,
    invalid,
    one_poll,
    read_body,
    records,
    refused,
    show_membership,
    show_user,
)
from sandbox.loomio.polls import (
    POLL_FIELDS,
    Member,
    moment,
    on_the_hour,
    refusals,
    show_options,
    show_poll,
    show_stances,
)
from sandbox.loomio.state import GROUP, LoomioTwin
from sandbox.loomio.webhooks import WEBHOOK_KINDS
from sandbox.serving import new_app, served_twin

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
Twin = Annotated[LoomioTwin, Depends(served_twin)]

router = APIRouter(prefix="/api/b2")


def create_app(twin: LoomioTwin) -> FastAPI:
    """Make the twin's application.

    Args:
        twin: What it serves.

    Returns:
        The application.
    """
    app = new_app(twin, "Loomio twin")
    app.middleware("http")(gate)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(RequestValidationError, bad_parameter)
    app.include_router(router)
    app.include_router(members.router)
    return app


async def gate(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Let through what has the key, below the limits, and count it."""
    if not request.url.path.startswith("/api/"):
        return await call_next(request)
    twin: LoomioTwin = request.app.state.twin
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


async def no_route(request: Request, error: Exception) -> Response:
    """The platform's answer to an address that it does not have."""
    return refused(404)


async def bad_parameter(request: Request, error: Exception) -> Response:
    """The platform's answer to a parameter of the wrong type, or out of its range."""
    return refused(400)


async def _has_key(request: Request, key: str) -> bool:
    given = request.headers.get("authorization", "")
    if given:
        return given == f"Bearer {key}"
    if "api_key" in request.query_params:
        return False
    return (await read_body(request)).get("api_key") == key


@router.get("/groups")
async def list_groups(twin: Twin) -> Response:
    """The groups."""
    return records("groups", list(twin.groups.values()), total=len(twin.groups))


@router.get("/groups/{name}")
async def get_group(name: str, twin: Twin) -> Response:
    """A group by id, key or handle."""
    for group in twin.groups.values():
        if name in (str(group["id"]), group["key"], group["handle"]):
            return records("groups", [group])
    return refused(403, "Not authorized to show Group.")


@router.get("/memberships")
async def list_memberships(
    group_id: int, twin: Twin, limit: Limit = 50, offset: Offset = 0
) -> Response:
    """A page of a group's members."""
    members = [Member(*m) for m in twin.members] if group_id in twin.groups else []
    page = members[offset : offset + limit]
    rows = [show_membership(group_id, member) for member in page]
    users = [show_user(member) for member in page]
    return records("memberships", rows, total=len(members), users=users)


@router.post("/discussions")
async def create_discussion(body: Fields, twin: Twin) -> Response:
    """Start a discussion."""
    fields = body.get("discussion")
    if not isinstance(fields, dict) or set(fields) - DISCUSSION_FIELDS:
        return refused(400)
    if not fields.get("title"):
        return invalid({"title": BLANK})
    if fields.get("group_id") not in twin.groups:
        return refused(403, "Not authorized to create Discussion.")
    discussion = twin.add_discussion(fields)
    return records("discussions", [discussion], topics=[discussion_topic(discussion)])


@router.get("/discussions/{name}")
async def get_discussion(name: str, twin: Twin) -> Response:
    """A discussion by id or key."""
    for discussion in twin.discussions.values():
        if name in (str(discussion["id"]), discussion["key"]):
            return records("discussions", [discussion], topics=[discussion_topic(discussion)])
    return refused(404)


@router.get("/discussions")
async def list_discussions(
    group_id: int, twin: Twin, limit: Limit = 50, offset: Offset = 0
) -> Response:
    """A page of a group's discussions."""
    rows = [d for d in twin.discussions.values() if d["group_id"] == group_id]
    return records("discussions", rows[offset : offset + limit], total=len(rows))


@router.post("/comments")
async def create_comment(fields: Fields, twin: Twin) -> Response:
    """Put a comment into a discussion."""
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


@router.post("/polls")
async def create_poll(body: Fields, twin: Twin) -> Response:
    """Make a poll; what is not nested becomes an orphan."""
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
        return one_poll(twin, orphan) if orphan else invalid(wrong)
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
    return one_poll(twin, twin.add_poll(fields, group or GROUP, invited))


@router.get("/polls/{name}")
async def get_poll(name: str, twin: Twin) -> Response:
    """A poll by id or key."""
    poll = twin.find(name, discarded=not twin.discarded_are_gone)
    return one_poll(twin, poll) if poll else refused(404)


@router.get("/polls")
async def list_polls(
    group_id: int, twin: Twin, status: str = "active", limit: Limit = 50, offset: Offset = 0
) -> Response:
    """A page of a group's polls that are open, closed, or both."""
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


@router.patch("/polls/{name}")
async def update_poll(name: str, body: Fields, twin: Twin) -> Response:
    """Change a poll; nobody can close it here."""
    poll = twin.find(name)
    if poll is None:
        return refused(404)
    fields = body.get("poll")
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
    return one_poll(twin, poll)


@router.delete("/polls/{name}")
async def discard_poll(name: str, twin: Twin) -> Response:
    """Discard a poll."""
    poll = twin.find(name)
    if poll is None:
        return refused(404)
    poll.discarded_at = twin.now()
    return one_poll(twin, poll)


@router.get("/threads/{topic_id}/items")
async def list_items(topic_id: int, twin: Twin) -> Response:
    """What is in a thread: polls, comments and votes."""
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


@router.get("/chatbots")
async def list_chatbots(group_id: int, twin: Twin) -> Response:
    """The webhooks, which the platform calls chatbots."""
    return records("chatbots", twin.chatbots, total=len(twin.chatbots))


@router.post("/chatbots")
async def create_chatbot(fields: Fields, twin: Twin) -> Response:
    """Register a webhook."""
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


@router.post("/chatbots/check")
async def check_chatbot(fields: Fields, twin: Twin) -> Response:
    """Send a webhook to try it."""
    twin.sender.send(str(fields.get("server")), {"text": "It works."})
    return Response()


@router.delete("/chatbots/{number}")
async def delete_chatbot(number: int, twin: Twin) -> Response:
    """Take a webhook away."""
    kept = [chatbot for chatbot in twin.chatbots if chatbot.get("id") != number]
    if len(kept) == len(twin.chatbots):
        return refused(404)
    twin.chatbots[:] = kept
    return JSONResponse({"success": "success"})
