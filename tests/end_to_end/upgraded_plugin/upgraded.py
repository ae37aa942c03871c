"""A plugin that both releases run; its platform is a file, a line for each effect."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import engine
from engine.plugins import GovernanceProcess, Plugin, ProcessStatus, Registry


@Registry.plugin
class Upgraded(Plugin):
    name = "upgraded"
    webhook_id_header = "X-Delivery"
    config_schema = {
        "type": "object",
        "properties": {"platform": {"type": "string"}},
        "required": ["platform"],
    }

    def effect(self, text: str) -> None:
        with Path(self.config["platform"]).open("a") as file:
            file.write(f"{text}\n")

    def effects(self) -> list[str]:
        return Path(self.config["platform"]).read_text().splitlines()

    def webhook_key(self, request: Any) -> Any:
        return request.headers.get("X-Concerns")

    @Registry.action(slug="count", description="count", input_schema={"type": "object"})
    def count(self) -> dict[str, Any]:
        return {"value": self.state.increment("counted"), "code": engine.__file__}

    @Registry.action(
        slug="announce",
        description="send an event",
        input_schema={"type": "object", "properties": {"id": {"type": "string"}}},
    )
    def announce(self, parameters: Any) -> None:
        self.send_event_to_driver("announced", {"id": parameters["id"]})

    @Registry.event_producer_task(every=2)
    def tick(self) -> None:
        self.effect(f"tick {time.time()}")


@Registry.governance_process
class Ballot(GovernanceProcess):
    """Completes with its third vote; counts in its own state."""

    name = "ballot"
    plugin_name = "upgraded"

    def start(self, parameters: Any) -> None:
        self.correlation_key = self.id
        if parameters.get("closes_in"):
            self.closing_at = self.now() + timedelta(seconds=parameters["closes_in"])
        self.outcome = {"votes": []}
        self.status = ProcessStatus.PENDING

    def receive_webhook(self, request: Any) -> None:
        self.outcome = {
            "votes": [*self.outcome["votes"], request.text],
            "counted": self.state.increment("votes"),
        }
        if len(self.outcome["votes"]) == 3:
            self.status = ProcessStatus.COMPLETED

    def close(self) -> None:
        self.outcome = {**self.outcome, "closed": True}
        self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class Watched(GovernanceProcess):
    """Polled alone."""

    name = "watched"
    plugin_name = "upgraded"
    poll_every = 1

    def start(self, parameters: Any) -> None:
        self.outcome = {"news": 0}
        self.status = ProcessStatus.PENDING

    def update(self) -> None:
        look(self)


@Registry.governance_process
class Crowd(GovernanceProcess):
    """Polled with all others of its class."""

    name = "crowd"
    plugin_name = "upgraded"
    poll_every = 1

    def start(self, parameters: Any) -> None:
        self.outcome = {"news": 0}
        self.status = ProcessStatus.PENDING

    @classmethod
    def update_many(cls, processes: Any) -> None:
        for process in processes:
            look(process)


def look(process: Any) -> None:
    lines = process.plugin_inst.effects()
    process.outcome = {"news": lines.count(f"news {process.id}")}
    if f"end {process.id}" in lines:
        process.status = ProcessStatus.COMPLETED
