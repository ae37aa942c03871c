"""Governance processes: start, read, list, close."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api.dependencies import (
    ChoiceDependency,
    CommunityFilter,
    Cursor,
    EngineDependency,
    IdempotencyKeyHeader,
    InstanceFilter,
    JsonObject,
    Limit,
)
from api.problems import problem_responses
from engine.messages import ProcessRecord
from engine.requests import processes
from engine.requests.accepting import Once

router = APIRouter(prefix="/api/internal/process", tags=["processes"])

LONGEST_WAIT_SECONDS = 60
BESIDE_PARAMETERS = ("callback_url", "community_platform_id")


class ProcessPage(BaseModel):
    """Processes, the newest first."""

    processes: list[ProcessRecord]
    next_cursor: str | None


@router.get("", summary="List processes", responses=problem_responses(400))
async def list_processes(
    engine: EngineDependency,
    community: CommunityFilter = None,
    plugin: Annotated[str | None, Query(description="Only this plugin's.")] = None,
    instance: InstanceFilter = None,
    status: Annotated[
        Literal["created", "pending", "completed"] | None, Query(description="Only these.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ProcessPage:
    """The newest first; ``next_cursor`` is null on the last page."""
    records, following = await processes.list_records(
        engine,
        community=community,
        plugin=plugin,
        instance=instance,
        status=status,
        cursor=cursor,
        limit=limit,
    )
    return ProcessPage(processes=list(records), next_cursor=following)


@router.post("/{name}", include_in_schema=False)
async def start_process(
    name: str,
    body: JsonObject,
    engine: EngineDependency,
    choice: ChoiceDependency,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Start a process of a plugin that the community has enabled."""
    declaration = processes.find_process(name)
    record = await processes.start(
        engine,
        choice.of(declaration.plugin, body.get("community_platform_id")),
        declaration,
        {key: value for key, value in body.items() if key not in BESIDE_PARAMETERS},
        body.get("callback_url"),
        Once(idempotency_key, body),
    )
    location = {"Location": f"/api/internal/process/{name}/{record.id}"}
    return JSONResponse(asdict(record), status_code=202, headers=location)


@router.get("/{name}/{process_id}", include_in_schema=False)
async def get_process(
    name: str,
    process_id: str,
    engine: EngineDependency,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS)] = 0,
) -> ProcessRecord:
    """Read a process; ``wait`` answers as soon as it completes."""
    return await processes.read(engine, name, process_id, wait)


@router.delete("/{name}/{process_id}", include_in_schema=False)
async def close_process(
    name: str,
    process_id: str,
    engine: EngineDependency,
    idempotency_key: IdempotencyKeyHeader = None,
) -> ProcessRecord:
    """Close a process, after the webhooks that were accepted before."""
    return await processes.close(engine, name, process_id, idempotency_key)
