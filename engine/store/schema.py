"""The database's schema: applied by migrations, one set for both databases."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlmodel import SQLModel

from engine.store import (
    communities,
    endpoints,
    invocations,
    outbox,
    pacing,
    processes,
    webhooks,
)
from engine.store.database import Database

TABLES = (communities, endpoints, invocations, outbox, pacing, processes, webhooks)

# Any number that is the same for all: it keeps migrations of several hosts apart.
_MIGRATION_LOCK = 0x6D657461


async def migrate(database: Database) -> str:
    """Bring a database to the newest schema; several callers at once wait for each other.

    Args:
        database: The database.

    Returns:
        The revision that it has now.
    """
    async with database.engine.execution_options(metagov_write=True).connect() as connection:
        await connection.run_sync(_upgrade)
        await connection.commit()
    return newest_revision()


def newest_revision() -> str:
    """The newest revision that there is."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


async def current_revision(database: Database) -> str | None:
    """The revision that a database has.

    Args:
        database: The database.

    Returns:
        The revision; None for an empty database.
    """
    async with database.engine.connect() as connection:
        return await connection.run_sync(
            lambda sync: MigrationContext.configure(sync).get_current_revision()
        )


async def differences(database: Database) -> list[object]:
    """What of the tables is not as the code has it.

    Args:
        database: A migrated database.

    Returns:
        Alembic's list of differences; empty if there are none.
    """

    def compare(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, SQLModel.metadata))

    async with database.engine.connect() as connection:
        return await connection.run_sync(compare)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
