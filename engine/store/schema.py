"""The database's schema: applied by migrations, one set for both databases.

Alembic is imported where it is needed: processes that serve only ask which revision a database has.
"""

from __future__ import annotations

import functools
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlmodel import SQLModel

from engine.store import (
    accepted,
    communities,
    endpoints,
    epochs,
    invocations,
    lost_calls,
    outbox,
    pacing,
    processes,
    webhooks,
)
from engine.store.database import Database

TABLES = (
    accepted,
    communities,
    endpoints,
    epochs,
    invocations,
    lost_calls,
    outbox,
    pacing,
    processes,
    webhooks,
)

# Any number that is the same for all: it keeps migrations of several hosts apart.
_MIGRATION_LOCK = 0x6D657461
_MIGRATIONS = Path(__file__).parent / "migrations"


async def migrate(database: Database, revision: str = "head") -> str:
    """Bring a database to the newest schema; several callers at once wait for each other."""
    async with database.engine.execution_options(metagov_write=True).connect() as connection:
        await connection.run_sync(_upgrade, revision)
        await connection.commit()
    return newest_revision()


def newest_revision() -> str:
    """The newest revision that there is."""
    return known_revisions()[0]


@functools.cache
def known_revisions() -> tuple[str, ...]:
    """All revisions that there are, the newest first: a migration's file begins with its own."""
    files = (_MIGRATIONS / "versions").glob("[0-9]*_*.py")
    return tuple(sorted((file.name.partition("_")[0] for file in files), reverse=True))


def revision_of(connection: Connection) -> str | None:
    """The revision that a database has; None for an empty one."""
    # Alembic would log two lines each time.
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar()
    return revision


async def current_revision(database: Database) -> str | None:
    """The revision that a database has; None for an empty one."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(revision_of)


async def differences(database: Database) -> list[object]:
    """What of the tables is not as the code has it, as Alembic lists it."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def compare(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, SQLModel.metadata))

    async with database.engine.connect() as connection:
        return await connection.run_sync(compare)


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
