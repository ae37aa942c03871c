"""Processes that processes start, towards Temporal: their workflows, and word of their end."""

from __future__ import annotations

from engine.errors import UnavailableError
from engine.messages import COMPLETED, process_workflow_id
from engine.resources import Engine, capabilities_of
from engine.sdk.registry import ProcessDeclaration, Registry
from engine.store import processes
from engine.store.processes import GovernanceProcess


def declaration_of(process: GovernanceProcess) -> ProcessDeclaration | None:
    """What a process' class declares; None if this worker does not know it."""
    plugin = Registry.plugins.get(process.plugin)
    return plugin.processes.get(process.slug) if plugin else None


async def start_workflow(
    engine: Engine, process: GovernanceProcess, declaration: ProcessDeclaration
) -> bool:
    """Start a process' workflow if it does not run, without waiting for ``start``.

    Args:
        engine: What all activities share.
        process: The process.
        declaration: What its class declares.

    Returns:
        True if it had to be started.

    Raises:
        UnavailableError: Temporal does not answer.
    """
    title = process.title or process.parameters.get("title")
    parent = await _waiting_parent(engine, process)
    workflow_id = process_workflow_id(parent.community, parent.name, parent.id) if parent else None
    return await engine.temporal.processes.ensure(
        process.record(),
        capabilities_of(declaration),
        title[:100] if isinstance(title, str) else None,
        workflow_id,
    )


async def start_children(engine: Engine, process_ids: list[str]) -> None:
    """Start the workflows of stored children: now, or as soon as Temporal answers.

    Args:
        engine: What all activities share.
        process_ids: The children; those whose workflow has begun with its work need none.
    """
    for process_id in process_ids:
        process = await _read(engine, process_id)
        declaration = declaration_of(process) if process is not None else None
        if process is None or declaration is None or process.status != "created":
            continue
        await start_workflow(engine, process, declaration)


async def reload_ended(engine: Engine, process_ids: list[str]) -> None:
    """Signal the workflows of processes whose records have ended to read them."""
    for process_id in process_ids:
        process = await _read(engine, process_id)
        if process is not None:
            await engine.temporal.processes.reload(process.record())


async def signal_parent(engine: Engine, process: GovernanceProcess) -> bool:
    """Signal the parent of a process that has ended, if it waits for that.

    Args:
        engine: What all activities share.
        process: The process that has ended.

    Returns:
        Whether there was anybody to signal.
    """
    parent = await _waiting_parent(engine, process)
    if parent is None:
        return False
    try:
        await engine.temporal.processes.child_completed(parent.record(), process.id)
    except UnavailableError:
        engine.schedules.reconcile_when_reachable()
    return True


async def _waiting_parent(engine: Engine, process: GovernanceProcess) -> GovernanceProcess | None:
    """The process that started this one, if its class wants to know of the end and it goes on."""
    parent = await _read(engine, process.parent_id) if process.parent_id is not None else None
    if parent is None or parent.status == COMPLETED:
        return None
    declaration = declaration_of(parent)
    return parent if declaration is not None and declaration.handles_children else None


async def _read(engine: Engine, process_id: str) -> GovernanceProcess | None:
    async with engine.database.read() as session:
        return await processes.get_process(session, process_id)
