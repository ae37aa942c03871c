"""What all tests share: a clean environment, a real Temporal server, two real databases."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from temporalio.client import Client
from temporalio.workflow import SandboxImportNotificationPolicy

import worker
from engine.discovery import load_plugins
from engine.settings import Settings
from engine.store.database import open_database
from engine.store.schema import migrate
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
    return _new_postgresql(request.getfixturevalue("postgresql"), "template1")


def _new_postgresql(first: str, template: str) -> str:
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(first, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    before, mark, options = first.partition("?")
    return f"{before.rpartition('/')[0]}/{name}{mark}{options}"


async def _migrated(settings: Settings) -> None:
    database = open_database(settings)
    await migrate(database)
    await database.close()


@pytest.fixture(scope="session")
async def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SQLite with the newest schema, to copy: a sixtieth of the work of migrating."""
    folder = tmp_path_factory.mktemp("template")
    await _migrated(Settings(data_dir=folder))
    return folder / "metagov.sqlite"


@pytest.fixture(scope="session")
async def postgresql_template(postgresql: str) -> str:
    """The name of a database of PostgreSQL with the newest schema, to copy."""
    url = _new_postgresql(postgresql, "template1")
    await _migrated(Settings(database_url=url))
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that has the newest schema and is empty, once of each kind."""
    if request.param == "sqlite":
        copy = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "copy.sqlite")
        return f"sqlite:///{copy}"
    template = request.getfixturevalue("postgresql_template")
    return _new_postgresql(request.getfixturevalue("postgresql"), template)


@pytest.fixture
def data_dir(tmp_path: Path, sqlite_template: Path) -> Path:
    """An engine's data folder, with a database that has the newest schema and is empty."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(sqlite_template, folder)
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once of each kind."""
    return new_database(request.param, tmp_path, request)
