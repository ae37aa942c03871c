"""A twin of Loomio: the b2 API as drivers meet it, with state, and members who vote.

It answers as the platform does (version 3.8): nested bodies, orphans for flat ones, results that
are hidden, closing times on the hour, expiry by a background job, webhooks without a signature.
What members do in their browsers stands below ``/sandbox``.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import typer
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)

API_KEY = "loomio-twin-api-key"
BOT_USER = 501
GROUP = 7

POLL_TYPES = {
    "proposal", "poll", "count", "score", "ranked_choice", "meeting", "dot_vote", "check",
    "question", "stv",
}  # fmt: skip
LEAST_OPTIONS = {"ranked_choice": 2, "stv": 2, "question": 0}
NEVER_ANONYMOUS = {"count", "question", "meeting"}
BY_PRIORITY = {"proposal", "meeting", "count", "check"}
RELABELLED = {"agree", "abstain", "disagree", "block", "consent", "objection", "accept", "decline"}
POLL_FIELDS = {
    "group_id", "topic_id", "title", "poll_type", "details", "details_format", "options",
    "closing_at", "opening_at", "specified_voters_only", "hide_results", "shuffle_options",
    "anonymous", "notify_on_closing_soon", "notify_on_open", "recipient_audience",
    "recipient_user_ids", "recipient_emails", "recipient_message", "recipient_chatbot_ids",
    "notify_recipients", "stance_reason_required", "quorum_pct", "agree_target",
    "dots_per_person", "min_score", "max_score", "minimum_stance_choices",
    "maximum_stance_choices", "tags",
}  # fmt: skip
DISCUSSION_FIELDS = {
    "group_id", "title", "description", "description_format", "private", "recipient_audience",
    "recipient_user_ids", "recipient_emails", "recipient_message", "tags",
}  # fmt: skip
EVENT_KINDS = [
    "new_discussion", "discussion_edited", "new_comment", "poll_created", "poll_edited",
    "poll_closing_soon", "poll_expired", "poll_closed_by_user", "poll_reopened",
    "outcome_created", "outcome_updated", "outcome_review_due", "stance_created",
    "stance_updated",
]  # fmt: skip


@dataclass
class Poll:
    """A poll with its members' votes."""

    id: int
    key: str
    fields: dict[str, Any]
    group_id: int | None
    topic_id: int
    options: list[tuple[int, str]]
    closing_at: datetime | None
    created_at: datetime
    closed_at: datetime | None = None
    discarded_at: datetime | None = None
    votes: dict[int, dict[int, int]] = field(default_factory=dict)


class LoomioTwin:
    """The twin's state and its application.

    Attributes:
        app: The ASGI application.
        base_url: Under which its links lead to it.
        requests: How often each method and path pattern of the API was called.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:9292") -> None:
        self.base_url = base_url
        self.skew = timedelta(0)
        self.job_lag = timedelta(0)
        self.old_webhooks = False
        self.makes_orphans = False
        self.rate_limited = 0
        self.failures: list[int] = []
        self.requests: Counter[str] = Counter()
        self.polls: dict[int, Poll] = {}
        self.discussions: dict[int, dict[str, Any]] = {}
        self.chatbots: list[dict[str, Any]] = []
        self.members = [
            (501, "Ada Example", "ada", True),
            (502, "Grace Sample", "grace", False),
            (503, "Linus Placeholder", "linus", False),
            (504, "Mary Model", "mary", False),
        ]
        self._next = 300
        self._sending: set[asyncio.Task[None]] = set()
        self.app = _application(self)

    def now(self) -> datetime:
        """The twin's clock."""
        return datetime.now(UTC) + self.skew

    def new_id(self) -> int:
        """A fresh id."""
        self._next += 1
        return self._next

    def find(self, name: str) -> Poll | None:
        """Find a poll by id or key; a discarded one is not found."""
        for poll in self.polls.values():
            if name in (str(poll.id), poll.key) and poll.discarded_at is None:
                return poll
        return None

    def expire(self) -> None:
        """Close what is past its closing time, as the platform's background job does."""
        for poll in self.polls.values():
            due = poll.closing_at is not None and poll.closing_at + self.job_lag <= self.now()
            if due and poll.closed_at is None and poll.discarded_at is None:
                poll.closed_at = self.now()
                self.announce("poll_expired", poll)

    def announce(self, kind: str, poll: Poll) -> None:
        """Send a webhook to each chatbot that wants this kind; nobody looks at the answer."""
        title = poll.fields["title"]
        link = f"{self.base_url}/p/{poll.key}/{re.sub(r'[^a-z0-9]+', '-', title.lower())}"
        body = {
            "text": f"Grace Sample {kind.replace('_', ' ')}: [{title}]({link})\n\n# {title}\n",
            "icon_url": f"{self.base_url}/theme/icon.png",
            "username": "Loomio",
        }
        if self.old_webhooks:
            body |= {"kind": kind, "url": link, "title": title, "group_name": "Example Org"}
        for chatbot in self.chatbots:
            if kind in chatbot["event_kinds"]:
                task = asyncio.create_task(_send(chatbot["server"], body))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    def vote(self, key: str, user: int, choices: dict[str, int]) -> None:
        """Cast, or change, a member's vote.

        Args:
            key: The poll's key.
            user: The member's id.
            choices: Score by option name.

        Raises:
            KeyError: There is no such poll or option.
            ValueError: The poll is closed.
        """
        poll = self.find(key)
        if poll is None:
            raise KeyError(key)
        if poll.closed_at is not None:
            raise ValueError("the poll is closed")
        by_name = {name.lower(): option for option, name in poll.options}
        kind = "stance_updated" if user in poll.votes else "stance_created"
        poll.votes[user] = {by_name[name.lower()]: score for name, score in choices.items()}
        self.announce(kind, poll)

    def close(self, key: str) -> None:
        """Close a poll early, as a member does in the browser.

        Args:
            key: The poll's key.

        Raises:
            KeyError: There is no such poll.
        """
        poll = self.find(key)
        if poll is None:
            raise KeyError(key)
        poll.closed_at = self.now()
        self.announce("poll_closed_by_user", poll)


async def _send(url: str, body: dict[str, Any]) -> None:
    async with httpx.AsyncClient(timeout=5) as client:
        try:
            await client.post(url, json=body)
        except httpx.HTTPError:
            return  # The platform only makes a note of it.


def _application(twin: LoomioTwin) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async def job() -> None:
            while True:
                await asyncio.sleep(0.1)
                twin.expire()

        task = asyncio.create_task(job())
        yield
        task.cancel()

    app = FastAPI(title="Loomio twin", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def gate(request: Request, call_next: Any) -> Response:
        if not request.url.path.startswith("/api/b2"):
            answer: Response = await call_next(request)
            return answer
        path = re.sub(r"/(\d+|polKEY\w+)(?=/|$)", "/{id}", request.url.path)
        twin.requests[f"{request.method} {path}"] += 1
        if twin.rate_limited > 0:
            twin.rate_limited -= 1
            return PlainTextResponse("Retry later", 429)
        if twin.failures:
            return HTMLResponse("<title>Sorry, something went wrong</title>", twin.failures.pop(0))
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not key and "api_key" not in request.query_params:
            body = await _json(request)
            key = str(body.get("api_key", ""))
        if key != API_KEY:
            told = {"error": "You are not authorized to access this page."}
            return JSONResponse(told, 403)
        answer = await call_next(request)
        return answer

    _platform(app, twin)
    _members(app, twin)
    return app


def _platform(app: FastAPI, twin: LoomioTwin) -> None:
    """The b2 API."""

    @app.get("/api/b2/groups/{name}")
    async def get_group(name: str) -> Response:
        if name not in (str(GROUP), "example"):
            return JSONResponse({"error": "Not authorized to show Group."}, 403)
        group = {"id": GROUP, "key": "grpKEY01", "handle": "example", "name": "Example Org"}
        return JSONResponse({"groups": [group], "meta": {"root": "groups"}})

    @app.get("/api/b2/memberships")
    async def list_memberships(group_id: int, limit: int = 50, offset: int = 0) -> Response:
        members = twin.members if group_id == GROUP else []
        page = members[offset : offset + limit]
        return JSONResponse(
            {
                "memberships": [_membership(twin, group_id, *m) for m in page],
                "users": [_user(*m) for m in page],
                "meta": {"root": "memberships", "total": len(members)},
            }
        )

    @app.post("/api/b2/discussions")
    async def create_discussion(request: Request) -> Response:
        fields = (await _json(request)).get("discussion")
        if not isinstance(fields, dict) or set(fields) - DISCUSSION_FIELDS:
            return JSONResponse({"error": 400}, 400)
        if not fields.get("title"):
            return JSONResponse({"errors": {"title": ["can't be blank"]}}, 422)
        if fields.get("group_id") != GROUP:
            return JSONResponse({"error": "Not authorized to create Discussion."}, 403)
        number = twin.new_id()
        discussion = {
            "id": number,
            "key": f"disKEY{number}",
            "topic_id": twin.new_id(),
            "group_id": GROUP,
            "title": fields["title"],
            "description": fields.get("description", ""),
            "description_format": fields.get("description_format", "md"),
            "private": fields.get("private", True),
            "author_id": BOT_USER,
            "created_at": _time(twin.now()),
        }
        twin.discussions[number] = discussion
        return JSONResponse({"discussions": [discussion], "meta": {"root": "discussions"}})

    @app.post("/api/b2/polls")
    async def create_poll(request: Request) -> Response:
        body = await _json(request)
        fields = body.get("poll")
        flat = not isinstance(fields, dict) or twin.makes_orphans
        if flat:
            # Rails wraps the columns only: what is left has neither group nor options.
            given = fields if isinstance(fields, dict) else body
            fields = {k: v for k, v in given.items() if k in POLL_FIELDS - {"options", "group_id"}}
        assert isinstance(fields, dict)
        refused = None if flat else _refusal(twin, fields)
        if refused is not None:
            return refused
        number = twin.new_id()
        closing = _moment(fields.get("closing_at"))
        poll = Poll(
            id=number,
            key=f"polKEY{number}",
            fields=fields,
            group_id=None if flat else GROUP,
            topic_id=fields.get("topic_id") or twin.new_id(),
            options=[(twin.new_id(), _label(name)) for name in fields.get("options", [])],
            closing_at=_on_the_hour(closing) if closing else None,
            created_at=twin.now(),
        )
        twin.polls[number] = poll
        twin.announce("poll_created", poll)
        return JSONResponse(_answer(twin, poll))

    @app.get("/api/b2/polls/{name}")
    async def get_poll(name: str) -> Response:
        poll = twin.find(name)
        return JSONResponse(_answer(twin, poll)) if poll else JSONResponse({"error": 404}, 404)

    @app.get("/api/b2/polls")
    async def list_polls(group_id: int, status: str = "active") -> Response:
        closed = {"active": [False], "closed": [True], "all": [True, False]}[status]
        rows = [
            _poll(twin, poll)
            for poll in twin.polls.values()
            if poll.group_id == group_id
            and poll.discarded_at is None
            and (poll.closed_at is not None) in closed
        ]
        return JSONResponse({"polls": rows, "meta": {"root": "polls", "total": len(rows)}})

    @app.patch("/api/b2/polls/{name}")
    async def update_poll(name: str, request: Request) -> Response:
        poll = twin.find(name)
        if poll is None:
            return JSONResponse({"error": 404}, 404)
        fields = (await _json(request)).get("poll")
        if not isinstance(fields, dict) or set(fields) - POLL_FIELDS:
            return JSONResponse({"error": 400}, 400)
        if "closing_at" in fields:
            closing = _moment(fields["closing_at"])
            if closing is None or _on_the_hour(closing) <= twin.now():
                return JSONResponse({"errors": {"closing_at": ["must be in the future"]}}, 422)
            poll.closing_at = _on_the_hour(closing)
        twin.announce("poll_edited", poll)
        return JSONResponse(_answer(twin, poll))

    @app.delete("/api/b2/polls/{name}")
    async def discard_poll(name: str) -> Response:
        poll = twin.find(name)
        if poll is None:
            return JSONResponse({"error": 404}, 404)
        poll.discarded_at = twin.now()
        return JSONResponse(_answer(twin, poll))

    @app.post("/api/b2/chatbots")
    async def create_chatbot(request: Request) -> Response:
        body = await _json(request)
        chatbot = {"id": twin.new_id(), "event_kinds": EVENT_KINDS, **body}
        twin.chatbots.append(chatbot)
        return JSONResponse({"chatbots": [chatbot], "meta": {"root": "chatbots"}})


def _members(app: FastAPI, twin: LoomioTwin) -> None:
    """What people do in their browsers."""

    @app.get("/")
    async def page() -> Response:
        rows = "".join(
            f"<li><b>{_escape(poll.fields['title'])}</b> "
            f"({'closed' if poll.closed_at else 'open'}, {len(poll.votes)} votes) "
            + "".join(
                f"<form method=post action='/sandbox/polls/{poll.key}/vote/502/{option}'>"
                f"<button>Grace: {_escape(name)}</button></form>"
                for option, name in poll.options
            )
            + f"<form method=post action='/sandbox/polls/{poll.key}/close'>"
            "<button>Close early</button></form></li>"
            for poll in twin.polls.values()
            if poll.discarded_at is None
        )
        return HTMLResponse(f"<!doctype html><title>Loomio twin</title><ul>{rows}</ul>")

    @app.post("/sandbox/polls/{key}/vote")
    async def vote(key: str, request: Request) -> Response:
        body = await _json(request)
        try:
            twin.vote(key, body["user"], body.get("choices") or {body["option"]: 1})
        except (KeyError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 422)
        return JSONResponse({})

    @app.post("/sandbox/polls/{key}/vote/{user}/{option}")
    async def press(key: str, user: int, option: int) -> Response:
        poll = twin.find(key)
        if poll is not None and poll.closed_at is None:
            twin.vote(key, user, {dict(poll.options)[option]: 1})
        return RedirectResponse("/", 303)

    @app.post("/sandbox/polls/{key}/close")
    async def close(key: str) -> Response:
        try:
            twin.close(key)
        except KeyError:
            return JSONResponse({"error": 404}, 404)
        return RedirectResponse("/", 303)

    @app.post("/sandbox/clock")
    async def clock(request: Request) -> Response:
        twin.skew += timedelta(seconds=(await _json(request))["advance_seconds"])
        return JSONResponse({"now": _time(twin.now())})


def _refusal(twin: LoomioTwin, fields: dict[str, Any]) -> Response | None:
    """What the platform answers to a poll that it will not create."""
    kind = fields.get("poll_type")
    if set(fields) - POLL_FIELDS or kind not in POLL_TYPES:
        return JSONResponse({"error": 400}, 400)
    wrong: dict[str, list[str]] = {}
    if not fields.get("title"):
        wrong["title"] = ["can't be blank"]
    options = fields.get("options") or []
    if len(options) < LEAST_OPTIONS.get(kind, 0):
        wrong["poll_options"] = ["must have at least 2 options"]
    closing = _moment(fields.get("closing_at"))
    if closing is not None and _on_the_hour(closing) <= twin.now():
        wrong["closing_at"] = ["must be in the future"]
    if fields.get("anonymous"):
        if kind in NEVER_ANONYMOUS:
            wrong["anonymous"] = ["is not allowed for this poll type"]
        if closing is None:
            wrong["closing_at"] = ["can't be blank"]
        fields["hide_results"] = "until_closed"
    if wrong:
        return JSONResponse({"errors": wrong}, 422)
    known_topics = [d["topic_id"] for d in twin.discussions.values()]
    if fields.get("group_id") != GROUP and fields.get("topic_id") not in known_topics:
        return JSONResponse({"error": "Not authorized to create Poll."}, 403)
    return None


def _answer(twin: LoomioTwin, poll: Poll) -> dict[str, Any]:
    return {
        "polls": [_poll(twin, poll)],
        "poll_options": [
            {"id": number, "poll_id": poll.id, "name": name, "priority": place}
            for place, (number, name) in enumerate(poll.options)
        ],
        "users": [_user(*twin.members[1])],
        "outcomes": [],
        "meta": {"root": "polls"},
    }


def _poll(twin: LoomioTwin, poll: Poll) -> dict[str, Any]:
    fields = poll.fields
    voters, cast = len(twin.members) - 1, len(poll.votes)
    gone = poll.discarded_at is not None
    answer = {
        "id": poll.id,
        "key": poll.key,
        "poll_type": fields.get("poll_type", "proposal"),
        "title": None if gone else fields.get("title"),
        "details": fields.get("details"),
        "details_format": fields.get("details_format", "md"),
        "group_id": poll.group_id,
        "topic_id": poll.topic_id,
        "author_id": BOT_USER,
        "anonymous": bool(fields.get("anonymous")),
        "voting_system": "stance",
        "hide_results": fields.get("hide_results", "off"),
        "specified_voters_only": bool(fields.get("specified_voters_only")),
        "closing_at": _time(poll.closing_at),
        "closed_at": _time(poll.closed_at),
        "opening_at": None,
        "opened_at": _time(poll.created_at) if poll.closing_at else None,
        "created_at": _time(poll.created_at),
        "cast_stances_pct": round(100 * cast / voters),
        "decided_voters_count": cast,
        "undecided_voters_count": voters - cast,
        "voters_count": voters,
        "poll_option_names": [name for _, name in poll.options],
        "poll_option_ids": [number for number, _ in poll.options],
        "quorum_pct": fields.get("quorum_pct"),
        "discarded_at": _time(poll.discarded_at),
    }
    hidden = answer["hide_results"] == "until_closed" and poll.closed_at is None
    if not hidden and not gone and poll.group_id is not None:
        results = _results(twin, poll)
        tallied = [row for row in results if row["id"] > 0]
        answer["results"] = results
        answer["stance_counts"] = [row["score"] for row in tallied]
        answer["total_score"] = sum(row["score"] for row in tallied)
    return answer


def _results(twin: LoomioTwin, poll: Poll) -> list[dict[str, Any]]:
    rows = []
    for number, name in poll.options:
        scores = {user: v[number] for user, v in poll.votes.items() if number in v}
        rows.append(_result(poll, number, name, scores))
    if poll.fields.get("poll_type") not in BY_PRIORITY:
        rows.sort(key=lambda row: -row["score"])
    for rank, row in enumerate(rows, 1):
        row["rank"] = rank
    total = sum(row["score"] for row in rows)
    best = max((row["score"] for row in rows), default=0)
    for row in rows:
        row["score_percent"] = 100 * row["score"] / total if total else 0.0
        row["max_score_percent"] = 100 * row["score"] / best if best else 0.0
    undecided = [m[0] for m in twin.members[1:] if m[0] not in poll.votes]
    rest = _result(poll, -1, "poll_common_votes_panel.undecided", {})
    rest |= {"voter_ids": undecided, "voter_count": len(undecided), "rank": None}
    return [*rows, rest]


def _result(poll: Poll, number: int, name: str, scores: dict[int, int]) -> dict[str, Any]:
    anonymous = bool(poll.fields.get("anonymous"))
    return {
        "id": number,
        "poll_id": poll.id,
        "name": name,
        "name_format": "plain",
        "icon": None,
        "rank": None,
        "score": sum(scores.values()),
        "target_percent": 0,
        "score_percent": None,
        "max_score_percent": 0,
        "voter_percent": 0.0,
        "average": sum(scores.values()) / len(scores) if scores else 0,
        "voter_scores": {} if anonymous else {str(user): s for user, s in scores.items()},
        "voter_ids": [] if anonymous else list(scores),
        "voter_count": len(scores),
        "color": "#70C9F8",
        "test_operator": None,
        "test_against": None,
        "test_percent": None,
        "test_result": None,
    }


def _membership(
    twin: LoomioTwin, group: int, number: int, name: str, username: str, bot: bool
) -> dict[str, Any]:
    return {
        "id": 9000 + number,
        "group_id": group,
        "user_id": number,
        "inviter_id": 502,
        "admin": number == 502,
        "delegate": False,
        "experiences": {},
        "title": None,
        "created_at": "2026-05-27T13:18:28.444Z",
        "accepted_at": None if number == 504 else "2026-05-27T13:18:57.456Z",
        "user_email": f"{username}@example.org",
    }


def _user(number: int, name: str, username: str, bot: bool) -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "username": username,
        "time_zone": "UTC",
        "locale": "en",
        "created_at": "2024-10-19T02:52:23.311Z",
        "titles": {},
        "delegates": {},
        "email_verified": True,
        "bot": bot,
    }


def _label(name: str) -> str:
    return name.capitalize() if name in RELABELLED else name


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&#39;")


def _on_the_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _moment(text: Any) -> datetime | None:
    if not isinstance(text, str) or not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _time(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def main(port: int = 9292) -> None:
    """Run the twin on loopback, to vote by hand at its first page."""
    twin = LoomioTwin(f"http://127.0.0.1:{port}")
    typer.echo(f"Loomio twin: {twin.base_url}  API key: {API_KEY}  group: {GROUP}")
    uvicorn.run(twin.app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    typer.run(main)
