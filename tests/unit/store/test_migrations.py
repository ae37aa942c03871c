"""Migrations make the tables that the code has, and keep what earlier versions stored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from engine.settings import Settings
from engine.store import communities, processes, webhooks
from engine.store.database import open_database
from engine.store.schema import (
    current_revision,
    differences,
    known_revisions,
    migrate,
    newest_revision,
)
from tests.conftest import REPOSITORY

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE_INSTANCES = (
    "INSERT INTO community (name, readable_name, created_at, updated_at)"
    " VALUES ('c', 'C', :now, :now)",
    "INSERT INTO plugin_instance"
    " (id, community, plugin, position, config_encrypted, created_at)"
    " VALUES ('i', 'c', 'loomio', 0, 'x', :now)",
    "INSERT INTO plugin_state (instance_id, key, value) VALUES ('i', 'kept', '1')",
    "INSERT INTO governance_process"
    " (id, community, plugin, slug, instance_id, parameters, status, outcome, errors, state,"
    " webhooks_left_out, created_at, updated_at)"
    " VALUES ('p', 'c', 'loomio', 'poll', 'i', '{}', 'pending', '{}', '{}', '{}', 0, :now, :now)",
    "INSERT INTO received_webhook"
    " (id, instance_id, community, plugin, path, query, headers, body, status, sequence, routed,"
    " tries, replayed, replays, received_at)"
    " VALUES ('w', 'i', 'c', 'loomio', '/', '{}', '{}', :body, 'received', 1, :no,"
    " 0, :no, 0, :now)",
)


async def test_instances_are_called_like_their_plugins(database_url: str, tmp_path: Path) -> None:
    database = open_database(Settings(data_dir=tmp_path, database_url=database_url))
    await migrate(database, "0006")
    values = {"now": NOW, "no": False, "body": b"{}"}
    async with database.write() as session:
        connection = await session.connection()
        for statement in BEFORE_INSTANCES:
            used = {name: value for name, value in values.items() if f":{name}" in statement}
            await connection.execute(text(statement), used)
    await migrate(database)
    assert await differences(database) == []
    async with database.read() as session:
        instance = await communities.find_instance(session, "c", "loomio")
        process = await processes.get_process(session, "p")
        webhook = await webhooks.get_webhook(session, "w")
        assert await communities.load_state(session, "i") == {"kept": "1"}
    assert instance is not None and process is not None and webhook is not None
    assert [instance.instance, process.instance, webhook.instance] == ["loomio"] * 3
    assert process.record().instance == "loomio"
    await database.close()


async def test_migrations_make_the_tables_that_the_code_has(database_url: str) -> None:
    database = open_database(Settings(database_url=database_url))
    assert await current_revision(database) is None
    assert await migrate(database) == newest_revision()
    assert await migrate(database) == newest_revision()
    assert await current_revision(database) == newest_revision()
    assert await differences(database) == []
    await database.close()


def test_revisions_are_those_that_alembic_finds() -> None:
    config = Config()
    config.set_main_option("script_location", str(REPOSITORY / "engine/store/migrations"))
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    assert known_revisions() == tuple(script.revision for script in scripts)
