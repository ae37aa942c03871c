"""Endpoints: secrets for the addresses of drivers, and those that are disabled."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from api.dependencies import EngineDependency, body_of, documented
from api.problems import problem_responses
from engine.requests import endpoints
from engine.requests.endpoints import Endpoint

router = APIRouter(prefix="/api/internal/endpoints", tags=["endpoints"])

Secret = Annotated[
    str | SkipJsonSchema[None], Field(description="whsec_ and 24 to 64 bytes in base64.")
]


class NewEndpoint(BaseModel):
    """An endpoint that is registered."""

    model_config = ConfigDict(extra="forbid")

    url: str
    secret: Secret = None


class Rotation(BaseModel):
    """How an endpoint's secret is changed."""

    model_config = ConfigDict(extra="forbid")

    secret: Secret = None
    overlap_hours: Annotated[float, Field(ge=0, le=720)] = 24


class ShownEndpoint(BaseModel):
    """An endpoint, without its secrets."""

    id: str
    url: str
    has_secret: bool
    status: Annotated[str, Field(description="`enabled` or `disabled`.")]
    disabled_at: str | None
    created_at: str
    updated_at: str


class EndpointSecret(ShownEndpoint):
    """An endpoint with its new secret, which is shown this once."""

    secret: str


class EndpointList(BaseModel):
    """Endpoints."""

    endpoints: list[ShownEndpoint]


@router.get("", summary="List endpoints")
async def list_endpoints(engine: EngineDependency) -> EndpointList:
    """Those that were registered, and addresses that are disabled since they answered 410."""
    rows = await endpoints.list_endpoints(engine)
    return EndpointList(endpoints=[_shown(row) for row in rows])


@router.post(
    "",
    status_code=201,
    summary="Register an endpoint with a secret of its own",
    responses=problem_responses(400, 409, 413, 415),
    openapi_extra=documented(NewEndpoint, {"url": "https://driver.example/events"}),
)
async def create_endpoint(
    body: Annotated[NewEndpoint, Depends(body_of(NewEndpoint))], engine: EngineDependency
) -> EndpointSecret:
    """The secret signs deliveries to this address and all below it. It is shown this once."""
    row, secret = await endpoints.create(engine, body.url, body.secret)
    return EndpointSecret(**_shown(row).model_dump(), secret=secret)


@router.get("/{endpoint_id}", summary="Read an endpoint", responses=problem_responses(404))
async def get_endpoint(endpoint_id: str, engine: EngineDependency) -> ShownEndpoint:
    """Without its secrets."""
    return _shown(await endpoints.read(engine, endpoint_id))


@router.post(
    "/{endpoint_id}/rotate-secret",
    summary="Give an endpoint a new secret",
    responses=problem_responses(400, 404, 413, 415),
    openapi_extra=documented(Rotation, {"overlap_hours": 24}),
)
async def rotate_secret(
    endpoint_id: str,
    body: Annotated[Rotation, Depends(body_of(Rotation))],
    engine: EngineDependency,
) -> EndpointSecret:
    """Deliveries are signed with both, until the hours of overlap are over."""
    overlap = timedelta(hours=body.overlap_hours)
    row, secret = await endpoints.rotate_secret(engine, endpoint_id, body.secret, overlap)
    return EndpointSecret(**_shown(row).model_dump(), secret=secret)


@router.post(
    "/{endpoint_id}/enable",
    summary="Enable an endpoint that answered 410",
    responses=problem_responses(404),
)
async def enable_endpoint(endpoint_id: str, engine: EngineDependency) -> ShownEndpoint:
    """What failed meanwhile is sent again on request only."""
    return _shown(await endpoints.enable(engine, endpoint_id))


@router.delete(
    "/{endpoint_id}",
    status_code=204,
    summary="Forget an endpoint",
    responses=problem_responses(404),
)
async def delete_endpoint(endpoint_id: str, engine: EngineDependency) -> None:
    """Deliveries to its address are signed with the engine's own secret then."""
    await endpoints.delete(engine, endpoint_id)


def _shown(row: Endpoint) -> ShownEndpoint:
    return ShownEndpoint(
        id=row.id,
        url=row.url,
        has_secret=row.secrets_encrypted is not None,
        status="disabled" if row.disabled_at else "enabled",
        disabled_at=row.disabled_at.isoformat() if row.disabled_at else None,
        created_at=row.created_at.isoformat(),
        updated_at=row.updated_at.isoformat(),
    )
