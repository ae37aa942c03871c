"""The X twin over HTTP: its gate (keys, limits, faults), its routes, its people's page."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from sandbox.people import Form, act, broken, clock, is_for_people, page
from sandbox.serving import new_app, served_twin
from sandbox.twin import RefusedError
from sandbox.twitter.signatures import Verifier
from sandbox.twitter.state import ACCOUNT, ForbiddenError, Tweet, TwitterTwin

TWEET_FIELDS = {
    "text", "reply", "quote_tweet_id", "reply_settings", "media", "poll", "geo", "community_id",
    "direct_message_deep_link", "for_super_followers_only", "nullcast", "edit_options",
    "made_with_ai", "card_uri", "share_with_followers", "paid_partnership",
}  # fmt: skip
REPLY_SETTINGS = {None, "following", "mentionedUsers", "subscribers", "verified"}
ALWAYS = ("id", "text", "edit_history_post_ids")
INVALID = "One or more parameters to your request was invalid."
_NUMBER = re.compile(r"/\d{3,}")
_NAME = re.compile(r"/username/[^/]+")

JsonBody = Annotated[dict[str, Any], Body()]
Twin = Annotated[TwitterTwin, Depends(served_twin)]

router = APIRouter()


def create_app(twin: TwitterTwin) -> FastAPI:
    """Make the twin's application.

    Args:
        twin: What it serves.

    Returns:
        The application.
    """
    app = new_app(twin, "X twin")
    app.state.verifier = Verifier(twin.keys)
    app.middleware("http")(gate)
    app.add_exception_handler(RequestValidationError, bad_parameter)
    app.include_router(router)
    app.include_router(clock)
    return app


async def gate(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Let through who is known, below the limits, and count it."""
    if is_for_people(request):
        return await call_next(request)
    twin: TwitterTwin = request.app.state.twin
    path = request.url.path
    pattern = _NAME.sub("/username/{username}", _NUMBER.sub("/{id}", path))
    route = f"{request.method} {pattern}"
    twin.requests[route] += 1
    if twin.failures:
        return broken(twin.failures.pop(0))
    is_user = _who(request, twin)
    if is_user is None:
        return problem(401, "Unauthorized", "Unauthorized")
    most, left, reset = twin.limit(route)
    answer = (
        problem(429, "Too Many Requests", "Too Many Requests")
        if left < 0
        else await _for(is_user, request, call_next)
    )
    answer.headers["x-rate-limit-limit"] = str(most)
    answer.headers["x-rate-limit-remaining"] = str(max(left, 0))
    answer.headers["x-rate-limit-reset"] = str(reset)
    return answer


async def bad_parameter(request: Request, error: Exception) -> Response:
    """The platform's answer to a parameter of the wrong type, or out of its range."""
    return invalid()


def _who(request: Request, twin: TwitterTwin) -> bool | None:
    """Whether it is a user, or only an app; None if it is neither."""
    sent = request.headers.get("authorization", "")
    if sent.startswith("Bearer "):
        return twin.bearers.get(sent.removeprefix("Bearer "))
    verifier: Verifier = request.app.state.verifier
    headers = {"Authorization": sent}
    signed = sent.startswith("OAuth ")
    return True if signed and verifier.verify(str(request.url), request.method, headers) else None


async def _for(
    is_user: bool, request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    path = request.url.path
    if not is_user and (request.method != "GET" or path == "/2/users/me"):
        return problem(
            403,
            "Unsupported Authentication",
            "Authenticating with OAuth 2.0 Application-Only is forbidden for this endpoint.",
            "https://api.x.com/2/problems/unsupported-authentication",
        )
    return await call_next(request)


@router.post("/2/tweets")
async def create(body: JsonBody, twin: Twin) -> Response:
    """Post."""
    reply = body.get("reply") or {}
    known = set(body) <= TWEET_FIELDS and body.get("reply_settings") in REPLY_SETTINGS
    if not known or not isinstance(body.get("text"), str):
        return invalid()
    try:
        answered, quoted = reply.get("in_reply_to_tweet_id"), body.get("quote_tweet_id")
        made = twin.post(
            ACCOUNT,
            body["text"],
            int(answered) if answered else None,
            int(quoted) if quoted else None,
        )
    except ForbiddenError as error:
        return problem(403, "Forbidden", str(error))
    except RefusedError as error:
        return invalid(str(error))
    shown = twin.show(made)
    return JSONResponse({"data": {name: shown[name] for name in ALWAYS}}, 201)


@router.delete("/2/tweets/{tweet_id}")
async def delete(tweet_id: int, twin: Twin) -> Response:
    """Delete a post."""
    try:
        twin.delete(ACCOUNT, tweet_id)
    except ForbiddenError as error:
        return problem(403, "Forbidden", str(error))
    return JSONResponse({"data": {"deleted": True}})


@router.get("/2/users/me")
async def me(twin: Twin) -> Response:
    """Who asks."""
    return JSONResponse({"data": twin.show_user(ACCOUNT)})


@router.get("/2/users/by/username/{username}")
async def by_name(username: str, twin: Twin) -> Response:
    """A user by name."""
    if username not in twin.users.values():
        return not_found("username", username)
    return JSONResponse({"data": twin.show_user(username)})


@router.get("/2/users/{user_id}")
async def by_id(user_id: int, twin: Twin) -> Response:
    """A user by number."""
    if user_id not in twin.users:
        return not_found("id", str(user_id))
    return JSONResponse({"data": twin.show_user(twin.users[user_id])})


@router.get("/2/users/{user_id}/{timeline}")
async def timeline(
    user_id: int,
    timeline: str,
    request: Request,
    twin: Twin,
    since_id: int = 0,
    max_results: Annotated[int, Query(ge=5, le=100)] = 10,
    pagination_token: int = 0,
) -> Response:
    """A page of a user's posts, or of those that mention it."""
    if user_id not in twin.users or timeline not in ("tweets", "mentions"):
        return not_found("id", str(user_id))
    user = twin.users[user_id]
    rows = twin.timeline(user) if timeline == "tweets" else twin.mentions(user)
    fresh = [tweet for tweet in rows if tweet.id > since_id]
    page = fresh[pagination_token : pagination_token + max_results]
    meta: dict[str, Any] = {"result_count": len(page)}
    if not page:
        return JSONResponse({"meta": meta})
    meta |= {"newest_id": str(page[0].id), "oldest_id": str(page[-1].id)}
    if len(fresh) > pagination_token + max_results:
        meta["next_token"] = str(pagination_token + max_results)
    wanted = {*ALWAYS, *request.query_params.get("tweet.fields", "").split(",")}
    data = [{k: v for k, v in twin.show(t).items() if k in wanted} for t in page]
    answer: dict[str, Any] = {"data": data, "meta": meta}
    if "author_id" in request.query_params.get("expansions", ""):
        authors = dict.fromkeys(tweet.author for tweet in page)
        answer["includes"] = {"users": [twin.show_user(author) for author in authors]}
    return JSONResponse(answer)


@router.get("/")
async def first_page(twin: Twin) -> Response:
    """The people's page: the posts, and a form to post."""
    names = "".join(f"<option>{escape(name)}</option>" for name in twin.users.values())
    posts = [_card(tweet) for tweet in reversed(twin.tweets.values())]
    return page(
        twin,
        "X",
        f"<form method=post action=/sandbox/tweets><select name=username>{names}</select> ",
        "<input name=text size=40 placeholder='@governance_bot ...'> <button>Post</button>",
        "</form>",
        *(posts or ["<p>No posts yet.</p>"]),
    )


@router.post("/sandbox/tweets")
async def post(form: Form, twin: Twin) -> Response:
    """Post, as people do in their browsers."""
    return act(lambda: twin.post(form["username"], form["text"]))


def problem(status: int, title: str, detail: str, kind: str = "about:blank") -> JSONResponse:
    """The platform's answer to what it does not do (RFC 9457)."""
    body = {"title": title, "type": kind, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")


def invalid(detail: str = INVALID) -> Response:
    """The platform's answer to parameters that do not fit."""
    kind = "https://api.x.com/2/problems/invalid-request"
    body = {"type": kind, "title": "Invalid Request", "detail": detail}
    return JSONResponse(body, 400, media_type="application/problem+json")


def not_found(parameter: str, value: str) -> Response:
    """What is not there is reported in a 200."""
    error = {
        "value": value,
        "detail": f"Could not find user with {parameter}: [{value}].",
        "title": "Not Found Error",
        "resource_type": "user",
        "parameter": parameter,
        "resource_id": value,
        "type": "https://api.x.com/2/problems/resource-not-found",
    }
    return JSONResponse({"errors": [error]})


def _card(tweet: Tweet) -> str:
    return f"<p><b>@{escape(tweet.author)}</b> {escape(tweet.text)} <small>{tweet.id}</small></p>"
