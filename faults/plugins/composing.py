"""A plugin of processes that start processes; what they do is counted on a platform: a file."""

import time

from engine.plugins import GovernanceProcess, PlatformDownError, Plugin, ProcessStatus, Registry
from faults.platform import effect, effects


@Registry.plugin
class Composing(Plugin):
    name = "composing"
    webhook_id_header = "X-Delivery"
    config_schema = {
        "type": "object",
        "properties": {"platform": {"type": "string"}},
        "required": ["platform"],
    }


class Starting(GovernanceProcess):
    """Starts what its parameter ``children`` says, in the method that ``where`` says."""

    plugin_name = "composing"

    def start_children(self, method):
        if self.parameters.get("where", "start") != method or self.state.get("started"):
            return
        started = [self.start_process(**one) for one in self.children()]
        if not self.parameters.get("forgetful"):
            self.state.set("started", started)
        effect(self.plugin_inst.config, f"{method} {self.parameters.get('id')}")
        time.sleep(self.parameters.get("after", 0))
        if self.parameters.get("broken"):
            raise ValueError("after starting")

    def children(self):
        return self.parameters.get("children", [])

    def start(self, parameters):
        self.outcome = {"ended": []}
        self.status = ProcessStatus.PENDING
        self.start_children("start")
        if parameters.get("over"):
            self.status = ProcessStatus.COMPLETED

    def close(self):
        self.start_children("close")
        if self.parameters.get("where") != "close" or self.outcome["ended"]:
            self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class Parent(Starting):
    """Ends when as many children have as its parameter ``wanted`` says."""

    name = "parent"
    poll_every = 1

    def update(self):
        self.start_children("update")

    def receive_webhook(self, request):
        self.start_children("webhook")

    def child_completed(self, child):
        config = self.plugin_inst.config
        effect(config, f"completed {self.parameters.get('id')} {child.id}")
        time.sleep(self.parameters.get("handling", 0))
        if self.parameters.get("confused"):
            raise ValueError("cannot handle it")
        ended = {"name": child.name, "outcome": child.outcome, "code": child.errors.get("code")}
        self.outcome["ended"].append(ended)
        self.start_children("child_completed")
        if len(self.outcome["ended"]) == self.parameters.get("wanted", 1):
            self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class Careless(Starting):
    """Starts processes, and does not want to know how they end."""

    name = "careless"


@Registry.governance_process
class Together(Starting):
    """Starts processes when it is polled together with others."""

    name = "together"
    poll_every = 1

    @classmethod
    def update_many(cls, processes):
        for process in processes:
            process.start_children("update_many")

    def child_completed(self, child):
        self.outcome["ended"].append(child.id)
        self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class Part(GovernanceProcess):
    """Ends when its platform says so, or at once."""

    name = "part"
    plugin_name = "composing"
    poll_every = 1
    input_schema = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "kind": {"type": "string", "default": "plain"},
            "at_once": {"type": "boolean"},
            "broken": {"type": "boolean"},
        },
        "required": ["id"],
        "additionalProperties": False,
    }

    def start(self, parameters):
        effect(self.plugin_inst.config, f"part {parameters.id}")
        if parameters.broken:
            raise PlatformDownError("it answered 500")
        self.outcome = {"kind": parameters.kind}
        self.status = ProcessStatus.COMPLETED if parameters.at_once else ProcessStatus.PENDING

    def update(self):
        if f"end {self.parameters.id}" in effects(self.plugin_inst.config):
            self.outcome = {**self.outcome, "ended": True}
            self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class Chain(GovernanceProcess):
    """Starts itself for ever."""

    name = "chain"
    plugin_name = "composing"

    def start(self, parameters):
        self.start_process("composing.chain")
        self.status = ProcessStatus.PENDING

    def child_completed(self, child):
        self.outcome = {"below": child.outcome, "errors": child.errors}
        self.status = ProcessStatus.COMPLETED
