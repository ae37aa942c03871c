"""What is no part of Loomio's API: members at their browsers, the clock, faults, the log."""

from __future__ import annotations

from datetime import timedelta
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from sandbox.loomio.bodies import Fields, refused
from sandbox.loomio.polls import Member, Poll, as_text, moment
from sandbox.loomio.state import LoomioTwin
from sandbox.serving import served_twin

_LONGEST_DELAY_SECONDS = 120.0

Twin = Annotated[LoomioTwin, Depends(served_twin)]

router = APIRouter()


@router.get("/")
async def first_page(twin: Twin) -> Response:
    """The polls, with buttons."""
    polls = [poll for poll in list(twin.polls.values()) if poll.discarded_at is None]
    return HTMLResponse(_page(twin, polls))


@router.get("/p/{key}")
@router.get("/p/{key}/{slug}")
async def poll_page(key: str, twin: Twin, slug: str = "") -> Response:
    """The page that a link leads to: a poll, with buttons."""
    poll = twin.find(key)
    return HTMLResponse(_page(twin, [poll] if poll else []), 200 if poll else 404)


@router.post("/sandbox/polls/{key}/vote")
async def vote(key: str, body: Fields, request: Request, twin: Twin) -> Response:
    """Vote, or change a vote."""
    if twin.find(key) is None:
        return refused(404)
    try:
        choices = body.get("choices") or {str(body["option"]): 1}
        scores = {str(option): int(score) for option, score in choices.items()}
        twin.vote(key, int(body["user"]), scores, str(body.get("reason") or ""))
    except KeyError as error:
        return refused(422, f"no such thing: {error}; a vote has user, option (or choices)")
    except (TypeError, ValueError, AttributeError) as error:
        return refused(422, str(error))
    return _done(request)


@router.post("/sandbox/polls/{key}/close")
async def close(key: str, request: Request, twin: Twin) -> Response:
    """Close a poll early."""
    return _act(twin, key, request, twin.close)


@router.post("/sandbox/polls/{key}/reopen")
async def reopen(key: str, body: Fields, request: Request, twin: Twin) -> Response:
    """Open a closed poll again."""
    closing_at = moment(body.get("closing_at"))
    return _act(twin, key, request, lambda name: twin.reopen(name, closing_at))


@router.post("/sandbox/clock")
async def advance_clock(body: Fields, request: Request, twin: Twin) -> Response:
    """Put the clock forward, and set how late the background job is."""
    try:
        twin.skew += timedelta(seconds=float(body.get("advance_seconds", 0)))
        if "job_lag_seconds" in body:
            twin.job_lag = timedelta(seconds=float(body["job_lag_seconds"]))
    except (TypeError, ValueError, OverflowError):
        return refused(422, "advance_seconds and job_lag_seconds are numbers of seconds")
    twin.expire()
    return _done(request, {"now": as_text(twin.now())})


@router.post("/sandbox/webhooks")
async def add_webhook(body: Fields, twin: Twin) -> Response:
    """Send webhooks to an address."""
    server = body.get("url") or body.get("server")
    if not isinstance(server, str):
        return refused(422, "url is the address that webhooks are sent to")
    known = ("event_kinds", "webhook_kind")
    more = {name: body[name] for name in known if name in body}
    return JSONResponse(twin.add_chatbot({"server": server, **more}))


@router.post("/sandbox/faults")
async def add_faults(body: Fields, twin: Twin) -> Response:
    """Have the next requests fail, or take long."""
    try:
        count, status = int(body.get("count", 1)), int(body.get("status", 500))
        delay = float(body.get("delay_seconds", 0))
    except (TypeError, ValueError):
        count, status, delay = -1, 0, 0.0
    slow_only = status == 0 or 200 <= status < 300
    if not (0 <= count <= 10_000 and 0 <= delay <= _LONGEST_DELAY_SECONDS) or not (
        slow_only or 400 <= status <= 599
    ):
        return refused(
            422,
            "faults are count (up to 10000), status (400 to 599, or 200 for slow answers "
            f"only) and delay_seconds (up to {_LONGEST_DELAY_SECONDS:g})",
        )
    twin.fail_next(count, status, delay)
    return JSONResponse({"failures": len(twin.failures)})


@router.get("/sandbox/log")
async def log(twin: Twin) -> Response:
    """How often each route of the API was asked."""
    return JSONResponse(dict(twin.requests))


def _act(twin: LoomioTwin, key: str, request: Request, act: Any) -> Response:
    try:
        act(key)
    except KeyError:
        return refused(404)
    except ValueError as error:
        return refused(422, str(error))
    return _done(request)


def _done(request: Request, answer: dict[str, Any] | None = None) -> Response:
    if "html" in request.headers.get("accept", ""):
        return RedirectResponse("/", 303)
    return JSONResponse(answer or {})


def _page(twin: LoomioTwin, polls: list[Poll]) -> str:
    rows = "".join(_card(twin, poll) for poll in polls) or "<p>No polls yet.</p>"
    return (
        "<!doctype html><meta charset=utf-8><title>Loomio twin</title>"
        "<style>body{font:1rem sans-serif;max-width:45rem;margin:2rem auto}form{margin:.5rem 0}"
        "</style><h1>Loomio twin</h1>"
        f"<form method=post action=/sandbox/clock>It is {as_text(twin.now())} here. "
        "<button name=advance_seconds value=3600>One hour later</button> "
        f"<button name=advance_seconds value=86400>One day later</button></form>{rows}"
    )


def _card(twin: LoomioTwin, poll: Poll) -> str:
    action = f"/sandbox/polls/{escape(poll.key)}"
    state = f"closed at {as_text(poll.closed_at)}" if poll.closed_at else (
        f"open until {as_text(poll.closing_at)}" if poll.closing_at else "not open"
    )  # fmt: skip
    text = (
        f"<section><h2>{escape(str(poll.fields['title']))}</h2>"
        f"<p>{escape(str(poll.fields.get('details') or ''))}</p>"
        f"<p>{escape(poll.kind)}, {state}, {len(poll.votes)} votes</p>"
    )
    if poll.closed_at is not None:
        return f"{text}<form method=post action={action}/reopen><button>Reopen</button></form>"
    voters = "".join(
        f"<option value={member.id}>{escape(member.name)}</option>"
        for member in (Member(*m) for m in twin.members)
        if poll.may_vote(member)
    )
    buttons = "".join(
        f'<button name=option value="{escape(option.label)}">{escape(option.label)}</button> '
        for option in poll.options
    )
    return (
        f"{text}<form method=post action={action}/vote><select name=user>{voters}</select> "
        f"<input name=reason placeholder=Reason> {buttons}</form>"
        f"<form method=post action={action}/close><button>Close early</button></form></section>"
    )
