"""Plugin code that blocks its loop or holds the interpreter, and processes that stand still."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import PLUGINS_UNDER_TEST
from tests.end_to_end.conftest import EngineProcess, make_engine

STALL_SECONDS = 3


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with a plugin that stalls it, and a community without."""
    engine = make_engine(
        tmp_path_factory.mktemp("engine") / "data",
        METAGOV_PLUGIN_PATH=str(PLUGINS_UNDER_TEST),
        METAGOV_INVOCATION_TIMEOUT_SECONDS="2",
        METAGOV_STALL_SECONDS=str(STALL_SECONDS),
    )
    engine.start()
    engine.put("others", {"name": "randomness", "config": {}})
    engine.put("stalling", {"name": "stalling", "config": {"team": "us"}})
    yield engine
    engine.stop()


@pytest.fixture
def engine(running: EngineProcess) -> EngineProcess:
    """The same, as it is after its start."""
    until(lambda: acts(running))
    running.output.clear()
    return running


def until(check: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def pid(engine: EngineProcess, name: str) -> int:
    return engine.children()[name]


def replaced(engine: EngineProcess, name: str, before: int) -> bool:
    return pid(engine, name) != before


def acts(engine: EngineProcess) -> bool:
    """Whether an action of the other community succeeds."""
    try:
        answer = engine.post("others", "action/randomness.random-int", {})
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def printed(engine: EngineProcess, words: str) -> bool:
    return any(words in line for line in engine.output)


def test_an_async_def_that_blocks_stops_nobody(engine: EngineProcess) -> None:
    worker, api = pid(engine, "worker"), pid(engine, "API")
    body: dict[str, object] = {"parameters": {"how": "sleep"}}
    with ThreadPoolExecutor(5) as pool:
        blocked = [
            pool.submit(engine.post, "stalling", "action/stalling.hold-up", body) for _ in range(5)
        ]
        longest = 0.0
        while not all(call.done() for call in blocked):
            began = time.monotonic()
            assert acts(engine)
            longest = max(longest, time.monotonic() - began)
    assert longest < 2
    for call in blocked:
        answer = call.result()
        assert answer.status_code == 504, answer.text
        assert "did not end action 'stalling.hold-up' within 2 s" in answer.json()["detail"]
    assert (pid(engine, "worker"), pid(engine, "API")) == (worker, api)


@pytest.mark.parametrize("action", ["hold-up", "compute"])
def test_a_worker_whose_interpreter_is_held_is_replaced(engine: EngineProcess, action: str) -> None:
    worker, api = pid(engine, "worker"), pid(engine, "API")
    body: dict[str, object] = {"parameters": {"how": "compute"}}
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(engine.post("stalling", f"action/stalling.{action}", body))
    )
    asking.start()
    until(lambda: replaced(engine, "worker", worker))
    until(lambda: acts(engine))
    assert pid(engine, "API") == api
    assert printed(engine, "The worker ended, for its event loop had stalled")
    assert printed(engine, "in hold_up")
    asking.join(60)
    assert answers[0].status_code >= 500, answers[0].text


@pytest.mark.parametrize("header", ["X-Verify", "X-Route"])
def test_webhooks_that_stall_a_plugin_stop_no_driver(engine: EngineProcess, header: str) -> None:
    hook = f"{engine.url}/api/hooks/stalling" + ("/stalling" if header == "X-Verify" else "")
    api = pid(engine, "API")

    def send(how: str) -> int:
        try:
            return httpx.post(hook, headers={header: how}, timeout=60).status_code
        except httpx.HTTPError:
            return 0

    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(send, "sleep")
        while not blocked.done():
            assert acts(engine)
        assert blocked.result() == (401 if header == "X-Verify" else 404)
        assert pid(engine, "API") == api
        cut_off = pool.submit(send, "compute")
        until(lambda: replaced(engine, "API", api))
        assert cut_off.result() == 0
    until(lambda: acts(engine))
    assert printed(engine, "The API ended, for its event loop had stalled")
    assert send("") == 200


def test_a_worker_that_was_stopped_for_ever_is_replaced(engine: EngineProcess) -> None:
    """One that was stopped for a shorter time goes on."""
    worker = pid(engine, "worker")
    os.kill(worker, signal.SIGSTOP)
    time.sleep(STALL_SECONDS + 1)
    os.kill(worker, signal.SIGCONT)
    time.sleep(STALL_SECONDS)
    assert acts(engine)
    assert pid(engine, "worker") == worker
    os.kill(worker, signal.SIGSTOP)
    until(lambda: replaced(engine, "worker", worker))
    assert printed(engine, "The worker has not come round for")
    until(lambda: acts(engine))


def test_an_api_that_was_stopped_for_ever_is_replaced(engine: EngineProcess) -> None:
    api = pid(engine, "API")
    os.kill(api, signal.SIGSTOP)
    until(lambda: replaced(engine, "API", api))
    assert printed(engine, "The API has not come round for")
    until(lambda: acts(engine))
