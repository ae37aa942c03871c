"""What all tests share: a clean environment, a real Temporal server, two real databases."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from temporalio.client import Client
from temporalio.workflow import SandboxImportNotificationPolicy

import worker
from engine.discovery import load_plugins
from tests.server_processes import postgresql_server, temporal_server

REPOSITORY = Path(__file__).parent.parent
PLUGINS_UNDER_TEST = Path(__file__).parent / "plugins_under_test"
DURABLE_PLUGIN = REPOSITORY / "faults" / "plugins"


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> None:
    """No METAGOV_ variable of the caller's shell reaches a test."""
    for name in [name for name in os.environ if name.startswith("METAGOV_")]:
        if name != "METAGOV_CONTRACTS_DIR":
            del os.environ[name]


@pytest.fixture(autouse=True, scope="session")
def strict_sandbox() -> Iterator[None]:
    """Workflows may load nothing into their sandbox that nobody meant to be there."""
    strict = worker.SANDBOX.with_import_notification_policy(
        SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "SANDBOX", strict)
        yield


@pytest.fixture(scope="session")
def plugins() -> None:
    """The built-in plugins and those that are there to be tested with."""
    load_plugins([PLUGINS_UNDER_TEST, DURABLE_PLUGIN])


@pytest.fixture(scope="session")
def contracts() -> Path:
    """What the platforms accept and send; not part of this repository."""
    path = Path(os.environ.get("METAGOV_CONTRACTS_DIR", REPOSITORY.parent / "shared/contracts"))
    if not path.is_dir():
        pytest.skip(f"the platforms' contracts are not here ({path}); set METAGOV_CONTRACTS_DIR")
    return path


@pytest.fixture(scope="session")
async def temporal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A real Temporal server."""
    async with temporal_server(tmp_path_factory.mktemp("temporal")) as client:
        yield client


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL server; gives the URL of its first database."""
    with postgresql_server(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


def new_database(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """An empty database of a kind; gives its URL."""
    if kind == "sqlite":
        return f"sqlite:///{folder / f'{uuid4().hex}.sqlite'}"
    first = request.getfixturevalue("postgresql")
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(first, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    before, mark, options = first.partition("?")
    return f"{before.rpartition('/')[0]}/{name}{mark}{options}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once of each kind."""
    return new_database(request.param, tmp_path, request)
