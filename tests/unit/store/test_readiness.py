"""Which databases and keys the engine starts with, and what it says of others."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text
from sqlmodel import SQLModel

from engine.settings import Settings
from engine.store.communities import Community, CommunityChange, PluginInstance
from engine.store.database import Database, open_database
from engine.store.endpoints import Endpoint
from engine.store.readiness import DatabaseUnfitError, Readiness, bring_forward, open_keys
from engine.store.schema import newest_revision
from engine.store.secrets import SecretBox, make_secret_box
from engine.store.sqlite_file import problem_of
from tests.conftest import new_database


@pytest.fixture
def settings(migrated_url: str, tmp_path: Path) -> Settings:
    """An engine's settings, with a database that is up to date and empty."""
    return Settings(data_dir=tmp_path / "data", database_url=migrated_url)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    database = open_database(settings)
    yield database
    await database.close()


async def store(settings: Settings, *rows: SQLModel) -> None:
    async with opened(settings) as database, database.write() as session:
        for row in rows:
            session.add(row)
            await session.flush()


async def run_sql(settings: Settings, statement: str) -> None:
    async with opened(settings) as database, database.write() as session:
        await (await session.connection()).execute(text(statement))


def enabled(box: SecretBox, community: str = "c") -> tuple[Community, PluginInstance]:
    config = box.encrypt({"api_key": "k"})
    return (
        Community(name=community),
        PluginInstance(community=community, plugin="p", instance="p", config_encrypted=config),
    )


def with_keys(settings: Settings, *keys: str) -> Settings:
    return Settings(**{**settings.model_dump(), "secret_key": ",".join(keys)})


async def refused(settings: Settings, start: Callable[[Settings], Any] = open_keys) -> str:
    """The one sentence with which a start is refused."""
    with pytest.raises(DatabaseUnfitError) as caught:
        await start(settings)
    assert "\n" not in caught.value.detail
    return caught.value.detail


async def test_a_first_key_is_made_for_an_empty_database(settings: Settings) -> None:
    await open_keys(settings)
    key = settings.data_dir / "secret-key"
    made = key.read_text()
    await open_keys(settings)
    assert key.read_text() == made


@pytest.mark.parametrize("kind", ["instance", "endpoint", "change"])
async def test_a_lost_key_is_missed(settings: Settings, kind: str) -> None:
    box = make_secret_box(settings)
    key = settings.data_dir / "secret-key"
    rows: dict[str, tuple[SQLModel, ...]] = {
        "instance": enabled(box),
        "endpoint": (Endpoint(url="http://x", secrets_encrypted=box.encrypt([])),),
        "change": (CommunityChange(community="c", desired_encrypted=box.encrypt({})),),
    }
    await store(settings, *rows[kind])
    await open_keys(settings)
    kept = key.rename(settings.data_dir / "backup")
    output = await refused(settings)
    for words in ("METAGOV_SECRET_KEY", str(key), "backup"):
        assert words in output
    assert not key.exists()
    kept.rename(key)
    await open_keys(settings)


async def test_what_needs_no_key_any_more_asks_for_none(settings: Settings) -> None:
    await store(
        settings, CommunityChange(community="c", status="applied"), Endpoint(url="http://x")
    )
    await open_keys(settings)
    assert (settings.data_dir / "secret-key").exists()


async def test_a_wrong_key_is_refused_and_several_are_taken(settings: Settings) -> None:
    old, new, other = (Fernet.generate_key().decode() for _ in range(3))
    await store(settings, *enabled(SecretBox([old])), *enabled(SecretBox([new]), "d"))
    assert "METAGOV_SECRET_KEY does not open" in await refused(with_keys(settings, other))
    assert "`new,old`" in await refused(with_keys(settings, new))
    await open_keys(with_keys(settings, new, old))
    make_secret_box(settings)
    assert str(settings.data_dir / "secret-key") in await refused(settings)


async def test_a_database_of_another_schema_is_refused(settings: Settings) -> None:
    box = SecretBox([Fernet.generate_key().decode()])
    readiness = Readiness(settings, box)
    assert await readiness.problem() is None
    await run_sql(settings, "UPDATE alembic_version SET version_num = '0001'")
    output = await refused(settings)
    assert f"schema 0001, and this version of the engine needs {newest_revision()}" in output
    assert "metagov migrate" in output
    assert "schema 0001" in str(await readiness.problem())
    await run_sql(settings, "UPDATE alembic_version SET version_num = '9999'")
    for start in (open_keys, bring_forward):
        output = await refused(settings, start)
        assert "schema 9999, which this version of the engine does not know" in output
    assert "schema 9999" in str(await readiness.problem())


async def test_a_database_without_tables_is_refused(database_url: str, tmp_path: Path) -> None:
    output = await refused(Settings(data_dir=tmp_path, database_url=database_url))
    assert "metagov migrate" in output
    assert not list(tmp_path.glob("*.sqlite"))


async def test_a_postgresql_that_cannot_be_written_is_refused(
    postgresql: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = Settings(
        data_dir=tmp_path, database_url=new_database("postgresql", tmp_path, request)
    )
    await bring_forward(settings)
    box = await open_keys(settings)
    assert settings.database_url is not None
    name = settings.database_url.get_secret_value().partition("?")[0].rpartition("/")[2]
    await run_sql(settings, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    for start in (open_keys, bring_forward):
        assert "it is read-only" in await refused(settings, start)
    assert "it is read-only" in str(await Readiness(settings, box).problem())


async def test_a_database_that_is_away_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        database_url="postgresql://someone:secret@127.0.0.1:1/nothing",
        database_outage_seconds=0,
    )
    for start in (open_keys, bring_forward):
        output = await refused(settings, start)
        assert output.startswith(
            "The database nothing on 127.0.0.1 cannot be used: it does not answ"
        )
        assert "secret" not in output


async def test_a_locked_database_is_waited_for(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir, database_timeout_seconds=0.2)
    with sqlite3.connect(data_dir / "metagov.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(open_keys(settings))
        done, _ = await asyncio.wait({opening}, timeout=1)
        assert not done
        other.execute("ROLLBACK")
    await opening


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(9000))


def truncated(path: Path) -> None:
    os.truncate(path, 4096 * 3)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_a_newer_reader(path: Path) -> None:
    _patch(path, 19, b"\x03")


def of_a_newer_writer(path: Path) -> None:
    _patch(path, 18, b"\x03")


def of_a_newer_schema_format(path: Path) -> None:
    _patch(path, 44, b"\x00\x00\x00\x09")


def _patch(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (garbage, "it is no SQLite database"),
        (truncated, "it is damaged"),
        (emptied, "it is empty"),
        (a_folder, "it is a folder"),
        (of_a_newer_reader, "newer SQLite"),
        (of_a_newer_writer, "newer SQLite"),
        (of_a_newer_schema_format, "newer SQLite"),
    ],
)
async def test_a_file_that_is_no_database_of_ours_is_named(
    damage: Callable[[Path], None], words: str, data_dir: Path
) -> None:
    settings = Settings(data_dir=data_dir)
    box = await open_keys(settings)
    readiness = Readiness(settings, box)
    assert await readiness.problem() is None
    path = data_dir / "metagov.sqlite"
    damage(path)
    for start in (open_keys, bring_forward):
        output = await refused(settings, start)
        assert str(path) in output
        assert words in output
    assert words in str(await readiness.problem())


def test_damage_inside_is_found_by_a_thorough_look(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (v TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 1000)
    connection.close()
    assert problem_of(path, "restore it", thorough=True, table="t") is None
    assert "no table u; restore it" in str(problem_of(path, "restore it", table="u"))
    _patch(path, 4096 * 20, b"\xff" * 4096)
    assert problem_of(path, "restore it") is None
    assert problem_of(path, "restore it", thorough=True) == "it is damaged; restore it"


def test_checking_a_file_gives_up_no_lock_on_it(tmp_path: Path) -> None:
    """Else the next process that closes the database deletes the log that this one writes to."""
    path = tmp_path / "engine.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as ours:
        ours.execute("PRAGMA journal_mode=WAL")
        ours.execute("CREATE TABLE vote (number INTEGER)")
        assert problem_of(path, "put it back") is None
        _count_elsewhere(path)
        ours.execute("INSERT INTO vote VALUES (1)")
        assert _count_elsewhere(path) == 1


def _count_elsewhere(path: Path) -> int:
    """Count in a process of its own, which closes the database after it."""
    look = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]);"
        "print(connection.execute('SELECT count(*) FROM vote').fetchone()[0]); connection.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", look, str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)
