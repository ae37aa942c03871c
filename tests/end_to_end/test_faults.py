"""The fault suite, as far as CI has time for it: ``make faults`` runs all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_doubled() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faults", "--ci", "--runs", "8"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=390,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "seed" in done.stdout
