"""What stays in memory imports no more than it needs; each entry is measured in megabytes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

SUPERVISOR = {
    "alembic",
    "cryptography",
    "fastapi",
    "httpx",
    "jsonschema",
    "sqlalchemy",
    "temporalio",
}
# The last is a grammar that takes seconds: an older .venv may still have it (`make clean install`).
SERVER = {"alembic", "mako", "psycopg", "typer", "rfc3987_syntax"}


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("cli.main, cli.run", SUPERVISOR),
        ("api.server", SERVER | {"temporalio.worker"}),
        ("worker", SERVER | {"fastapi", "uvicorn"}),
    ],
)
def test_what_is_not_imported(module: str, unneeded: set[str]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert unneeded.isdisjoint(loaded)
