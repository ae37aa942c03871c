"""Whether the database can be worked with: there, writable, of this schema, opened by our keys."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import URL, Connection, exists, false, select, union_all, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel, col

from engine.errors import EngineError
from engine.settings import Settings
from engine.store import schema
from engine.store.communities import Community, CommunityChange, PluginInstance
from engine.store.database import database_url, is_outage, open_database
from engine.store.endpoints import Endpoint
from engine.store.outside import recall
from engine.store.secrets import SecretBox, make_secret_box, open_secret_box, secret_key_path
from engine.store.sqlite_file import problem_of, words_for

log = structlog.get_logger()

CHECK_SECONDS = 5
PAUSE_SECONDS = 0.5
# The driver's own come from where a connection is made ready.
ERRORS = (SQLAlchemyError, sqlite3.Error, OSError)
# Of each table that holds encrypted texts.
MOST_SAMPLES = 20
RESTORE = "put it back from the backup, or name another by METAGOV_DATABASE_URL"
MIGRATE = "run `metagov migrate`"

# What errors of PostgreSQL say about the database itself, by SQLSTATE (appendix A of its manual).
_SQLSTATES = {
    "25006": "it is read-only; name one that can be written by METAGOV_DATABASE_URL",
    "42501": "its user may not read or write its tables; grant it that",
    "42P01": f"a table is missing; {RESTORE}",
    "XX001": f"it is damaged; {RESTORE}",
    "XX002": f"it is damaged; {RESTORE}",
}

_ENCRYPTED = (
    (PluginInstance.config_encrypted, PluginInstance.id),
    (Endpoint.secrets_encrypted, Endpoint.id),
    (CommunityChange.desired_encrypted, CommunityChange.id),
)


class DatabaseUnfitError(EngineError):
    """The database is not one that the engine can work with."""

    kind = "database"
    title = "The database cannot be used"


async def bring_forward(settings: Settings, *, may_be_new: bool = True) -> str:
    """Bring the database to the newest schema, after checking that it is fit for that.

    Args:
        settings: The settings.
        may_be_new: Whether one that is empty or not there is made. Never beside what is remembered
            of another one: to begin anew would end all processes that Temporal still has.

    Returns:
        The revision that it has now.

    Raises:
        DatabaseUnfitError: It is not, or does not answer; the message says why.
    """
    url = database_url(settings)
    database = open_database(settings)
    try:
        present = None
        if _is_there(url):
            await _check_file(url, thorough=True)
            present = await schema.current_revision(database)
            _check_known(present)
        if present is None and not (may_be_new and recall(settings.data_dir) is None):
            raise DatabaseUnfitError(_nothing_there(settings, may_be_new=may_be_new))
        revision = await schema.migrate(database)
        await _check(url, settings.database_timeout_seconds)
    except DatabaseUnfitError as error:
        raise _named(url, error) from None
    except ERRORS as error:
        raise _named(url, _unfit(error)) from None
    finally:
        await database.close()
    return revision


def _nothing_there(settings: Settings, *, may_be_new: bool) -> str:
    if not may_be_new:
        return f"nothing was restored, for it is empty or not there; {RESTORE}"
    return (
        "it is empty or not there, though an engine ran with this data folder before "
        f"({settings.data_dir / 'told.json'}); {RESTORE}, "
        "or begin anew with another METAGOV_DATA_DIR"
    )


async def open_keys(settings: Settings) -> SecretBox:
    """Check that the database is fit, and open the keys.

    A key is made only where nothing is encrypted yet. A database that does not answer is waited
    for, as long as it may be out.

    Args:
        settings: The settings.

    Returns:
        The keys; they open what the database holds.

    Raises:
        DatabaseUnfitError: The database is not fit, does not answer, or holds what no key opens.
        SettingsError: A key is no key.
    """
    url, secrets = database_url(settings), open_secret_box(settings)
    deadline = asyncio.get_running_loop().time() + settings.database_outage_seconds
    waiting = False
    while True:
        try:
            _check_keys(settings, secrets, await _check(url, settings.database_timeout_seconds))
            return secrets or make_secret_box(settings)
        except DatabaseUnfitError as error:
            raise _named(url, error) from None
        except ERRORS as error:
            if not is_outage(error) or asyncio.get_running_loop().time() > deadline:
                raise _named(url, _unfit(error)) from None
            if not waiting:
                log.warning("waiting for the database", error=_first_line(error))
            waiting = True
        await asyncio.sleep(PAUSE_SECONDS)


class Readiness:
    """Checks whether the database can be used, once for all requests of the same moment.

    Args:
        settings: The settings.
        secrets: The keys.
    """

    def __init__(self, settings: Settings, secrets: SecretBox) -> None:
        self._settings = settings
        self._secrets = secrets
        self._checking: asyncio.Task[str | None] | None = None

    async def problem(self) -> str | None:
        """What keeps the engine from working with the database.

        Returns:
            The words; None if nothing does.
        """
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        return await asyncio.shield(self._checking)

    async def _check(self) -> str | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                found = await _check(database_url(self._settings), CHECK_SECONDS - 1)
            _check_keys(self._settings, self._secrets, found)
        except DatabaseUnfitError as error:
            return error.detail
        except ERRORS as error:
            return _unfit(error).detail
        return None


async def _check(url: URL, patience: float) -> Sequence[str]:
    """Check the database through a new connection; gives some of its encrypted texts."""
    if not _is_there(url):
        raise DatabaseUnfitError(f"it is not there; {MIGRATE}, or {RESTORE}")
    await _check_file(url)
    sqlite = url.get_backend_name() == "sqlite"
    engine = create_async_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args={"timeout": patience}
        if sqlite
        else {"connect_timeout": max(2, int(patience))},
    )
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_try)
    except SQLAlchemyError as error:
        problem = _problem(error)
        if problem is not None:
            raise DatabaseUnfitError(problem) from None
        raise
    finally:
        await engine.dispose()


def _try(connection: Connection) -> Sequence[str]:
    revision = schema.revision_of(connection)
    _check_known(revision)
    newest = schema.newest_revision()
    if revision is None:
        raise DatabaseUnfitError(f"it has no tables yet; {MIGRATE}")
    if revision != newest:
        raise DatabaseUnfitError(
            f"it has schema {revision}, and this version of the engine needs {newest}; {MIGRATE}"
        )
    tables = SQLModel.metadata.sorted_tables
    connection.execute(select(*(exists(select(1).select_from(table)) for table in tables)))
    # It changes no row, and yet takes the lock of a writer for a moment.
    connection.execute(update(Community).where(false()).values(name=Community.name))
    return connection.execute(_samples()).scalars().all()


def _samples() -> Any:
    some = (
        select(col(text).label("text"))
        .where(col(text).is_not(None))
        .order_by(col(key))
        .limit(MOST_SAMPLES)
        .subquery()
        for text, key in _ENCRYPTED
    )
    return union_all(*(select(part.c.text) for part in some))


def _check_known(revision: str | None) -> None:
    if revision is not None and revision not in schema.known_revisions():
        raise DatabaseUnfitError(
            f"it has schema {revision}, which this version of the engine does not know; run the "
            f"newer version that made it, or {RESTORE}"
        )


def _check_keys(settings: Settings, secrets: SecretBox | None, found: Sequence[str]) -> None:
    path = secret_key_path(settings)
    restore = f"it lies in the backup of the data folder, as {path.name}, or of METAGOV_SECRET_KEY"
    if found and secrets is None:
        raise DatabaseUnfitError(
            "the key that opens the configs in it is missing: METAGOV_SECRET_KEY is not set, and "
            f"there is no {path}; {restore}"
        )
    if secrets is not None and not all(map(secrets.opens, found)):
        named = "METAGOV_SECRET_KEY" if settings.secret_key is not None else f"the key in {path}"
        raise DatabaseUnfitError(
            f"{named} does not open all the configs in it, which were encrypted with another; "
            f"{restore}, and `new,old` names several"
        )


def _is_there(url: URL) -> bool:
    return url.get_backend_name() != "sqlite" or _path(url).exists()


def _path(url: URL) -> Path:
    return Path(str(url.database)).absolute()


async def _check_file(url: URL, *, thorough: bool = False) -> None:
    if url.get_backend_name() != "sqlite":
        return
    problem = await asyncio.to_thread(problem_of, _path(url), RESTORE, thorough=thorough)
    if problem is not None:
        raise DatabaseUnfitError(problem)


def _problem(error: Exception) -> str | None:
    cause = getattr(error, "orig", None) or error
    sqlstate = getattr(cause, "sqlstate", None)
    return words_for(cause, RESTORE) or (_SQLSTATES.get(sqlstate) if sqlstate else None)


def _unfit(error: Exception) -> DatabaseUnfitError:
    problem = _problem(error)
    if problem is None and (is_outage(error) or isinstance(error, OSError)):
        problem = f"it does not answer ({_first_line(error)}); see that it runs and is reachable"
    return DatabaseUnfitError(problem or f"it cannot be read ({_first_line(error)}); {RESTORE}")


def _first_line(error: Exception) -> str:
    words = str(getattr(error, "orig", None) or error).splitlines()
    return words[0].strip() if words else type(error).__name__


def _named(url: URL, error: DatabaseUnfitError) -> DatabaseUnfitError:
    """The error as the sentence that an operator reads, who may have several databases."""
    if url.get_backend_name() == "sqlite":
        name = str(_path(url))
    else:
        name = f"{url.database} on {url.host or 'this machine'}"
    return DatabaseUnfitError(f"The database {name} cannot be used: {error.detail}")
