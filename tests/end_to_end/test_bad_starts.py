"""What cannot work is refused at the start: one sentence on stderr, no stack trace."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from engine.settings import Settings
from engine.store.communities import Community, PluginInstance
from engine.store.database import open_database
from engine.store.outside import Remembered
from engine.store.schema import migrate
from engine.store.secrets import SecretBox
from sandbox.ports import free_ports
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import EngineProcess, make_engine

# Root may write everything; without these it is held to a file's mode as others are.
AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
KEY = "Zm9yIHRlc3RzIG9ubHksIDMyIGJ5dGVzIG9mIGtleS4="
OTHER_KEY = "YW5vdGhlciBrZXkgZm9yIHRlc3RzLCAzMiBieXRlcy4="


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A data folder as an engine left it: a database with a plugin's config, and its key."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "secret-key").write_text(KEY)
    database = open_database(Settings(data_dir=folder))
    await migrate(database)
    async with database.write() as session:
        session.add(Community(name="c"))
        await session.flush()
        config = SecretBox([KEY]).encrypt({})
        session.add(
            PluginInstance(
                community="c", plugin="randomness", instance="randomness", config_encrypted=config
            )
        )
    await database.close()
    return folder


def refusal(data: Path, command: str, **settings: str) -> str:
    """Start a process of the engine; gives the one sentence with which it refuses."""
    ended = subprocess.run(
        [*(AS_ANYBODY if os.getuid() == 0 else []), sys.executable, "-m", "cli", command],
        env=make_engine(data, METAGOV_DATABASE_OUTAGE_SECONDS="0", **settings).environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    output = ended.stderr
    assert ended.returncode == 2, ended.stdout + output
    assert "Traceback" not in ended.stdout + output
    assert output.startswith("metagov: ")
    assert output.count("\n") == 1
    return output


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(9000))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


RUN, API, WORKER, MIGRATE = (
    pytest.param(command, marks=pytest.mark.long) for command in ("run", "api", "worker", "migrate")
)


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("command", ["run", API, WORKER, "migrate"])
def test_a_database_that_is_none(data: Path, command: str) -> None:
    path = data / "metagov.sqlite"
    path.write_bytes(os.urandom(9000))
    output = refusal(data, command)
    assert f"The database {path} cannot be used: it is no SQLite database" in output
    assert "backup" in output


@pytest.mark.parametrize("command", ["run", API, "worker"])
def test_a_secret_key_that_was_lost(data: Path, command: str) -> None:
    (data / "secret-key").unlink()
    output = refusal(data, command)
    for words in ("METAGOV_SECRET_KEY", str(data / "secret-key"), "backup of the data folder"):
        assert words in output
    assert not (data / "secret-key").exists()


@pytest.mark.parametrize("command", [RUN, "api", WORKER])
def test_a_secret_key_that_opens_nothing(data: Path, command: str) -> None:
    output = refusal(data, command, METAGOV_SECRET_KEY=OTHER_KEY)
    assert "METAGOV_SECRET_KEY does not open" in output
    assert OTHER_KEY not in output


@pytest.mark.parametrize("command", ["api", WORKER])
def test_a_database_that_was_not_migrated(tmp_path: Path, command: str) -> None:
    assert "metagov migrate" in refusal(tmp_path / "data", command)
    assert not (tmp_path / "data/metagov.sqlite").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [(garbage, "no SQLite database"), (emptied, "is empty"), (a_folder, "is a folder")],
)
def test_a_file_of_temporal_that_is_none(
    data: Path, damage: Callable[[Path], None], words: str
) -> None:
    path = data / "temporal.sqlite"
    damage(path)
    output = refusal(data, "run")
    assert str(path) in output
    assert words in output
    assert "backup, or remove it" in output
    assert not (data / "temporal.log").exists()


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("engine.lock", "METAGOV_DATA_DIR"),
        ("temporal.log", "METAGOV_DATA_DIR"),
        ("secret-key", "secret-key"),
    ],
)
def test_a_folder_where_a_file_should_be(data: Path, name: str, setting: str) -> None:
    a_folder(data / name)
    output = refusal(data, "run")
    assert str(data / name) in output
    assert setting in output


@pytest.mark.parametrize("command", [RUN, API, "worker", MIGRATE])
def test_a_file_where_the_data_folder_should_be(tmp_path: Path, command: str) -> None:
    path = tmp_path / "data"
    path.write_text("")
    output = refusal(path, command)
    assert str(path) in output


@pytest.mark.parametrize("command", ["run", "api", WORKER, MIGRATE])
def test_data_that_this_user_may_not_write(data: Path, command: str) -> None:
    for path in data.iterdir():
        path.chmod(0o444)
    data.chmod(0o555)
    output = refusal(data, command)
    assert str(data) in output
    assert "this user" in output


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"METAGOV_TEMPORAL_PORT": "9", "METAGOV_PORT": "9"}, "a port of its own"),
        ({"METAGOV_WORKER_GRACE_SECONDS": "60"}, "METAGOV_WORKER_GRACE_SECONDS"),
        ({"METAGOV_DRIVER_EVENT_RECEIVER_URL": "http://10.0.0.1/x"}, "DRIVER_EVENT_RECEIVER_URL"),
    ],
)
def test_settings_that_contradict_each_other(
    data: Path, settings: dict[str, str], words: str
) -> None:
    assert words in refusal(data, "run", **settings)


@pytest.mark.parametrize("command", ["run", "migrate", "restored"])
def test_a_database_that_is_gone_is_not_begun_anew(data: Path, command: str) -> None:
    """Processes that Temporal still has would be ended for good."""
    remembered = Remembered(database=1, epoch=1, beats=3, told=7)
    (data / "told.json").write_text(remembered.encode())
    (data / "metagov.sqlite").unlink()
    output = refusal(data, command)
    assert "metagov.sqlite" in output
    assert "put it back from the backup" in output
    assert not (data / "metagov.sqlite").exists()


@pytest.mark.parametrize("command", ["restored", "worker"])
def test_a_namespace_that_temporal_has_not(lasting_engine: EngineProcess, command: str) -> None:
    """The server that is asked runs; nothing is marked as restored."""
    address = f"127.0.0.1:{lasting_engine.environment['METAGOV_TEMPORAL_PORT']}"
    before = epoch(lasting_engine)
    output = refusal(
        lasting_engine.data_dir,
        command,
        METAGOV_TEMPORAL_ADDRESS=address,
        METAGOV_TEMPORAL_NAMESPACE="elsewhere",
    )
    assert "METAGOV_TEMPORAL_NAMESPACE: the Temporal server has no namespace 'elsewhere'" in output
    assert epoch(lasting_engine) == before


def epoch(engine: EngineProcess) -> int:
    with closing(sqlite3.connect(engine.data_dir / "metagov.sqlite")) as database:
        (epoch,) = database.execute("SELECT max(epoch) FROM database_epoch").fetchone()
    return int(epoch)


def test_a_worker_without_a_temporal_server(data: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    output = refusal(
        data, "worker", METAGOV_TEMPORAL_ADDRESS=address, METAGOV_WORKER_WAIT_SECONDS="1"
    )
    assert f"The Temporal server at {address} does not answer" in output


def test_nothing_is_marked_as_restored_where_there_is_nothing(tmp_path: Path) -> None:
    assert "nothing was restored" in refusal(tmp_path, "restored")
    made = {path.name for path in tmp_path.iterdir()}
    assert made.isdisjoint({"metagov.sqlite", "secret-key"})
