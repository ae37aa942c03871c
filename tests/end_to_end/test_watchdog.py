"""Real processes whose event loops stand still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cli.beats import Beats
from engine.watchdog import STALLED
from tests.conftest import REPOSITORY

PROGRAM = """
import asyncio, re, sys, threading, time
from engine.watchdog import watched_loop

def compute():
    re.match("(a+)+$", "a" * 60 + "b")

async def main(stall_seconds, how, beats):
    async with watched_loop(stall_seconds, beats) as watch:
        print("watched", flush=True)
        if how == "compute":
            threading.Thread(target=compute, daemon=True).start()
        if how == "sleep":
            time.sleep(60)
        if how == "ready":
            watch.ready()
        await asyncio.sleep(float(how) if how[0].isdigit() else 60)
    time.sleep(2)
    print("ended", flush=True)

asyncio.run(main(float(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if sys.argv[3:] else None))
"""


@contextmanager
def program(stall_seconds: float, how: str, *beats: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(stall_seconds), how, *map(str, beats)],
        cwd=REPOSITORY,
        pass_fds=beats,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "watched\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("how", "status", "line", "place"),
    [("compute", -signal.SIGPROF, 6, "compute"), ("sleep", STALLED, 14, "main")],
)
def test_a_loop_that_stands_still_ends_its_process(
    how: str, status: int, line: int, place: str
) -> None:
    """It writes where each thread stands."""
    with program(1, how) as process:
        _, output = process.communicate(timeout=60)
    assert process.returncode == status
    assert f'File "<string>", line {line} in {place}' in output


def test_one_that_comes_round_is_left_alone() -> None:
    with program(1, "3") as process:
        out, output = process.communicate(timeout=60)
    assert (process.returncode, out, output) == (0, "ended\n", "")


def test_one_that_is_not_watched_is_left_alone() -> None:
    with program(0, "sleep") as process, pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)


def test_one_that_was_paused_goes_on() -> None:
    """By SIGSTOP here, as by a machine that sleeps."""
    with program(1, "4") as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        assert process.poll() is None
        process.send_signal(signal.SIGCONT)
        out, output = process.communicate(timeout=60)
    assert (process.returncode, out, output) == (0, "ended\n", "")


def test_a_process_shows_that_its_loop_comes_round() -> None:
    beats = Beats(start_seconds=5, silence_seconds=1)
    writer = beats.expect()
    with program(0, "sleep", writer):
        os.close(writer)
        assert beats.look(100) is None
        assert beats.look(0.9) is None
        assert beats.look(0.9) == 1.8
    writer = beats.expect()
    with program(1, "60", writer):
        os.close(writer)
        for _ in range(4):
            time.sleep(1)
            assert beats.look(1.1) is None
    beats.close()


def test_a_process_says_once_that_it_is_ready() -> None:
    beats = Beats(start_seconds=5, silence_seconds=1)
    for how in ("60", "ready"):
        writer = beats.expect()
        with program(0, how, writer):
            os.close(writer)
            deadline = time.monotonic() + (2.5 if how == "60" else 30)
            while not beats.ready() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert beats.ready() is (how == "ready")
    os.close(beats.expect())
    assert not beats.ready()
    beats.close()
