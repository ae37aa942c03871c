"""Real children: how they end, how they are started again, and what the supervisor says of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.supervisor import Child, Children, StartError, clear_away, how_it_ended, record_file


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    children = Children(record_file(tmp_path))
    yield children
    children.stop()


def child(program: str, output: Path | None = None) -> Child:
    return Child("The child", ["/bin/sh", "-c", program], dict(os.environ), output)


def wait_ended(child: Child) -> None:
    assert child.process is not None
    child.process.wait(20)


def for_turns(count: int) -> Callable[[], bool]:
    """Says after so many questions that it is time to stop."""
    turns = iter(range(count))
    return lambda: next(turns, None) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-9, "ended by SIGKILL"),
        (-signal.SIGSEGV, "ended by SIGSEGV"),
        (-40, "ended by signal 40"),
    ],
)
def test_how_a_process_ended_in_words(status: int, words: str) -> None:
    assert how_it_ended(status) == words


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("exit 3", "The child ended with status 3; starting it again"),
        ("kill -9 $$", "The child ended by SIGKILL; starting it again"),
        ("exit 70", "The child ended, for its event loop had stalled; see above; starting it"),
    ],
)
def test_what_ended_is_started_again_and_it_is_said_why(
    children: Children, capsys: pytest.CaptureFixture[str], program: str, words: str
) -> None:
    started = children.start(child(program))
    wait_ended(started)
    children.watch(for_turns(1))
    assert words in capsys.readouterr().err
    assert started.quick_failures == 1


def test_what_ends_again_and_again_stops_the_engine(children: Children) -> None:
    children.start(child("exit 3"))
    with pytest.raises(StartError, match="as soon as it is started, the last time it ended with"):
        children.watch(for_turns(100))


def test_one_that_ends_while_starting_is_named_with_its_log(
    children: Children, tmp_path: Path
) -> None:
    """Also while another one is waited for."""
    log = tmp_path / "child.log"
    wait_ended(children.start(child("echo broken; kill -11 $$", output=log)))
    other = children.start(child("sleep 60"))
    with pytest.raises(StartError) as caught:
        children.wait_until_ready(other, lambda: False, lambda: False)
    assert caught.value.detail == (
        f"The child did not get ready: it ended by SIGSEGV; its log is {log}"
    )
    assert log.read_text() == "broken\n"


def test_the_last_one_stops_first_and_the_record_goes(tmp_path: Path) -> None:
    children = Children(record_file(tmp_path))
    ended = tmp_path / "ended"
    for name in ("first", "second"):
        ready = tmp_path / name
        noting = f"trap 'echo {name} >> {ended}; exit' TERM; touch {ready}"
        started = children.start(child(f"{noting}; while :; do sleep 0.05; done"))
        children.wait_until_ready(started, ready.exists, lambda: False)
    assert len(json.loads(children.record.read_text())["children"]) == 2
    children.stop()
    assert ended.read_text() == "second\nfirst\n"
    assert not children.record.exists()


def test_only_what_was_left_behind_is_cleared_away(tmp_path: Path) -> None:
    """Not a process that got the same id since."""
    children = Children(record_file(tmp_path))
    left, stranger = children.start(child("sleep 60")), children.start(child("sleep 60"))
    noted = json.loads(children.record.read_text())
    noted["children"][1]["created"] -= 3600
    children.record.write_text(json.dumps(noted))
    clear_away(tmp_path)
    assert left.ended
    assert not stranger.ended
    children.stop()
    clear_away(tmp_path)


def test_a_child_is_in_a_session_of_its_own(children: Children) -> None:
    started = children.start(child("sleep 60"))
    assert started.process is not None
    assert os.getsid(started.process.pid) == started.process.pid
