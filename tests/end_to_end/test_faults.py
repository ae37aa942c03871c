"""The fault suite, as far as CI has time for it: ``make faults`` runs all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_doubled() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faults", "--ci", "--runs", "2"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=390,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "runs in" in done.stdout


def test_a_title_that_no_fault_has_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faults", "--only", "nothing like it"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert "no fault's title holds 'nothing like it'; --list prints them" in done.stderr
