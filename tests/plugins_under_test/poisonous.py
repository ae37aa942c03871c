"""A plugin whose receivers end the process that they run in."""

import os
import threading
import time

from engine.plugins import GovernanceProcess, Plugin, ProcessStatus, Registry


@Registry.plugin
class Poisonous(Plugin):
    name = "poisonous"
    config_schema = {"type": "object", "properties": {"poll": {"type": "boolean"}}}

    @Registry.action(slug="add", description="a sum", input_schema={}, idempotent=True)
    def add(self, parameters):
        self.state.increment("sum", parameters["n"])
        return {"sum": self.state.get("sum")}

    @Registry.action(slug="leave", description="end the process", input_schema={})
    def leave(self, parameters):
        os._exit(parameters.get("code", 3))

    @Registry.action(slug="fork", description="leave a process behind", input_schema={})
    def fork(self, parameters):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        return {"child": child}


@Registry.governance_process
class PoisonousVote(GovernanceProcess):
    name = "vote"
    plugin_name = "poisonous"

    def start(self, parameters):
        self.lock = threading.Lock()
        self.status = ProcessStatus.PENDING

    def receive_webhook(self, request):
        os._exit(1)

    def close(self):
        self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class PoisonousPoll(GovernanceProcess):
    name = "poll"
    plugin_name = "poisonous"
    poll_every = 1

    def start(self, parameters):
        self.status = ProcessStatus.PENDING

    def update(self):
        os._exit(1)


@Registry.plugin
class PoisonousKeys(Plugin):
    """A webhook of it ends the process that asks what it is about."""

    name = "poisonous-keys"

    def webhook_key(self, request):
        if request.text == "poison":
            os._exit(1)
        return "key"


@Registry.governance_process
class KeyedVote(GovernanceProcess):
    name = "vote"
    plugin_name = "poisonous-keys"

    def start(self, parameters):
        self.correlation_key = "key"
        self.outcome = {"heard": []}
        self.status = ProcessStatus.PENDING

    def receive_webhook(self, request):
        self.outcome["heard"].append(request.text)

    def close(self):
        self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class PoisonousCrowd(GovernanceProcess):
    name = "crowd"
    plugin_name = "poisonous"
    poll_every = 1

    def start(self, parameters):
        self.status = ProcessStatus.PENDING

    @classmethod
    def update_many(cls, processes):
        os._exit(1)
