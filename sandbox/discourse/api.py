"""The Discourse twin over HTTP: its gate (keys, limits, faults), its routes, its members' page."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response

from sandbox.discourse.polls import listed, show, user
from sandbox.discourse.state import DiscourseTwin, Post
from sandbox.people import Form, act, broken, clock, is_for_people, page
from sandbox.serving import new_app, served_twin
from sandbox.twin import RefusedError

POST_FIELDS = {
    "title", "raw", "topic_id", "category", "target_recipients", "target_usernames", "archetype",
    "created_at", "reply_to_post_number", "embed_url", "external_id", "auto_track",
}  # fmt: skip
WAIT_SECONDS = 60
INVALID_KEY = (
    "You are not permitted to view the requested resource. The API username or key is invalid."
)
_NUMBER = re.compile(r"/\d+")


async def caller(request: Request) -> str:
    """In whose name a request is made."""
    return request.headers["api-username"]


JsonBody = Annotated[dict[str, Any], Body()]
Caller = Annotated[str, Depends(caller)]
Twin = Annotated[DiscourseTwin, Depends(served_twin)]

router = APIRouter()


def create_app(twin: DiscourseTwin) -> FastAPI:
    """Make the twin's application.

    Args:
        twin: What it serves.

    Returns:
        The application.
    """
    app = new_app(twin, "Discourse twin")
    app.middleware("http")(gate)
    app.add_exception_handler(RequestValidationError, bad_parameter)
    app.add_exception_handler(404, no_route)
    app.include_router(router)
    app.include_router(clock)
    return app


async def gate(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Let through what has the key, below the limits, and count it."""
    if is_for_people(request):
        return await call_next(request)
    twin: DiscourseTwin = request.app.state.twin
    path = request.url.path
    twin.requests[f"{request.method} {_NUMBER.sub('/{id}', path)}"] += 1
    if twin.rate_limited > 0:
        twin.rate_limited -= 1
        return _too_many()
    if twin.failures:
        return broken(twin.failures.pop(0))
    known = request.headers.get("api-username") in [*twin.members.values(), "system"]
    if request.headers.get("api-key") != twin.api_key or not known:
        return refused(403, INVALID_KEY, "invalid_access")
    answer = await call_next(request)
    return broken(twin.late_failures.pop(0)) if twin.late_failures else answer


async def bad_parameter(request: Request, error: Exception) -> Response:
    """The platform's answer to a parameter of the wrong type, or out of its range."""
    return refused(400, "You supplied invalid parameters", "invalid_parameters")


async def no_route(request: Request, error: Exception) -> Response:
    """The platform's answer to an address that it does not have."""
    return not_found()


@router.post("/posts.json")
async def create_post(body: JsonBody, caller: Caller, twin: Twin) -> Response:
    """Make a post, and the topic that it begins."""
    if not isinstance(body.get("raw"), str) or not set(body) <= POST_FIELDS:
        return refused(400, "param is missing or the value is empty", "invalid_parameters")
    if twin.reviews:
        waiting = {"id": twin.new_id(), "raw": body["raw"], "title": body.get("title")}
        return JSONResponse({"success": True, "action": "enqueued", "pending_post": waiting})
    try:
        post = twin.add_post(caller, body)
    except RefusedError as error:
        return JSONResponse({"action": "create_post", "errors": [str(error)]}, 422)
    return JSONResponse(twin.show_post(post, caller))


@router.get("/posts/{post_id}.json")
async def read_post(post_id: int, caller: Caller, twin: Twin) -> Response:
    """A post."""
    post = twin.live(post_id)
    return JSONResponse(twin.show_post(post, caller)) if post else not_found()


@router.put("/posts/{post_id}.json")
async def edit_post(post_id: int, body: JsonBody, caller: Caller, twin: Twin) -> Response:
    """Change a post's text."""
    post = twin.live(post_id)
    if post is None:
        return not_found()
    post.raw = str(body["post"]["raw"])
    twin.announce("post_edited", {"post": twin.show_webhook_post(post)})
    return JSONResponse({"post": twin.show_post(post, caller)})


@router.delete("/posts/{post_id}.json")
async def delete_post(post_id: int, twin: Twin) -> Response:
    """Delete a post."""
    post = twin.live(post_id)
    if post is None:
        return not_found()
    post.deleted_at = twin.now()
    twin.announce("post_destroyed", {"post": twin.show_webhook_post(post)})
    return Response(status_code=200)


@router.put("/posts/{post_id}/recover.json")
async def recover_post(post_id: int, caller: Caller, twin: Twin) -> Response:
    """Take the deletion of a post back."""
    post = twin.posts.get(post_id)
    if post is None:
        return not_found()
    post.deleted_at = None
    twin.announce("post_recovered", {"post": twin.show_webhook_post(post)})
    return JSONResponse(twin.show_post(post, caller))


@router.put("/posts/{post_id}/locked.json")
async def lock_post(post_id: int, body: JsonBody, twin: Twin) -> Response:
    """Let only staff change a post, or everybody again."""
    post = twin.live(post_id)
    if post is None or body.get("locked") not in ("true", "false"):
        return not_found()
    post.locked = body["locked"] == "true"
    return JSONResponse({"locked": post.locked})


@router.get("/t/external_id/{external_id}.json")
async def find_topic(external_id: str, twin: Twin) -> Response:
    """Lead to the topic that its maker gave an id."""
    for topic in twin.topics.values():
        if topic.external_id == external_id and topic.deleted_at is None:
            return RedirectResponse(f"{twin.base_url}/t/{topic.slug}/{topic.id}.json", 301)
    return not_found()


@router.get("/t/{topic_id}.json")
async def read_topic(topic_id: int, caller: Caller, twin: Twin) -> Response:
    """A topic with its posts."""
    found = twin.topics.get(topic_id)
    if found is None or found.deleted_at:
        return not_found()
    posts = [
        twin.show_post(post, caller)
        for post in twin.posts.values()
        if post.topic_id == topic_id and post.deleted_at is None
    ]
    ids = [post["id"] for post in posts]
    shown = twin.show_topic(found) | {"post_stream": {"posts": posts, "stream": ids}}
    return JSONResponse(shown)


@router.delete("/t/{topic_id}.json")
async def delete_topic(topic_id: int, twin: Twin) -> Response:
    """Delete a topic."""
    found = twin.topics.get(topic_id)
    if found is None or found.deleted_at:
        return not_found()
    found.deleted_at = twin.now()
    twin.announce("topic_destroyed", {"topic": twin.show_topic(found)})
    return Response(status_code=200)


@router.put("/polls/toggle_status.json")
async def toggle_poll(body: JsonBody, caller: Caller, twin: Twin) -> Response:
    """Close a poll, or open it again."""
    try:
        poll = twin.toggle(int(body["post_id"]), str(body["poll_name"]), body["status"], caller)
    except RefusedError as error:
        return refused(422, str(error))
    voted = caller in poll.votes
    staff = caller == "system"
    return JSONResponse({"poll": show(poll, twin.now(), staff=staff, voted=voted)})


@router.get("/polls/voters.json")
async def list_voters(
    twin: Twin,
    post_id: int,
    poll_name: str,
    option_id: str,
    page: int = 1,
    limit: Annotated[int, Query(ge=1, le=50)] = 25,
) -> Response:
    """A page of those who voted for an option."""
    post = twin.live(post_id)
    poll = post.poll if post else None
    if poll is None or poll.name != poll_name or not poll.public:
        return refused(400, "You supplied invalid parameters", "invalid_parameters")
    rows = listed(poll, option_id)[(page - 1) * limit : page * limit]
    return JSONResponse({"voters": {option_id: rows}})


@router.get("/u/{username}.json")
async def read_user(username: str, twin: Twin) -> Response:
    """A user."""
    if username not in [*twin.members.values(), "system"]:
        return not_found()
    more = {"trust_level": 1, "admin": username == "system", "moderator": False}
    fields = twin.user_fields.get(username, {})
    return JSONResponse({"user": user(username) | more | {"user_fields": fields}})


@router.get("/groups/{name}/members.json")
async def list_members(
    name: str,
    twin: Twin,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """A page of the forum's users."""
    if name != "trust_level_0":
        return not_found()
    rows = [user(username) for username in twin.members.values()]
    meta = {"total": len(rows), "limit": limit, "offset": offset}
    page = rows[offset : offset + limit]
    return JSONResponse({"members": page, "owners": [], "meta": meta})


@router.get("/")
async def first_page(twin: Twin) -> Response:
    """The members' page: the polls, with buttons."""
    cards = [_card(twin, post) for post in twin.posts.values() if post.poll]
    return page(twin, "Discourse", *(cards or ["<p>No polls yet.</p>"]))


@router.post("/sandbox/posts/{post_id}/vote")
async def vote(post_id: int, form: Form, twin: Twin) -> Response:
    """Vote, as members do in their browsers."""
    return act(lambda: twin.vote(post_id, form["username"], form.getlist("option")))


@router.post("/sandbox/posts/{post_id}/close")
async def close(post_id: int, twin: Twin) -> Response:
    """Close a poll, as staff does."""
    return act(lambda: twin.toggle(post_id, "poll", "closed", "system"))


@router.post("/sandbox/topics/{topic_id}/reply")
async def reply(topic_id: int, form: Form, twin: Twin) -> Response:
    """Answer in a topic."""
    fields = {"topic_id": topic_id, "raw": form.get("raw", "")}
    return act(lambda: twin.add_post(form["username"], fields))


@router.post("/sandbox/webhooks")
async def add_webhook(form: Form, twin: Twin) -> Response:
    """Send webhooks to an address."""
    return act(lambda: twin.webhooks.append(form["url"]))


def refused(status: int, reason: str, kind: str | None = None) -> Response:
    """The platform's answer to what it does not do."""
    body: dict[str, Any] = {"errors": [reason]}
    return JSONResponse(body | ({"error_type": kind} if kind else {}), status)


def not_found() -> Response:
    """The platform's answer for what is not there, or hidden."""
    return refused(404, "The requested URL or resource could not be found.", "not_found")


def _too_many() -> Response:
    reason = "You've performed this action too many times, please try again later."
    extras = {"wait_seconds": WAIT_SECONDS}
    body = {"errors": [reason], "error_type": "rate_limit", "extras": extras}
    return JSONResponse(body, 429, {"Retry-After": str(WAIT_SECONDS)})


def _card(twin: DiscourseTwin, post: Post) -> str:
    poll = post.poll
    assert poll is not None
    state = "closed" if poll.is_closed(twin.now()) else "open"
    members = "".join(f"<option>{escape(name)}</option>" for name in twin.members.values())
    options = "".join(
        f"<label><input type=checkbox name=option value='{escape(text)}'>{escape(text)}</label> "
        for text in poll.options.values()
    )
    action = f"/sandbox/posts/{post.id}"
    return (
        f"<section><h2>{escape(poll.title or 'Poll')}</h2>"
        f"<p>{escape(poll.kind)}, {state}, {len(poll.votes)} votes</p>"
        f"<form method=post action={action}/vote><select name=username>{members}</select> {options}"
        f"<button>Vote</button></form>"
        f"<form method=post action={action}/close><button>Close</button></form>"
        f"<form method=post action=/sandbox/topics/{post.topic_id}/reply>"
        f"<select name=username>{members}</select> <input name=raw placeholder=Reply> "
        f"<button>Reply</button></form></section>"
    )
