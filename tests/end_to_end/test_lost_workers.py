"""Workers that die, stop and stand still in the middle of calls: nothing is done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from examples.driver import Callbacks
from tests.conftest import DURABLE_PLUGIN, PLUGINS_UNDER_TEST
from tests.end_to_end.conftest import EngineProcess, make_engine

KEY = {"Idempotency-Key": "once"}


class Place:
    """An engine with the plugin ``durable``, its platform, and a request under way."""

    def __init__(self, engine: EngineProcess, platform: Path) -> None:
        self.engine = engine
        self.platform = platform
        self.answers: list[httpx.Response] = []
        self.seconds = 0.0

    def act(self) -> httpx.Response:
        answer = httpx.post(
            f"{self.engine.url}/api/internal/action/durable.once",
            json={"parameters": {"id": "a", "seconds": self.seconds}},
            headers={"X-Metagov-Community": "c", **KEY},
            timeout=90,
        )
        self.answers.append(answer)
        return answer

    def begin(self, seconds: float) -> threading.Thread:
        """Ask for the action, and wait until its effect is made."""
        self.seconds = seconds
        thread = self.ask(self.act)
        self.until(lambda: self.effects() == 1)
        return thread

    def ask(self, request: Callable[[], object]) -> threading.Thread:
        """Send a request whose answer may never come."""

        def send() -> None:
            with suppress(httpx.HTTPError):
                request()

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        return thread

    def effects(self) -> int:
        lines = self.platform.read_text().splitlines() if self.platform.exists() else []
        return lines.count("action a")

    def until(self, check: Callable[[], bool], seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < deadline, self.platform.read_text()
            time.sleep(0.02)


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    platform = tmp_path / "platform"
    settings = {
        "METAGOV_PLUGIN_PATH": f"{DURABLE_PLUGIN}:{PLUGINS_UNDER_TEST}",
        "METAGOV_WORKER_WAIT_SECONDS": "3",
        "METAGOV_STALL_SECONDS": "60",
        **getattr(request, "param", {}),
    }
    engine = make_engine(tmp_path / "data", **settings)
    engine.start()
    try:
        engine.put("c", {"name": "durable", "config": {"platform": str(platform)}})
        yield Place(engine, platform)
    finally:
        engine.stop()


def test_a_worker_that_is_stopped_for_long_is_no_reason_to_do_it_again(place: Place) -> None:
    """By SIGSTOP, for longer than heartbeats may be missed and a request waits for a worker."""
    asked = place.begin(seconds=2)
    worker = place.engine.children()["worker"]
    os.kill(worker, signal.SIGSTOP)
    asked.join(20)
    os.kill(worker, signal.SIGCONT)
    asked.join(40)
    assert place.answers[0].status_code in (200, 504), place.answers[0].text
    again = place.act()
    assert again.status_code in (200, 504), again.text
    assert place.effects() == 1


def test_a_worker_that_is_gone_for_long_is_no_reason_either(place: Place) -> None:
    """Nobody is there to take the second try, and the request stops waiting for one."""
    asked = place.begin(seconds=20)
    supervisor = place.engine.process
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGSTOP)
    os.kill(place.engine.children()["worker"], signal.SIGKILL)
    asked.join(60)
    os.kill(supervisor.pid, signal.SIGCONT)
    assert place.answers[0].status_code == 504, place.answers[0].text
    assert place.act().status_code == 504
    assert place.effects() == 1


def test_temporals_file_may_be_lost_in_the_middle_of_an_action_and_a_start(place: Place) -> None:
    callbacks = Callbacks()
    asked = place.begin(seconds=20)
    body: dict[str, object] = {"id": "v", "after": 20, "callback_url": callbacks.url}
    place.ask(lambda: place.engine.post("c", "process/durable.blind", body))
    place.until(lambda: place.platform.read_text().count("poll ") == 1)
    place.engine.kill_everything()
    asked.join(20)
    for file in place.engine.data_dir.glob("temporal.sqlite*"):
        file.unlink()
    place.engine.start()
    delivered = callbacks.completed(60)
    assert delivered["errors"]["code"] == "start_outcome_unknown"
    again = place.act()
    assert again.status_code == 504, again.text
    assert place.effects() == 1
    assert place.platform.read_text().count("poll ") == 1


def test_a_poison_pill_ends_and_others_go_on(place: Place) -> None:
    callbacks = Callbacks()
    engine = place.engine
    for sick in ("sick-1", "sick-2"):
        engine.put(sick, {"name": "poisonous", "config": {}})
        started = engine.post(sick, "process/poisonous.vote", {"callback_url": callbacks.url})
        assert started.status_code == 202
        assert httpx.post(f"{engine.url}/api/hooks/{sick}/poisonous", timeout=30).is_success
    answers: list[int] = []
    deadline = time.monotonic() + 100
    while len(answers) < 20 or callbacks.received.qsize() < 2:
        assert time.monotonic() < deadline, "".join(engine.output[-300:])
        answers.append(
            engine.post("c", "action/durable.read", {"parameters": {"key": "x"}}).status_code
        )
        time.sleep(0.3)
    delivered = [callbacks.completed(1), callbacks.completed(1)]
    assert {record["errors"]["code"] for record in delivered} == {"worker_lost"}
    # Only what was under way in the moment of a death may not be known.
    assert answers.count(200) >= len(answers) - 2, answers
    assert "".join(engine.output).count("The worker ended") <= 3


@pytest.mark.parametrize("place", [{"METAGOV_MOST_LOST_ACTIONS": "2"}], indirect=True)
def test_actions_that_take_their_worker_down_are_made_alone_and_then_not(place: Place) -> None:
    """Such an action is not repeated, but drivers ask for the next one."""
    engine = place.engine
    engine.put("sick", {"name": "poisonous", "config": {}})
    answers = [engine.post("sick", "action/poisonous.leave", {}) for _ in range(6)]
    kinds = [answer.json()["type"].rpartition(":")[2] for answer in answers]
    # Two in a worker, then three alone.
    assert kinds == [*["outcome_unknown"] * 5, "plugin_paused"]
    assert "".join(engine.output).count("The worker ended") == 2
    healthy = engine.post("c", "action/durable.read", {"parameters": {"key": "x"}})
    assert healthy.status_code == 200


@pytest.mark.long
@pytest.mark.parametrize("place", [{"METAGOV_LOST_CALLS_PAUSE_SECONDS": "5"}], indirect=True)
def test_a_webhook_whose_key_kills_does_so_once_for_its_own_and_once_for_others(
    place: Place,
) -> None:
    engine = place.engine
    engine.put("sick", {"name": "poisonous-keys", "config": {}})
    started = engine.post("sick", "process/poisonous-keys.vote", {})
    hook, texts = f"{engine.url}/api/hooks/sick/poisonous-keys", [f"ballot-{n}" for n in range(6)]
    assert httpx.post(hook, content="poison", timeout=30).status_code == 200
    for text in texts:
        assert httpx.post(hook, content=text, timeout=30).status_code == 200
        time.sleep(1)
    closed = httpx.delete(f"{engine.url}{started.headers['location']}", timeout=120)
    assert closed.status_code == 200, closed.text
    heard = closed.json()["outcome"]["heard"]
    assert [text for text in heard if text != "poison"] == texts
    output = "".join(engine.output)
    assert output.count("The worker ended") <= 2, output[-3000:]
    assert "The API ended" not in output
