"""Whether the process lives, and whether it can do its work."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from sqlmodel import select

from api.dependencies import EngineDependency
from api.problems import problem_responses
from engine.errors import UnavailableError

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    """Always 200."""
    return {"status": "ok"}


@router.get(
    "/readyz", summary="Whether database and Temporal answer", responses=problem_responses(503)
)
async def readyz(engine: EngineDependency) -> dict[str, str]:
    """200 when both answer; else 503 that says which does not."""
    missing = []
    try:
        async with asyncio.timeout(5), engine.database.read() as session:
            await session.exec(select(1))
    except Exception:
        missing.append("the database")
    if not await engine.temporal.healthy():
        missing.append("the Temporal server")
    if missing:
        raise UnavailableError(f"Not answering: {', '.join(missing)}")
    return {"status": "ready", "database": "ok", "temporal": "ok"}
