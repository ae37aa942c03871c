"""What the tests start ends with them, however they end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.server_processes import ending_with_us, temporal_server

DIES = """
import asyncio, os, signal, sys
from pathlib import Path
import psutil
from tests.server_processes import postgresql_server, temporal_server

async def main():
    folder = Path(sys.argv[1])
    with postgresql_server(folder / "postgresql"):
        async with temporal_server(folder):
            print("servers:", *(child.pid for child in psutil.Process().children()), flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)

asyncio.run(main())
"""


@pytest.mark.skipif(
    ending_with_us([], signal.SIGKILL) == [], reason="only Linux signals a parent's death"
)
def test_no_server_outlives_tests_that_die_of_a_segmentation_fault(tmp_path: Path) -> None:
    """A reader of their output sees its end: no server holds it."""
    (tmp_path / "postgresql").mkdir()
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert died.returncode == -signal.SIGSEGV, died.stderr
    found = re.fullmatch(r"servers: (\d+) (\d+)\n", died.stdout)
    assert found, died.stdout
    servers = [psutil.Process(int(pid)) for pid in found.groups() if psutil.pid_exists(int(pid))]
    _, alive = psutil.wait_procs(servers, timeout=20)
    assert not alive


async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="unknown flag: --no-such-option"):
        async with temporal_server(tmp_path, "--no-such-option"):
            pass
