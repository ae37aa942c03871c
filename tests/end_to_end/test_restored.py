"""Put back from a backup, as an operator does it: the database alone, and the whole data folder."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import EngineProcess

COMMUNITY = "restored"
PROCESS = "tutorial.show-of-hands"


def vote(engine: EngineProcess) -> str:
    """Hold a vote; gives where it is."""
    started = engine.post(COMMUNITY, f"process/{PROCESS}", {"title": "Shall we?"})
    assert started.status_code == 202, started.text
    location = started.headers["location"]
    assert httpx.delete(f"{engine.url}{location}", timeout=120).status_code == 200
    return location


def read(engine: EngineProcess, after: str | None, count: int) -> tuple[list[Any], str | None]:
    """Read on until so many were delivered."""
    found: list[Any] = []
    while len(found) < count:
        params: dict[str, Any] = {"wait": 30} | ({"after": after} if after else {})
        page = httpx.get(f"{engine.url}/api/internal/events", params=params, timeout=120)
        assert page.status_code == 200, page.text
        assert page.json()["events"], ("nothing came in time", found)
        found += page.json()["events"]
        after = page.json()["next_cursor"]
    return found, after


def check_order(delivered: list[Any]) -> None:
    """Positions only grow, and none is given twice."""
    positions = [item["position"] for item in delivered]
    assert positions == sorted(set(positions))
    assert len({item["cursor"] for item in delivered}) == len(delivered)


def command(engine: EngineProcess, *options: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "cli", "restored", *options],
        env=engine.environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.timeout(300)
def test_the_databases_file_alone_is_found_restored(engine: EngineProcess, tmp_path: Path) -> None:
    """It was copied while the engine ran; Temporal has gone on since."""
    engine.put(COMMUNITY, {"name": "tutorial", "config": {"api_key": "k"}})
    vote(engine)
    seen, cursor = read(engine, None, 1)
    file, backup = engine.data_dir / "metagov.sqlite", tmp_path / "backup.sqlite"
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    since = vote(engine)
    delivered, cursor = read(engine, cursor, 1)
    seen += delivered
    engine.stop()
    for leftover in engine.data_dir.glob("metagov.sqlite*"):
        leftover.unlink()
    shutil.copy(backup, file)
    engine.start()
    assert "restored from a backup" in "".join(engine.output)
    delivered, cursor = read(engine, cursor, 1)
    assert (delivered[0]["id"], delivered[0]["data"]) == (seen[-1]["id"], seen[-1]["data"])
    assert httpx.get(f"{engine.url}{since}", timeout=120).json()["status"] == "completed"
    deadline = time.monotonic() + 60
    while "1 processes began and ended since" not in (printed := command(engine)):
        assert time.monotonic() < deadline, printed
    check_order(seen + delivered)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_all_of_the_data_folder_is_restored_by_command(
    engine: EngineProcess, tmp_path: Path
) -> None:
    """Nothing but the operator, or a driver, knows it."""
    engine.put(COMMUNITY, {"name": "tutorial", "config": {"api_key": "k"}})
    vote(engine)
    seen, cursor = read(engine, None, 1)
    engine.stop()
    shutil.copytree(engine.data_dir, tmp_path / "folder")
    engine.start()
    for _ in range(2):
        vote(engine)
    delivered, cursor = read(engine, cursor, 2)
    seen += delivered
    engine.stop()
    shutil.rmtree(engine.data_dir)
    shutil.copytree(tmp_path / "folder", engine.data_dir)
    assert "--again" in command(engine)
    marked = command(engine, "--again")
    assert "is marked as restored" in marked
    assert "Temporal does not answer" in marked
    engine.start()
    vote(engine)
    delivered, cursor = read(engine, cursor, 1)
    check_order(seen + delivered)
