"""The Open Collective twin over HTTP: its gate (token, limits, faults), GraphQL, members' page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from graphql import (
    GraphQLError,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    execute_sync,
    parse,
    validate,
)

from sandbox.opencollective.models import EMOJI, Conversation
from sandbox.opencollective.resolvers import Resolvers
from sandbox.opencollective.schema import SCHEMA
from sandbox.opencollective.state import OpenCollectiveTwin
from sandbox.people import Form, act, broken, clock, is_for_people, page
from sandbox.serving import new_app, served_twin

WAIT_SECONDS = 60
TOO_MANY = "Rate limit exceeded. Create a Personal Token to get higher limits."

Twin = Annotated[OpenCollectiveTwin, Depends(served_twin)]

router = APIRouter()


def create_app(twin: OpenCollectiveTwin) -> FastAPI:
    """Make the twin's application.

    Args:
        twin: What it serves.

    Returns:
        The application.
    """
    app = new_app(twin, "Open Collective twin")
    app.middleware("http")(gate)
    app.include_router(router)
    app.include_router(clock)
    return app


async def gate(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Let through what is below the limits and has no wrong token."""
    if is_for_people(request):
        return await call_next(request)
    twin: OpenCollectiveTwin = request.app.state.twin
    if twin.rate_limited > 0:
        twin.rate_limited -= 1
        body = {"error": {"message": TOO_MANY}}
        return JSONResponse(body, 429, {"Retry-After": str(WAIT_SECONDS)})
    if twin.failures:
        return broken(twin.failures.pop(0))
    if request.headers.get("personal-token", twin.token) != twin.token:
        reason = "Invalid personal token"
        return JSONResponse({"error": {"message": reason, "code": "InvalidToken"}}, 401)
    answer = await call_next(request)
    return broken(twin.late_failures.pop(0)) if twin.late_failures else answer


@router.post("/graphql/v2")
async def graphql(
    request: Request, body: Annotated[dict[str, Any], Body()], twin: Twin
) -> Response:
    """The one route of the API."""
    try:
        document = parse(str(body.get("query")))
    except GraphQLSyntaxError as error:
        return _invalid([error], "GRAPHQL_PARSE_FAILED")
    errors = validate(SCHEMA, document)
    if errors:
        return _invalid(errors, "GRAPHQL_VALIDATION_FAILED")
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            twin.requests[definition.name.value if definition.name else ""] += 1
    known = request.headers.get("personal-token") == twin.token
    result = execute_sync(
        SCHEMA,
        document,
        Resolvers(twin).root,
        context_value=known,
        variable_values=body.get("variables") or {},
    )
    if result.data is None and result.errors and all(e.path is None for e in result.errors):
        return _invalid(result.errors, "BAD_USER_INPUT")
    return JSONResponse(result.formatted)


@router.get("/")
async def first_page(twin: Twin) -> Response:
    """The members' page: the conversations, with buttons."""
    cards = [_card(twin, conversation) for conversation in twin.conversations.values()]
    expenses = [
        f"<p>{escape(e.description)}: ${e.amount / 100:.2f}, {e.status.lower()}</p>"
        for e in twin.expenses.values()
    ]
    return page(
        twin,
        "Open Collective",
        *(cards or ["<p>No conversations yet.</p>"]),
        "<h2>Expenses</h2>",
        *expenses,
        f"<form method=post action=/sandbox/expenses>{_who(twin)} "
        "<input name=description placeholder='What for'> "
        "<input name=amount type=number min=1 placeholder=Cents> <button>File</button></form>",
    )


@router.post("/sandbox/conversations/{conversation_id}/react")
async def react(conversation_id: str, form: Form, twin: Twin) -> Response:
    """React, or take a reaction back."""
    return act(
        lambda: twin.react(
            form["username"],
            twin.conversations[conversation_id].body,
            form["emoji"],
            "remove" in form,
        )
    )


@router.post("/sandbox/conversations/{conversation_id}/comment")
async def comment(conversation_id: str, form: Form, twin: Twin) -> Response:
    """Comment on a conversation."""
    return act(
        lambda: twin.comment(form["username"], twin.conversations[conversation_id], form["html"])
    )


@router.post("/sandbox/conversations/{conversation_id}/delete")
async def delete(conversation_id: str, twin: Twin) -> Response:
    """Delete a conversation."""
    return act(lambda: twin.conversations.pop(conversation_id))


@router.post("/sandbox/expenses")
async def file_expense(form: Form, twin: Twin) -> Response:
    """File an expense."""
    return act(
        lambda: twin.file_expense(form["username"], form["description"], int(form["amount"]))
    )


@router.post("/sandbox/updates")
async def publish_update(form: Form, twin: Twin) -> Response:
    """Publish an update."""
    return act(lambda: twin.publish(form["username"], form["title"], form["html"]))


@router.post("/sandbox/members")
async def join(form: Form, twin: Twin) -> Response:
    """Take somebody in."""
    return act(lambda: twin.join(form["slug"]))


def _invalid(errors: list[GraphQLError] | list[GraphQLSyntaxError], code: str) -> Response:
    answers = [error.formatted | {"extensions": {"code": code}} for error in errors]
    return JSONResponse({"errors": answers}, 400)


def _who(twin: OpenCollectiveTwin) -> str:
    names = "".join(f"<option>{escape(member.slug)}</option>" for member in twin.members)
    return f"<select name=username>{names}</select>"


def _card(twin: OpenCollectiveTwin, conversation: Conversation) -> str:
    action = f"/sandbox/conversations/{conversation.id}"
    given = " ".join(f"{emoji} {len(who)}" for emoji, who in conversation.body.reactions.items())
    emoji = "".join(f"<option>{e}</option>" for e in EMOJI)
    comments = "".join(f"<li>{escape(c.author)}: {c.html}</li>" for c in conversation.comments)
    return (
        f"<section><h2>{escape(conversation.title)}</h2>{conversation.body.html}<p>{given}</p>"
        f"<form method=post action={action}/react>{_who(twin)} <select name=emoji>{emoji}</select> "
        f"<button>React</button> <button name=remove value=1>Take back</button></form>"
        f"<ul>{comments}</ul><form method=post action={action}/comment>{_who(twin)} "
        f"<input name=html placeholder=Comment> <button>Comment</button></form>"
        f"<form method=post action={action}/delete><button>Delete</button></form></section>"
    )
