"""Governance processes: started, read, closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

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
from engine.invocations.process import end_process
from engine.messages import COMPLETED, CloseProcess, ProcessRecord
from engine.requests.accepting import Once, accept, accept_of_instance, answering, hand_over
from engine.requests.documents import check
from engine.requests.instances import Chosen, Instance
from engine.resources import Engine, capabilities_of
from engine.sdk.parameters import fill_defaults
from engine.sdk.registry import ProcessDeclaration, Registry
from engine.store import accepted, invocations, processes
from engine.store.invocations import DONE, Invocation
from engine.store.processes import GovernanceProcess

LOOK_AGAIN_SECONDS = 0.5
ALREADY_COMPLETED = "Can't close process, it has already completed"


def find_process(name: str) -> ProcessDeclaration:
    """Find a registered process.

    Args:
        name: ``{plugin}.{slug}``.

    Returns:
        The process.

    Raises:
        ResourceNotFoundError: There is none.
    """
    plugin, _, slug = name.partition(".")
    declaration = Registry.plugins.get(plugin)
    process = declaration.processes.get(slug) if declaration else None
    if process is None:
        raise ResourceNotFoundError(f"No such process: {name:.128}")
    return process


async def start(
    engine: Engine,
    chosen: Chosen,
    process: ProcessDeclaration,
    parameters: dict[str, Any],
    callback_url: Any,
    once: Once,
) -> ProcessRecord:
    """Start a process, once for each idempotency key.

    Args:
        engine: What is open.
        chosen: The plugin instance that is to run it.
        process: The process.
        parameters: Its parameters, as they were sent.
        callback_url: Where its record is to be POSTed, as it was sent.
        once: The request's idempotency key.

    Returns:
        The record, once ``start`` has run.

    Raises:
        BadRequestError: There is no such instance, the parameters do not fit their schema, or the
            callback URL may not be called.
        UnavailableError: Nothing was done.
        RecordedError: ``start`` failed.
        OutcomeUnknownError: The process may be starting.
    """
    schema = process.input_schema or {}

    def row_for(instance: Instance) -> GovernanceProcess:
        url = _callback_url(engine, callback_url)
        filled = fill_defaults(parameters, schema)
        check(filled, schema)
        return GovernanceProcess(
            community=instance.community,
            plugin=instance.plugin,
            slug=process.slug,
            instance_id=instance.id,
            instance=instance.name,
            community_platform_id=instance.community_platform_id,
            parameters=filled,
            callback_url=url,
        )

    scope = f"process {process.name}"
    row, _, process_id = await accept_of_instance(engine, chosen, row_for, scope, once)
    async with answering("process"):
        if process_id != row.id:
            row = await _get(engine, process.name, process_id)
        return await _start(engine, process, row)


async def _start(
    engine: Engine, process: ProcessDeclaration, row: GovernanceProcess
) -> ProcessRecord:
    async def withdraw(session: AsyncSession, error: EngineError) -> bool:
        errors = {"code": "start_failed", "kind": error.kind, "message": error.detail}
        return await processes.withdraw_start(engine.database, session, row.id, errors)

    title = row.parameters.get("title")
    shown = title[:100] if isinstance(title, str) else None
    started = engine.temporal.processes.start(row.record(), capabilities_of(process), shown)
    outcome = await hand_over(engine, started, withdraw, "The process may be starting")
    if outcome.failure is not None:
        raise await _failure(engine, outcome.failure)
    return (await _get(engine, row.name, row.id)).record()


async def read(engine: Engine, name: str, process_id: str, wait_seconds: float) -> ProcessRecord:
    """Read a process, and wait a while for its completion.

    Args:
        engine: What is open.
        name: ``{plugin}.{slug}``.
        process_id: The process' id.
        wait_seconds: How long to wait at most.

    Returns:
        The record, completed or as it stands when the time is up.

    Raises:
        ResourceNotFoundError: There is none.
    """
    row = await _get(engine, name, process_id)
    until = time.monotonic() + wait_seconds
    while row.status != COMPLETED and (left := until - time.monotonic()) > 0:
        await engine.temporal.processes.wait(row.record(), left)
        row = await _get(engine, name, process_id)
        # One whose workflow was ended from outside is completed a little later.
        if row.status != COMPLETED:
            await asyncio.sleep(min(LOOK_AGAIN_SECONDS, max(until - time.monotonic(), 0)))
    return row.record()


async def list_records(
    engine: Engine,
    *,
    community: str | None,
    plugin: str | None,
    instance: str | None,
    status: str | None,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[ProcessRecord], str | None]:
    """List processes, the newest first.

    Args:
        engine: What is open.
        community: Only this community's.
        plugin: Only this plugin's.
        instance: Only those of plugin instances of this name.
        status: Only those with this status.
        cursor: Where an earlier page ended.
        limit: Most records on the page.

    Returns:
        The page, and the cursor of the next one, None at the end.

    Raises:
        BadRequestError: The cursor is none of ours.
    """
    async with engine.database.read() as session:
        rows, following = await processes.list_processes(
            session,
            community=community,
            plugin=plugin,
            instance=instance,
            status=status,
            cursor=cursor,
            limit=limit,
        )
    return [row.record() for row in rows], following


async def close(engine: Engine, name: str, process_id: str, key: str | None) -> ProcessRecord:
    """Close a process, after the webhooks that were accepted before.

    Args:
        engine: What is open.
        name: ``{plugin}.{slug}``.
        process_id: The process' id.
        key: The request's idempotency key.

    Returns:
        The completed record.

    Raises:
        ResourceNotFoundError: There is no such process.
        BadRequestError: It has completed already.
        NotSupportedError: It has no ``close``.
        UnavailableError: Nothing was done.
        RecordedError: ``close`` failed, or left the process open.
        OutcomeUnknownError: It may be closing.
    """
    row = await _get(engine, name, process_id)
    once = Once(key, {}).within(engine, f"close {name} {process_id}")
    first = await accepted.first_use(engine.database, once) if once else None
    if first is None:
        if row.status == COMPLETED:
            raise BadRequestError(ALREADY_COMPLETED)
        declared = _declared(row)
        if declared is None:
            raise NotSupportedError(
                f"The plugin '{row.plugin}' is not loaded here, so {name} cannot be closed"
            )
        if not declared.can_close:
            raise NotSupportedError(f"{name} does not support manually closing the process")
    request = Invocation(
        community=row.community,
        instance_id=row.instance_id,
        plugin=row.plugin,
        target=f"{row.slug}#close",
    )
    request_id = await accept(engine, request, request.id, once)
    async with answering("close"):
        failed = await _close_once(engine, row, request_id)
        if failed is not None:
            raise RecordedError(failed)
        return (await _get(engine, name, process_id)).record()


async def _close_once(
    engine: Engine, row: GovernanceProcess, request_id: str
) -> dict[str, Any] | None:
    """Have an accepted close made, unless it was; gives the error that is recorded with it."""
    done = await _read_request(engine, request_id)
    if done is None or done.status != DONE:
        now = await _get(engine, row.name, row.id)
        # One that is completed was closed by this request's first try, as far as its driver knows.
        error = None if now.status == COMPLETED else await _close(engine, row, request_id)
        recorded = describe(error) if error is not None else None
        await engine.database.persist(
            lambda session: invocations.mark_done(session, request_id, error=recorded)
        )
        done = await _read_request(engine, request_id)
    return done.error if done is not None else None


async def _close(engine: Engine, row: GovernanceProcess, request_id: str) -> EngineError | None:
    """Close a process; gives what is wrong if it stays open."""

    async def withdraw(session: AsyncSession, error: EngineError) -> bool:
        return await invocations.withdraw(engine.database, session, request_id, describe(error))

    declared = _declared(row)
    asked = CloseProcess(
        request_id, after_webhooks=declared is not None and declared.receives_webhooks
    )
    closed = engine.temporal.processes.close(row.record(), asked)
    outcome = await hand_over(engine, closed, withdraw, "The process may be closing")
    if outcome is None:
        return await _without_workflow(engine, row)
    if outcome.failure is not None:
        failure = await _failure(engine, outcome.failure, "Failed to close process: ")
        if failure.recorded["status"] == UnavailableError.status:
            await engine.database.persist(lambda session: accepted.forget_key(session, request_id))
        return failure
    return None if outcome.record.completed else PluginError("Failed to close process")


async def _without_workflow(engine: Engine, row: GovernanceProcess) -> EngineError | None:
    """The error for a close for which there was no workflow any more, if it is one."""
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


def _declared(row: GovernanceProcess) -> ProcessDeclaration | None:
    plugin = Registry.plugins.get(row.plugin)
    return plugin.processes.get(row.slug) if plugin else None


async def _get(engine: Engine, name: str, process_id: str) -> GovernanceProcess:
    async with engine.database.read() as session:
        row = await processes.get_process(session, process_id)
    if row is None or row.name != name:
        raise ResourceNotFoundError(f"No process {process_id:.64} of {name:.128}")
    return row


async def _read_request(engine: Engine, request_id: str) -> Invocation | None:
    return await engine.database.recall(
        lambda session: invocations.get_invocation(session, request_id)
    )


async def _failure(engine: Engine, invocation_id: str, prefix: str = "") -> RecordedError:
    done = await engine.database.recall(
        lambda session: invocations.get_invocation(session, invocation_id)
    )
    assert done is not None and done.error is not None, (
        "a failure is recorded before it is reported"
    )
    return RecordedError({**done.error, "detail": prefix + str(done.error["detail"])})


def _callback_url(engine: Engine, url: Any) -> str | None:
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
