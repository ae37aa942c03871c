"""How errors are answered."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from api.problems import install_problem_handlers


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("BEGIN IMMEDIATE", None, Exception("database is locked")),
        InterfaceError("SELECT 1", None, Exception("the connection is closed")),
        PoolTimeoutError("no connection is free"),
    ],
)
async def test_a_database_that_is_out_is_an_answer_not_a_failure(error: Exception) -> None:
    app = FastAPI()
    install_problem_handlers(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    # This transport raises what the application raises beside its answer.
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine.test") as client:
        answer = await client.get("/")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "locked" not in answer.text
