"""Ballots that people vote in by webhook, and tallies that change in place."""

import time
from datetime import timedelta

from engine.plugins import GovernanceProcess, Plugin, ProcessStatus, Registry
from faults.platform import effect, effects


@Registry.plugin
class Voting(Plugin):
    name = "voting"
    webhook_id_header = "X-Delivery"
    config_schema = {
        "type": "object",
        "properties": {"platform": {"type": "string"}},
        "required": ["platform"],
    }

    def webhook_key(self, request):
        return request.headers.get("X-Concerns")

    @Registry.webhook_receiver(event_schemas=[])
    def on_webhook(self, request):
        time.sleep(request.json().get("receiving", 0))


@Registry.governance_process
class Ballot(GovernanceProcess):
    """Keeps its votes in the order in which they come."""

    name = "ballot"
    plugin_name = "voting"

    def start(self, parameters):
        effect(self.plugin_inst.config, f"ballot {parameters['id']}")
        time.sleep(parameters.get("starting", 0))
        self._made()

    def find_started(self, parameters):
        if f"ballot {parameters['id']}" not in effects(self.plugin_inst.config):
            return False
        self._made()
        return True

    def _made(self):
        if self.parameters.get("keyed"):
            self.correlation_key = self.parameters["id"]
        if self.parameters.get("closes_in"):
            self.closing_at = self.now() + timedelta(seconds=self.parameters["closes_in"])
        self.outcome = {"votes": []}
        self.status = ProcessStatus.PENDING

    def receive_webhook(self, request):
        vote = request.json()
        if vote["ballot"] != self.parameters["id"]:
            return
        time.sleep(vote.get("seconds", 0))
        if vote.get("last"):
            self.status = ProcessStatus.COMPLETED
        else:
            self.outcome = {"votes": [*self.outcome["votes"], vote["number"]]}

    def close(self):
        effect(self.plugin_inst.config, f"closing {self.parameters['id']}")
        time.sleep(self.parameters.get("closing", 0))
        self.status = ProcessStatus.COMPLETED


def count_in_place(process):
    lines = effects(process.plugin_inst.config)
    name = process.parameters["id"]
    for _ in range(process.outcome["n"], lines.count(f"news {name}")):
        process.outcome["n"] += 1
    if f"end {name}" in lines:
        process.status = ProcessStatus.COMPLETED


@Registry.governance_process
class Tally(GovernanceProcess):
    """Counts news by changing its outcome in place."""

    name = "tally"
    plugin_name = "voting"
    poll_every = 1

    def start(self, parameters):
        self.outcome = {"n": 0}
        self.status = ProcessStatus.PENDING

    def update(self):
        count_in_place(self)


@Registry.governance_process
class TallyTogether(GovernanceProcess):
    """The same, many with one call."""

    name = "tally-together"
    plugin_name = "voting"
    poll_every = 1

    def start(self, parameters):
        self.outcome = {"n": 0}
        self.status = ProcessStatus.PENDING

    @classmethod
    def update_many(cls, processes):
        for process in processes:
            count_in_place(process)
