"""Whether the process lives, and whether it can do its work."""

from __future__ import annotations

from fastapi import APIRouter

from api.dependencies import EngineDependency
from api.problems import problem_responses
from engine.errors import UnavailableError

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    """Always 200."""
    return {"status": "ok"}


@router.get(
    "/readyz", summary="Whether the engine can do its work", responses=problem_responses(503)
)
async def readyz(engine: EngineDependency) -> dict[str, str]:
    """200 when it can; else 503 that says what is missing.

    The database answers, can be written, has this version's schema, and holds what our keys open;
    and Temporal answers, and was prepared by a worker once.
    """
    missing = []
    if not await engine.database.answers():
        missing.append("the database does not answer")
    else:
        problem = await engine.readiness.problem()
        if problem is not None:
            missing.append(f"the database: {problem}")
    if not await engine.temporal.healthy():
        missing.append("the Temporal server does not answer")
    elif not await engine.temporal.prepared():
        missing.append("no worker has prepared the Temporal server yet")
    if missing:
        raise UnavailableError(f"Not ready: {', and '.join(missing)}")
    return {"status": "ready", "database": "ok", "temporal": "ok"}
