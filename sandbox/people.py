"""Where people act on a twin: the frame of its page, its forms, and its clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.datastructures import ImmutableMultiDict

from sandbox.serving import served_twin
from sandbox.twin import RefusedError, Twin


async def read_form(request: Request) -> ImmutableMultiDict[str, str]:
    """Read what a form has sent."""
    return ImmutableMultiDict(parse_qsl((await request.body()).decode()))


Form = Annotated[ImmutableMultiDict[str, str], Depends(read_form)]

clock = APIRouter()


@clock.post("/sandbox/clock")
async def advance_clock(form: Form, twin: Annotated[Twin, Depends(served_twin)]) -> Response:
    """Put the twin's clock forward, by ``advance_seconds``."""

    def advance() -> None:
        twin.skew += timedelta(seconds=float(form["advance_seconds"]))
        twin.expire()

    return act(advance)


def is_for_people(request: Request) -> bool:
    """Whether a request is no part of the platform's API."""
    return request.url.path == "/" or request.url.path.startswith("/sandbox/")


def page(twin: Twin, name: str, *parts: str) -> Response:
    """Make a twin's page.

    Args:
        twin: The twin.
        name: Its platform's name.
        parts: HTML of what is on it.

    Returns:
        The page, with the time that it is on the twin.
    """
    return HTMLResponse(
        f"<!doctype html><meta charset=utf-8><title>{name} twin</title>"
        "<style>body{font:1rem sans-serif;max-width:45rem;margin:2rem auto}</style>"
        f"<h1>{name} twin</h1><p>It is {twin.now():%F %T} UTC here.</p>{''.join(parts)}"
    )


def act(does: Callable[[], object]) -> Response:
    """Do what a person asks for.

    Args:
        does: The deed.

    Returns:
        Back to the page; 404 for what is not there, or a field that is missing, 422 with the
        reason for what the platform does not do.
    """
    try:
        does()
    except KeyError as error:
        return JSONResponse({"errors": [f"There is none, or no such field: {error}"]}, 404)
    except (RefusedError, ValueError) as error:
        return JSONResponse({"errors": [str(error)]}, 422)
    return RedirectResponse("/", 303)


def broken(status: int) -> Response:
    """A failure as platforms have them: a page where JSON was asked for."""
    return HTMLResponse("<!doctype html><title>Oops</title><p>It has failed.", status)
