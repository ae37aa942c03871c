"""Code that ends or blocks the worker that runs it."""

import os
import time

from engine.plugins import GovernanceProcess, Plugin, ProcessStatus, Registry
from faults.platform import effect


@Registry.plugin
class Poison(Plugin):
    name = "poison"
    config_schema = {
        "type": "object",
        "properties": {"platform": {"type": "string"}},
        "required": ["platform"],
    }

    @Registry.action(slug="block", description="hold the loop", input_schema={})
    async def block(self, parameters):
        effect(self.config, f"blocking {parameters['id']}")
        time.sleep(parameters["seconds"])  # noqa: ASYNC251


class Deadly(GovernanceProcess):
    def start(self, parameters):
        self.status = ProcessStatus.PENDING

    def swallow(self):
        effect(self.plugin_inst.config, f"swallowed {self.parameters['id']}")
        os._exit(1)


@Registry.governance_process
class Pill(Deadly):
    """Ends its worker when a webhook comes."""

    name = "pill"
    plugin_name = "poison"

    def receive_webhook(self, request):
        self.swallow()


@Registry.governance_process
class PolledPill(Deadly):
    """Ends its worker when it is polled."""

    name = "polled-pill"
    plugin_name = "poison"
    poll_every = 1

    def update(self):
        self.swallow()
