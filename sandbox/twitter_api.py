"""The X twin's API: its gate (keys, limits, faults), its routes, its people's page."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from html import escape
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from sandbox.people import act, broken, is_for_people, page, read_form
from sandbox.twitter_tweets import ACCOUNT, PostRefusedError, Tweet

if TYPE_CHECKING:
    from sandbox.twitter import TwitterTwin

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


def add_gate(app: FastAPI, twin: TwitterTwin) -> None:
    """Let through who is known, below the limits, and count it."""

    @app.middleware("http")
    async def gate(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if is_for_people(request):
            return await call_next(request)
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

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> Response:
        return invalid()


def _who(request: Request, twin: TwitterTwin) -> bool | None:
    """Whether it is a user, or only an app; None if it is neither."""
    sent = request.headers.get("authorization", "")
    if sent.startswith("Bearer "):
        return twin.bearers.get(sent.removeprefix("Bearer "))
    headers = {"Authorization": sent}
    signed = sent.startswith("OAuth ")
    return (
        True if signed and twin.verifier.verify(str(request.url), request.method, headers) else None
    )


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


def add_tweets(app: FastAPI, twin: TwitterTwin) -> None:
    """Posting and deleting."""

    @app.post("/2/tweets")
    async def create(body: JsonBody) -> Response:
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
        except PostRefusedError as error:
            if error.status == 403:
                return problem(403, "Forbidden", str(error))
            return invalid(str(error))
        shown = twin.show(made)
        return JSONResponse({"data": {name: shown[name] for name in ALWAYS}}, 201)

    @app.delete("/2/tweets/{tweet_id}")
    async def delete(tweet_id: int) -> Response:
        try:
            twin.delete(ACCOUNT, tweet_id)
        except PostRefusedError as error:
            return problem(error.status, "Forbidden", str(error))
        return JSONResponse({"data": {"deleted": True}})


def add_users(app: FastAPI, twin: TwitterTwin) -> None:
    """Users, their timelines and their mentions."""

    @app.get("/2/users/me")
    async def me() -> Response:
        return JSONResponse({"data": twin.show_user(ACCOUNT)})

    @app.get("/2/users/by/username/{username}")
    async def by_name(username: str) -> Response:
        if username not in twin.users.values():
            return not_found("username", username)
        return JSONResponse({"data": twin.show_user(username)})

    @app.get("/2/users/{user_id}")
    async def by_id(user_id: int) -> Response:
        if user_id not in twin.users:
            return not_found("id", str(user_id))
        return JSONResponse({"data": twin.show_user(twin.users[user_id])})

    @app.get("/2/users/{user_id}/{timeline}")
    async def timeline(
        user_id: int,
        timeline: str,
        request: Request,
        since_id: int = 0,
        max_results: Annotated[int, Query(ge=5, le=100)] = 10,
        pagination_token: int = 0,
    ) -> Response:
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


def add_people(app: FastAPI, twin: TwitterTwin) -> None:
    """What people do in their browsers, and what tests turn."""

    @app.get("/")
    async def people() -> Response:
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

    @app.post("/sandbox/tweets")
    async def post(request: Request) -> Response:
        form = await read_form(request)
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
    """What is not there is told in a 200."""
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
