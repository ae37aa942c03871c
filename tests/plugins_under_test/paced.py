"""A platform that takes some calls a second, and processes that are polled a few at a time."""

from collections import Counter

from engine.plugins import GovernanceProcess, Plugin, ProcessStatus, Registry

POLLED = Counter()


@Registry.plugin
class Paced(Plugin):
    name = "paced"
    rate_limit = "5/s"


@Registry.governance_process
class Few(GovernanceProcess):
    name = "few"
    plugin_name = "paced"
    poll_every = 1
    most_together = 2

    def start(self, parameters):
        self.status = ProcessStatus.PENDING

    @classmethod
    def update_many(cls, processes):
        POLLED.update(process.id for process in processes)
