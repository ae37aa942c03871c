"""Errors as ``application/problem+json`` (RFC 9457): the one renderer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DatabaseError
from starlette.exceptions import HTTPException

from engine.errors import (
    BadRequestError,
    EngineError,
    ResourceNotFoundError,
    UnavailableError,
    Violation,
    describe,
)
from engine.store.database import OUTAGE_ERRORS, is_outage

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "The sentence for the person who reads it."},
        "errors": {
            "type": "array",
            "description": "The places that were wrong, as JSON Pointers.",
            "items": {
                "type": "object",
                "required": ["path", "message"],
                "properties": {"path": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}


def problem(described: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Render an error.

    Args:
        described: What ``engine.errors.describe`` made of it.
        headers: Further response headers.

    Returns:
        The response.
    """
    body: dict[str, Any] = {
        "type": f"urn:metagov:problem:{described['kind']}",
        "title": described["title"],
        "status": described["status"],
        "detail": described["detail"],
    }
    if "errors" in described:
        body["errors"] = described["errors"]
    sent = dict(headers or {})
    retry_after = described.get("retry_after_seconds")
    if retry_after is None and described["status"] == UnavailableError.status:
        retry_after = RETRY_AFTER_SECONDS
    if retry_after is not None:
        sent["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return Response(
        json.dumps(body), status_code=described["status"], media_type=MEDIA_TYPE, headers=sent
    )


def install_problem_handlers(app: FastAPI) -> None:
    """Have every error of an application rendered as a problem.

    Args:
        app: The application.
    """

    @app.exception_handler(EngineError)
    async def engine_error(request: Request, error: EngineError) -> Response:
        return problem(describe(error))

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        violations = [
            Violation("/" + "/".join(str(part) for part in item["loc"][1:]), str(item["msg"]))
            for item in error.errors()
        ]
        places = "; ".join(f"{v.path[1:]}: {v.message}" for v in violations)
        return problem(describe(BadRequestError(places, violations)))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return problem(describe(ResourceNotFoundError("There is nothing at this address")))
        described = {
            "kind": "http",
            "title": str(error.detail),
            "status": error.status_code,
            "detail": f"{error.detail}: {request.method} {request.url.path}",
        }
        return problem(described, error.headers)

    async def outage(request: Request, error: Exception) -> Response:
        return problem(describe(UnavailableError("The database does not answer; try again")))

    async def database_error(request: Request, error: Exception) -> Response:
        if not is_outage(error):
            raise error
        return await outage(request, error)

    for kind in (*OUTAGE_ERRORS, DatabaseError):
        app.add_exception_handler(kind, database_error)

    @app.exception_handler(Exception)
    async def any_error(request: Request, error: Exception) -> Response:
        if is_outage(error):
            return await outage(request, error)
        return problem(describe(EngineError("The engine failed; see its log")))


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document problems for a route.

    Args:
        statuses: The HTTP statuses.

    Returns:
        What FastAPI's ``responses`` takes.
    """
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": "Problem", "content": {MEDIA_TYPE: reference}}
        for status in statuses
    }
