"""Governance processes: start, read, list, close."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from sqlalchemy import true
from sqlmodel.ext.asyncio.session import AsyncSession

from api.accepted import answer_of
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
from engine.activities.process_calls import end_process
from engine.errors import (
    BadRequestError,
    EngineError,
    NotSupportedError,
    OutboundRefusedError,
    OutcomeUnknownError,
    PluginError,
    RecordedError,
    ResourceNotFoundError,
    UnavailableError,
    Violation,
    describe,
)
from engine.messages import COMPLETED, CloseProcess, ProcessRecord
from engine.resources import Engine, capabilities_of
from engine.sdk.parameters import fill_defaults
from engine.sdk.registry import ProcessDeclaration
from engine.store import invocations, processes
from engine.store.database import new_id
from engine.store.invocations import DONE, Invocation
from engine.store.processes import GovernanceProcess

router = APIRouter(prefix="/api/internal/process", tags=["processes"])

LONGEST_WAIT_SECONDS = 60
LOOK_AGAIN_SECONDS = 0.5
ALREADY_COMPLETED = "Can't close process, it has already completed"


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
    location = f"/api/internal/process/{name}/{process_id}"
    first = row if process_id == record.id else None
    record = await answer_of(_start(engine, declaration, name, process_id, first), "process")
    response.headers["Location"] = location
    return asdict(record)


async def _start(
    engine: Engine,
    declaration: ProcessDeclaration,
    name: str,
    process_id: str,
    row: GovernanceProcess | None,
) -> ProcessRecord:
    """Have an accepted process started; gives its record. A repeated request has no row."""
    row = row or await _get(engine, name, process_id)
    title = row.parameters.get("title")
    try:
        outcome = await engine.temporal.processes.start(
            row.record(),
            capabilities_of(declaration),
            title[:100] if isinstance(title, str) else None,
        )
    except UnavailableError as error:
        if await _withdraw_start(engine, process_id, error):
            raise
        raise OutcomeUnknownError(
            "The process may be starting; the same request with the same Idempotency-Key tells"
        ) from error
    if outcome.failure is not None:
        raise await _recorded(engine, outcome.failure)
    return (await _get(engine, name, process_id)).record()


@router.get("/{name}/{process_id}", include_in_schema=False)
async def get_process(
    name: str,
    process_id: str,
    engine: EngineDependency,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS)] = 0,
) -> dict[str, Any]:
    """Read a process; ``wait`` answers as soon as it completes."""
    row = await _get(engine, name, process_id)
    until = time.monotonic() + wait
    while row.status != COMPLETED and (left := until - time.monotonic()) > 0:
        await engine.temporal.processes.wait(row.record(), left)
        row = await _get(engine, name, process_id)
        # One whose workflow was ended from outside is completed a little later.
        if row.status != COMPLETED:
            await asyncio.sleep(min(LOOK_AGAIN_SECONDS, max(until - time.monotonic(), 0)))
    return asdict(row.record())


@router.delete("/{name}/{process_id}", include_in_schema=False)
async def close_process(
    name: str,
    process_id: str,
    engine: EngineDependency,
    idempotency_key: IdempotencyKeyHeader = None,
) -> dict[str, Any]:
    """Close a process, after the webhooks that were accepted before."""
    row = await _get(engine, name, process_id)
    idempotency = idempotency_of(engine, f"close {name} {process_id}", idempotency_key, {})
    first = await invocations.first_use(engine.database, idempotency) if idempotency else None
    if first is None:
        if row.status == COMPLETED:
            raise BadRequestError(ALREADY_COMPLETED)
        declaration = find_process(row.plugin, row.slug)
        if declaration is None or not declaration.can_close:
            raise NotSupportedError(f"{name} does not support manually closing the process")
    request = Invocation(
        id=new_id(),
        community=row.community,
        instance_id=row.instance_id,
        plugin=row.plugin,
        target=f"{row.slug}#close",
    )
    request_id = await invocations.accept_once(
        engine.database, request, request.id, true(), idempotency
    )
    assert request_id is not None, "its condition always holds"
    return asdict(await answer_of(_closed(engine, row, request_id), "close"))


async def _closed(engine: Engine, row: GovernanceProcess, request_id: str) -> ProcessRecord:
    """Have an accepted close made; gives the record."""
    error = await _close(engine, row, request_id)
    if error is not None:
        raise error
    return (await _get(engine, row.name, row.id)).record()


async def _close(engine: Engine, row: GovernanceProcess, request_id: str) -> EngineError | None:
    """Have an accepted close made, and answered as it was the first time."""
    done = await _read_request(engine, request_id)
    if done is None or done.status != DONE:
        now = await _get(engine, row.name, row.id)
        # One that is completed was closed by this request's first try, as far as its driver knows.
        error = None if now.status == COMPLETED else await _ask_to_close(engine, row, request_id)
        recorded = describe(error) if error is not None else None
        await engine.database.persist(
            lambda session: invocations.mark_done(session, request_id, error=recorded)
        )
        done = await _read_request(engine, request_id)
    failed = done.error if done is not None else None
    return RecordedError(failed) if failed is not None else None


async def _read_request(engine: Engine, request_id: str) -> Invocation | None:
    return await engine.database.recall(
        lambda session: invocations.get_invocation(session, request_id)
    )


async def _ask_to_close(
    engine: Engine, row: GovernanceProcess, request_id: str
) -> EngineError | None:
    """Close a process; gives what is wrong if it stays open.

    Raises:
        UnavailableError: Nothing was done, and the request was withdrawn.
        OutcomeUnknownError: It may be closed yet.
    """
    declaration = find_process(row.plugin, row.slug)
    receives = declaration is not None and declaration.receives_webhooks
    try:
        outcome = await engine.temporal.processes.close(
            row.record(), CloseProcess(request_id, after_webhooks=receives)
        )
    except UnavailableError as error:
        recorded = describe(error)
        if await engine.database.persist(
            lambda session: invocations.withdraw(engine.database, session, request_id, recorded)
        ):
            raise
        raise OutcomeUnknownError(
            "The process may be closing; the same request with the same Idempotency-Key tells"
        ) from error
    if outcome is None:
        now = await _get(engine, row.name, row.id)
        if now.status == COMPLETED:
            return None
        if await engine.temporal.processes.was_ended(now.record()):
            await end_process(engine, row.id, "cancelled", "The workflow of the process was ended")
            return BadRequestError(ALREADY_COMPLETED)
        engine.schedules.reconcile_when_reachable()
        raise OutcomeUnknownError(
            "The workflow of the process is being started again; "
            "the same request with the same Idempotency-Key will close it"
        )
    if outcome.failure is not None:
        failure = await _recorded(engine, outcome.failure, "Failed to close process: ")
        if failure.recorded["status"] == UnavailableError.status:
            await engine.database.persist(
                lambda session: invocations.forget_key(session, request_id)
            )
        return failure
    return None if outcome.record.completed else PluginError("Failed to close process")


async def _get(engine: Engine, name: str, process_id: str) -> GovernanceProcess:
    async with engine.database.read() as session:
        row = await processes.get_process(session, process_id)
    if row is None or row.name != name:
        raise ResourceNotFoundError(f"No process {process_id:.64} of {name:.128}")
    return row


async def _withdraw_start(engine: Engine, process_id: str, error: EngineError) -> bool:
    """See to it that a process is never started; False if its ``start`` may have been called."""

    async def withdraw(session: AsyncSession) -> bool:
        errors = {"code": "start_failed", "kind": error.kind, "message": error.detail}
        withdrawn = await processes.withdraw_start(engine.database, session, process_id, errors)
        if withdrawn:
            await invocations.forget_key(session, process_id)
        return withdrawn

    return await engine.database.persist(withdraw)


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
