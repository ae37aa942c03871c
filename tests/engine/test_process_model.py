"""Whatever comes in whatever order: the record is what a model says that it may be."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from temporalio.client import Client

from tests.engine.conftest import RunningEngine, run_engine

VOTE = "/api/internal/process/durable.vote"
WORDS = st.sampled_from(["yes", "no", "abstain"])
PATIENCE_SECONDS = 15


class VoteMachine(RuleBasedStateMachine):
    """A community that holds one vote after the other; the class knows the engine."""

    running: RunningEngine
    url: str
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.http = httpx.Client(base_url=self.url, timeout=30)
        self.community = f"c-{uuid4().hex[:12]}"
        self.platform = self.folder / self.community
        self.platform.touch()
        self.enabled = False
        self.changes = 0
        self.votes: list[dict[str, Any]] = []
        self.vote: dict[str, Any] = {}

    def _put(self, *plugins: dict[str, Any]) -> None:
        answer = self.http.put(
            f"/api/internal/community/{self.community}",
            json={"name": self.community, "plugins": list(plugins)},
        )
        assert answer.status_code in (200, 201), answer.text

    def _plugin(self) -> dict[str, Any]:
        return {"name": "durable", "config": {"platform": str(self.platform), "n": self.changes}}

    def _record(self) -> dict[str, Any]:
        answer = self.http.get(f"{VOTE}/{self.vote['id']}")
        assert answer.status_code == 200
        record: dict[str, Any] = answer.json()
        return record

    def _until(self, check: Any) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not check(self._record()):
            assert time.monotonic() < deadline, self._record()
            time.sleep(0.03)

    def _ended(self, how: str) -> None:
        """From now on the record must stay as it is."""
        self._until(lambda record: record["status"] == "completed")
        record = self._record()
        disabled = {"code": record["errors"].get("code")}
        assert disabled == {"code": "plugin_disabled" if how == "disabled" else None}
        assert record["outcome"]["heard"] == self.vote["heard"]
        assert bool(record["outcome"].get("ended")) == (how == "platform")
        self.vote["final"] = record

    def _note(self, line: str) -> None:
        with self.platform.open("a") as file:
            file.write(f"{line}\n")

    @property
    def pending(self) -> bool:
        return "final" not in self.vote

    @initialize()
    def enable_and_start(self) -> None:
        self.enable()
        self.start()

    @precondition(lambda self: not self.enabled)
    @rule()
    def enable(self) -> None:
        self._put(self._plugin())
        self.enabled = True

    @precondition(lambda self: self.enabled and not self.pending)
    @rule()
    def start(self) -> None:
        """Two requests with one key are one vote."""
        name = uuid4().hex
        body = {"id": name, "callback_url": f"{self.running.driver.url}/{self.community}"}
        headers = {"X-Metagov-Community": self.community, "Idempotency-Key": name}
        answers = [self.http.post(VOTE, json=body, headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json()["id"] == answers[1].json()["id"]
        self.vote = {"id": answers[0].json()["id"], "name": name, "heard": [], "news": []}
        self.votes.append(self.vote)

    @rule(word=WORDS, twice=st.booleans())
    def webhook(self, word: str, twice: bool) -> None:
        """A webhook counts once, in its turn, and only while the vote is pending."""
        headers = {"X-Concerns": self.vote["name"], "X-Delivery": uuid4().hex}
        path = f"/api/hooks/{self.community}/durable"
        for _ in range(2 if twice else 1):
            answer = self.http.post(path, content=word, headers=headers)
            assert answer.status_code == (200 if self.enabled else 404)
        if self.pending:
            self.vote["heard"].append(word)
            self._until(lambda record: record["outcome"]["heard"] == self.vote["heard"])

    @precondition(lambda self: self.pending)
    @rule(word=WORDS)
    def poll_brings_news(self, word: str) -> None:
        self.vote["news"].append(word)
        self._note(f"news {self.vote['name']} {word}")
        self._until(lambda record: record["outcome"].get("news") == self.vote["news"])

    @precondition(lambda self: self.pending)
    @rule()
    def poll_ends_it(self) -> None:
        self._note(f"end {self.vote['name']}")
        self._ended("platform")

    @precondition(lambda self: self.pending)
    @rule()
    def deadline(self) -> None:
        self._note(f"deadline {self.vote['name']}")
        self._ended("deadline")

    @rule()
    def close(self) -> None:
        answer = self.http.delete(f"{VOTE}/{self.vote['id']}")
        if self.pending:
            assert answer.status_code == 200, answer.text
            self._ended("driver")
        else:
            assert answer.status_code == 400
            assert answer.json()["detail"] == "Can't close process, it has already completed"

    @precondition(lambda self: self.enabled)
    @rule(changed=st.booleans())
    def put(self, changed: bool) -> None:
        """The same config changes nothing; with another one, pending votes go on."""
        self.changes += changed
        self._put(self._plugin())

    @precondition(lambda self: self.enabled)
    @rule()
    def disable(self) -> None:
        was_pending = self.pending
        self._put()
        self.enabled = False
        if was_pending:
            self._ended("disabled")

    @invariant()
    def the_record_is_as_the_model_says(self) -> None:
        if not self.vote:
            return
        record = self._record()
        if self.pending:
            assert record["status"] == "pending"
            assert record["outcome"]["heard"] == self.vote["heard"]
        for vote in self.votes:
            if "final" in vote:
                assert self.http.get(f"{VOTE}/{vote['id']}").json() == vote["final"]

    def teardown(self) -> None:
        """Each end was delivered under one id, and nothing else was."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for vote in self.votes:
            if "final" not in vote:
                continue
            while not self._told(vote):
                assert time.monotonic() < deadline, "an end was not delivered"
                time.sleep(0.03)
            assert len(self._told(vote)) == 1
        for _, body in self._all_delivered():
            vote = next(vote for vote in self.votes if vote["id"] == body["id"])
            heard = body["outcome"]["heard"]
            assert heard == vote["heard"][: len(heard)]
        self.http.close()

    def _all_delivered(self) -> list[tuple[str, dict[str, Any]]]:
        driver = self.running.driver
        pairs = zip(list(driver.headers), list(driver.received), strict=False)
        return [
            (headers["webhook-id"], item["body"])
            for headers, item in pairs
            if item["path"] == f"/{self.community}"
        ]

    def _told(self, vote: dict[str, Any]) -> set[str]:
        return {
            name
            for name, body in self._all_delivered()
            if body["id"] == vote["id"] and body["status"] == "completed"
        }


@pytest.mark.timeout(240)
async def test_the_model_holds(temporal: Client, plugins: None, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    async with run_engine(temporal, url, tmp_path) as running:
        machine = type(
            "Machine",
            (VoteMachine,),
            {"running": running, "url": str(running.http.base_url), "folder": tmp_path},
        )
        chosen = settings(
            max_examples=10,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        await asyncio.to_thread(run_state_machine_as_test, machine, settings=chosen)
