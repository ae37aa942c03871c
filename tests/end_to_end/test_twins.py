"""The twins as processes: all of them by one command, or one alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx

from tests.conftest import REPOSITORY


def test_one_command_runs_all_twins() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sandbox"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        output = [running.stdout.readline() for _ in range(5)]
        try:
            assert output[4] == "Ctrl-C stops them.\n", output
            for line in output[:4]:
                title, _, rest = line.partition(": ")
                assert title in httpx.get(rest.split()[0]).text
        finally:
            running.send_signal(signal.SIGINT)
        assert running.stdout.read() == "Stopped.\n"


def test_twin_says_how_it_is_run() -> None:
    output = subprocess.run(
        [sys.executable, "-m", "sandbox.loomio", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"NO_COLOR": "1", "TERM": "dumb"},
        cwd=REPOSITORY,
    )
    assert output.returncode == 0, output.stderr
    assert "--port" in output.stdout
