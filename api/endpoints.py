"""Endpoints: secrets for the addresses of drivers, and those that are disabled."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter
from sqlalchemy.exc import IntegrityError

from api.dependencies import EngineDependency, JsonObject
from api.problems import problem_responses
from engine.errors import (
    BadRequestError,
    ConflictError,
    OutboundRefusedError,
    ResourceNotFoundError,
    Violation,
)
from engine.requests.documents import check
from engine.resources import Engine, endpoint_secrets, new_webhook_secret, webhook_secret_problem
from engine.store import endpoints
from engine.store.database import utc_now
from engine.store.endpoints import Endpoint

router = APIRouter(prefix="/api/internal/endpoints", tags=["endpoints"])

SECRET = {"type": "string", "description": "whsec_ and 24 to 64 bytes in base64."}
NEW_ENDPOINT: dict[str, Any] = {
    "type": "object",
    "properties": {"url": {"type": "string"}, "secret": SECRET},
    "required": ["url"],
    "additionalProperties": False,
}
ROTATION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "secret": SECRET,
        "overlap_hours": {"type": "number", "minimum": 0, "maximum": 720, "default": 24},
    },
    "additionalProperties": False,
}


@router.get("", summary="List endpoints")
async def list_endpoints(engine: EngineDependency) -> dict[str, Any]:
    """Those that were registered, and addresses that are disabled since they answered 410."""
    async with engine.database.read() as session:
        rows = await endpoints.all_endpoints(session)
    return {"endpoints": [_shown(row) for row in rows]}


@router.post(
    "",
    status_code=201,
    summary="Register an endpoint with a secret of its own",
    responses=problem_responses(400, 409, 413, 415),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": NEW_ENDPOINT}}}
    },
)
async def create_endpoint(body: JsonObject, engine: EngineDependency) -> dict[str, Any]:
    """The secret signs deliveries to this address and all below it. It is shown this once."""
    check(body, NEW_ENDPOINT)
    url, secret = body["url"], _secret(body)
    try:
        engine.outbound.check_url(url)
    except OutboundRefusedError as error:
        raise BadRequestError(f"/url: {error.detail}", [Violation("/url", error.detail)]) from None
    kept = engine.secrets.encrypt([{"secret": secret, "until": None}])
    try:
        async with engine.database.write() as session:
            row = await endpoints.find_endpoint(session, url)
            if row is not None and row.secrets_encrypted is not None:
                raise ConflictError(f"There is an endpoint for this URL already: {row.id}")
            if row is None:
                row = Endpoint(url=url)
                session.add(row)
            row.secrets_encrypted, row.updated_at = kept, utc_now()
    except IntegrityError:
        raise ConflictError("There is an endpoint for this URL already") from None
    return {**_shown(row), "secret": secret}


@router.get("/{endpoint_id}", summary="Read an endpoint", responses=problem_responses(404))
async def get_endpoint(endpoint_id: str, engine: EngineDependency) -> dict[str, Any]:
    """Without its secrets."""
    return _shown(await _get(engine, endpoint_id))


@router.post(
    "/{endpoint_id}/rotate-secret",
    summary="Give an endpoint a new secret",
    responses=problem_responses(400, 404, 413, 415),
    openapi_extra={
        "requestBody": {"content": {"application/json": {"schema": ROTATION}}},
    },
)
async def rotate_secret(
    endpoint_id: str, body: JsonObject, engine: EngineDependency
) -> dict[str, Any]:
    """Deliveries are signed with both, until the hours of overlap are over."""
    check(body, ROTATION)
    secret = _secret(body)
    until = utc_now() + timedelta(hours=body.get("overlap_hours", 24))
    await _get(engine, endpoint_id)
    async with engine.database.write() as session:
        row = await session.get_one(Endpoint, endpoint_id, with_for_update=True)
        kept: list[dict[str, Any]] = [{"secret": secret, "until": None}]
        # The newest of the old ones only: no more than two are valid at a time.
        kept += [
            {"secret": old, "until": until.isoformat()} for old in endpoint_secrets(engine, row)[:1]
        ]
        row.secrets_encrypted, row.updated_at = engine.secrets.encrypt(kept), utc_now()
    return {**_shown(row), "secret": secret}


@router.post(
    "/{endpoint_id}/enable",
    summary="Enable an endpoint that answered 410",
    responses=problem_responses(404),
)
async def enable_endpoint(endpoint_id: str, engine: EngineDependency) -> dict[str, Any]:
    """What failed meanwhile is sent again on request only."""
    await _get(engine, endpoint_id)
    async with engine.database.write() as session:
        row = await session.get_one(Endpoint, endpoint_id)
        row.disabled_at, row.updated_at = None, utc_now()
    return _shown(row)


@router.delete(
    "/{endpoint_id}",
    status_code=204,
    summary="Forget an endpoint",
    responses=problem_responses(404),
)
async def delete_endpoint(endpoint_id: str, engine: EngineDependency) -> None:
    """Deliveries to its address are signed with the engine's own secret then."""
    await _get(engine, endpoint_id)
    async with engine.database.write() as session:
        row = await session.get(Endpoint, endpoint_id)
        if row is not None:
            await session.delete(row)


async def _get(engine: Engine, endpoint_id: str) -> Endpoint:
    async with engine.database.read() as session:
        row = await endpoints.get_endpoint(session, endpoint_id)
    if row is None:
        raise ResourceNotFoundError(f"No endpoint {endpoint_id:.64}")
    return row


def _secret(body: dict[str, Any]) -> str:
    if "secret" not in body:
        return new_webhook_secret()
    secret: str = body["secret"]
    problem = webhook_secret_problem(secret)
    if problem:
        raise BadRequestError(f"/secret: {problem}", [Violation("/secret", problem)])
    return secret


def _shown(row: Endpoint) -> dict[str, Any]:
    return {
        "id": row.id,
        "url": row.url,
        "has_secret": row.secrets_encrypted is not None,
        "status": "disabled" if row.disabled_at else "enabled",
        "disabled_at": row.disabled_at.isoformat() if row.disabled_at else None,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
    }
