"""Governance processes: start, read, list, close."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from sqlmodel.ext.asyncio.session import AsyncSession

from api.dependencies import (
    CommunityFilter,
    CommunityHeader,
    Cursor,
    EngineDependency,
    IdempotencyKeyHeader,
    JsonObject,
    Limit,
    check,
    idempotency_of,
    split_name,
)
from api.plugins import enabled_instance, find_process
from api.problems import problem_responses
from engine.errors import (
    BadRequestError,
    EngineError,
    NotSupportedError,
    OutboundRefusedError,
    PluginError,
    RecordedError,
    ResourceNotFoundError,
    UnavailableError,
    Violation,
)
from engine.messages import COMPLETED, CREATED
from engine.resources import Engine, capabilities_of
from engine.sdk.parameters import fill_defaults
from engine.store import invocations, processes
from engine.store.database import new_id
from engine.store.processes import GovernanceProcess

router = APIRouter(prefix="/api/internal/process", tags=["processes"])

LONGEST_WAIT_SECONDS = 60


@router.get("", summary="List processes", responses=problem_responses(400))
async def list_processes(
    engine: EngineDependency,
    community: CommunityFilter = None,
    plugin: Annotated[str | None, Query(description="Only this plugin's.")] = None,
    status: Annotated[
        Literal["created", "pending", "completed"] | None, Query(description="Only these.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """The newest first; ``next_cursor`` is null on the last page."""
    async with engine.database.read() as session:
        rows, following = await processes.list_processes(
            session, community=community, plugin=plugin, status=status, cursor=cursor, limit=limit
        )
    return {"processes": [asdict(row.record()) for row in rows], "next_cursor": following}


@router.post("/{name}", include_in_schema=False, status_code=202)
async def start_process(
    name: str,
    body: JsonObject,
    engine: EngineDependency,
    response: Response,
    community: CommunityHeader = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> dict[str, Any]:
    """Start a process of a plugin that the community has enabled."""
    plugin, slug = split_name(name)
    declaration = find_process(plugin, slug)
    if declaration is None:
        raise ResourceNotFoundError(f"No such process: {name:.128}")
    instance = await enabled_instance(engine, community, plugin)
    callback_url = _callback_url(engine, body)
    schema = declaration.input_schema or {}
    given = {key: value for key, value in body.items() if key != "callback_url"}
    parameters = fill_defaults(given, schema)
    check(parameters, schema)
    row = GovernanceProcess(
        id=new_id(),
        community=instance.community,
        plugin=plugin,
        slug=slug,
        instance_id=instance.id,
        parameters=parameters,
        callback_url=callback_url,
    )
    scope = f"process {name} {instance.community}"
    idempotency = idempotency_of(engine, scope, idempotency_key, body)
    record = row.record()
    process_id = await invocations.accept_once(
        engine.database, row, record.id, instance.unchanged(), idempotency
    )
    if process_id is None:
        await engine.instances.read(instance.community, plugin)
        return await start_process(name, body, engine, response, community, idempotency_key)
    if process_id != record.id:
        record = (await _get(engine, name, process_id)).record()
    title = parameters.get("title")
    try:
        outcome = await engine.temporal.processes.start(
            record, capabilities_of(declaration), title[:100] if isinstance(title, str) else None
        )
    except UnavailableError as error:
        await _withdraw(engine, process_id, error)
        raise
    if outcome.failure is not None:
        raise await _recorded(engine, outcome.failure)
    response.headers["Location"] = f"/api/internal/process/{name}/{process_id}"
    return asdict((await _get(engine, name, process_id)).record())


@router.get("/{name}/{process_id}", include_in_schema=False)
async def get_process(
    name: str,
    process_id: str,
    engine: EngineDependency,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS)] = 0,
) -> dict[str, Any]:
    """Read a process; ``wait`` answers as soon as it completes."""
    row = await _get(engine, name, process_id)
    if wait and row.status != COMPLETED:
        await engine.temporal.processes.wait(row.record(), wait)
        row = await _get(engine, name, process_id)
    return asdict(row.record())


@router.delete("/{name}/{process_id}", include_in_schema=False)
async def close_process(name: str, process_id: str, engine: EngineDependency) -> dict[str, Any]:
    """Close a process."""
    row = await _get(engine, name, process_id)
    if row.status == COMPLETED:
        raise BadRequestError("Can't close process, it has already completed")
    declaration = find_process(row.plugin, row.slug)
    if declaration is None or not declaration.can_close:
        raise NotSupportedError(f"{name} does not support manually closing the process")
    outcome = await engine.temporal.processes.close(row.record())
    if outcome.failure is not None:
        raise await _recorded(engine, outcome.failure, "Failed to close process: ")
    if not outcome.record.completed:
        raise PluginError("Failed to close process")
    return asdict((await _get(engine, name, process_id)).record())


async def _get(engine: Engine, name: str, process_id: str) -> GovernanceProcess:
    async with engine.database.read() as session:
        row = await processes.get_process(session, process_id)
    if row is None or row.name != name:
        raise ResourceNotFoundError(f"No process {process_id:.64} of {name:.128}")
    return row


async def _withdraw(engine: Engine, process_id: str, error: EngineError) -> None:
    """See to it that a process is never started, and that its key can be used again."""

    async def withdraw(session: AsyncSession) -> None:
        row = await processes.lock_process(session, process_id)
        if row is not None and row.status == CREATED:
            row.complete({"code": "start_failed", "kind": error.kind, "message": error.detail})
            await invocations.withdraw(session, process_id)

    await engine.database.persist(withdraw)


async def _recorded(engine: Engine, invocation_id: str, prefix: str = "") -> RecordedError:
    done = await engine.database.recall(
        lambda session: invocations.get_invocation(session, invocation_id)
    )
    assert done is not None and done.error is not None, "a failure is recorded before it is told"
    return RecordedError({**done.error, "detail": prefix + str(done.error["detail"])})


def _callback_url(engine: Engine, body: dict[str, Any]) -> str | None:
    url = body.get("callback_url")
    if url is None or url == "":
        return None
    message = "must be an http or https URL"
    if isinstance(url, str):
        try:
            engine.outbound.check_url(url)
            return url
        except OutboundRefusedError as error:
            message = error.detail
    raise BadRequestError(f"/callback_url: {message}", [Violation("/callback_url", message)])
