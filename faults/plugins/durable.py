"""A plugin whose calls are counted on a platform that remembers them: a folder on disk."""

import time
from datetime import timedelta

from engine.plugins import (
    GovernanceProcess,
    PlatformDownError,
    Plugin,
    ProcessStatus,
    RateLimitError,
    Registry,
)
from faults.platform import effect, effects


@Registry.plugin
class Durable(Plugin):
    name = "durable"
    webhook_id_header = "X-Delivery"
    config_schema = {
        "type": "object",
        "properties": {"platform": {"type": "string"}},
        "required": ["platform"],
    }

    def webhook_key(self, request):
        return request.headers.get("X-Concerns")

    @Registry.webhook_receiver(event_schemas=[{"type": "heard", "schema": {}}])
    def on_webhook(self, request):
        text = request.text
        effect(self.config, f"received {text}")
        self.state.set(f"seen {text}", True)
        time.sleep(0.3 if text.startswith("slow-") else 0)
        time.sleep(20 if text.startswith("stuck-") else 0)
        if text.startswith("fail") and f"mended {text}" not in effects(self.config):
            raise ValueError("it fails")
        self.send_event_to_driver("heard", {"text": text})

    @Registry.action(slug="increment", description="count", input_schema={})
    def increment(self, parameters):
        time.sleep(parameters.get("seconds", 0))
        return {"value": self.state.increment(parameters["key"], parameters.get("by", 1))}

    @Registry.action(slug="swap", description="compare and set", input_schema={})
    def swap(self, parameters):
        done = self.state.compare_and_set("holder", parameters.get("old"), parameters["new"])
        time.sleep(parameters.get("seconds", 0))
        if done:
            self.send_event_to_driver("swapped", {"new": parameters["new"]})
        return {"done": done}

    @Registry.action(slug="swap-again", description="the same", input_schema={}, idempotent=True)
    def swap_again(self, parameters):
        return self.swap(parameters)

    @Registry.action(slug="read", description="state", input_schema={})
    def read(self, parameters):
        return {"value": self.state.get(parameters["key"])}

    @Registry.action(slug="put", description="write, then perhaps fail", input_schema={})
    def put(self, parameters):
        self.state.set(parameters["key"], parameters["value"])
        self.state.increment("puts")
        if parameters.get("fail"):
            raise ValueError("after writing")

    @Registry.action(slug="once", description="an effect", input_schema={})
    def once(self, parameters):
        return self._effect(parameters)

    @Registry.action(slug="again", description="one more", input_schema={}, idempotent=True)
    def again(self, parameters):
        return self._effect(parameters)

    def _effect(self, parameters):
        effect(self.config, f"action {parameters['id']}")
        time.sleep(parameters.get("seconds", 0))
        made = effects(self.config).count(f"action {parameters['id']}")
        if made <= parameters.get("down", 0):
            raise PlatformDownError("it answered 500")
        self.send_event_to_driver("acted", {"id": parameters["id"]})
        return {"made": made}


@Registry.governance_process
class Vote(GovernanceProcess):
    """A start that is cut off can be looked up."""

    name = "vote"
    plugin_name = "durable"
    input_schema = {"type": "object", "properties": {"id": {"type": "string"}}}
    poll_every = 1

    def start(self, parameters):
        if parameters.get("before"):
            time.sleep(parameters["before"])
        effect(self.plugin_inst.config, f"poll {self.idempotency_key}")
        if parameters.get("after"):
            time.sleep(parameters["after"])
        if parameters.get("down"):
            raise PlatformDownError("the answer was lost")
        self._made()

    def find_started(self, parameters):
        if f"poll {self.idempotency_key}" not in effects(self.plugin_inst.config):
            return False
        self._made()
        return True

    def _made(self):
        self.url = f"https://platform.test/{self.idempotency_key}"
        self.correlation_key = self.parameters.get("id")
        self.outcome = {"heard": []}
        if self.parameters.get("closing_in"):
            self.closing_at = self.now() + timedelta(seconds=self.parameters["closing_in"])
        self.status = ProcessStatus.PENDING

    def update(self):
        lines = effects(self.plugin_inst.config)
        name = self.parameters.get("id")
        if f"slow {name}" in lines:
            time.sleep(0.5)
        news = [line.split()[-1] for line in lines if line.startswith(f"news {name} ")]
        if news:
            self.outcome = {**self.outcome, "news": news}
        if f"deadline {name}" in lines:
            self.closing_at = self.closing_at or self.now() + timedelta(seconds=0.2)
        if f"end {name}" in lines:
            self.outcome = {**self.outcome, "ended": True}
            self.status = ProcessStatus.COMPLETED

    def receive_webhook(self, request):
        text = request.text
        effect(self.plugin_inst.config, f"heard {text}")
        time.sleep(1 if text.startswith("hang-") else 0)
        if text == "reject" and "mended reject" not in effects(self.plugin_inst.config):
            raise ValueError("it rejects")
        self.outcome = {"heard": [*self.outcome["heard"], text]}
        if text.endswith("open-ended"):
            self.closing_at = None

    def close(self):
        self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class Keyless(GovernanceProcess):
    """Receives every webhook, and takes what is addressed to it, by its id or to all."""

    name = "keyless"
    plugin_name = "durable"
    input_schema = {"type": "object", "properties": {"id": {"type": "string"}}}
    poll_every = 1

    def start(self, parameters):
        self.outcome = {"heard": []}
        if parameters.get("closing_in"):
            self.closing_at = self.now() + timedelta(seconds=parameters["closing_in"])
        self.status = ProcessStatus.PENDING

    def update(self):
        lines = effects(self.plugin_inst.config)
        news = [line for line in lines if line.startswith(f"news {self.parameters['id']} ")]
        time.sleep(self.parameters.get("slow", 0))
        if news != self.outcome.get("news", []):
            self.outcome["news"] = news

    def receive_webhook(self, request):
        to, _, text = request.text.partition(" ")
        if to not in (self.parameters["id"], "all"):
            return
        effect(self.plugin_inst.config, f"heard {self.parameters['id']} {text}")
        self.outcome["heard"].append(text)
        if text == f"fail-{self.parameters['id']}":
            self.plugin_inst.send_event_to_driver("failing", {})
            raise ValueError("it rejects")
        if text == f"hang-{self.parameters['id']}":
            time.sleep(20)
        time.sleep(self.parameters.get("slow", 0))
        if text == "event":
            n = self.plugin_inst.state.increment("keyless")
            self.plugin_inst.send_event_to_driver("keyless", {"n": n})
        if text in ("key", "no-key"):
            self.correlation_key = self.parameters["id"] if text == "key" else None
        if text == "end":
            self.status = ProcessStatus.COMPLETED

    def close(self):
        self.status = ProcessStatus.COMPLETED


@Registry.plugin
class Limited(Plugin):
    """A platform that takes four calls a second, and sometimes none."""

    name = "limited"
    rate_limit = "4/s"
    config_schema = Durable.config_schema

    @Registry.action(slug="call", description="one call", input_schema={})
    def call(self, parameters):
        effect(self.config, f"call {time.time()}")
        if parameters.get("enough"):
            raise RateLimitError("enough", retry_after_seconds=parameters["enough"])
        return {"made": True}


@Registry.governance_process
class Watched(GovernanceProcess):
    """Polls, as its platform and its own choice allow."""

    name = "watched"
    plugin_name = "limited"
    poll_every = 1

    def start(self, parameters):
        self.status = ProcessStatus.PENDING
        self.poll_again_in = parameters.get("first")

    def update(self):
        effect(self.plugin_inst.config, f"poll {time.time()}")
        self.poll_again_in = self.parameters.get("again")
        if f"enough {self.id}" in effects(self.plugin_inst.config):
            raise RateLimitError("enough", retry_after_seconds=4)


@Registry.governance_process
class Crowd(GovernanceProcess):
    """One of many that are polled with one request."""

    name = "crowd"
    plugin_name = "durable"
    poll_every = 1
    most_together = 20

    @classmethod
    def update_many(cls, processes):
        config = processes[0].plugin_inst.config
        effect(config, f"asked {len(processes)}")
        lines = effects(config)
        while "hold" in lines and "go on" not in effects(config):
            time.sleep(0.05)
        if "broken" in lines and "mended broken" not in lines:
            raise PlatformDownError("it answered 500")
        for process in processes:
            if f"end {process.id}" in lines:
                process.outcome = {**process.outcome, "ended": True}
                process.status = ProcessStatus.COMPLETED

    def start(self, parameters):
        self.correlation_key = self.id
        self.status = ProcessStatus.PENDING

    def receive_webhook(self, request):
        self.outcome = {"heard": [*self.outcome.get("heard", []), request.text]}

    def close(self):
        self.outcome = {**self.outcome, "closed": True}
        self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class Blind(Vote):
    """The same, but nobody can look."""

    name = "blind"
    plugin_name = "durable"
    find_started = None


@Registry.governance_process
class Unclosable(GovernanceProcess):
    """A vote that only its platform ends."""

    name = "unclosable"
    plugin_name = "durable"
    input_schema = Vote.input_schema

    def start(self, parameters):
        self.correlation_key = parameters["id"]
        self.outcome = {"heard": []}
        self.status = ProcessStatus.PENDING

    def receive_webhook(self, request):
        self.outcome["heard"].append(request.text)


@Registry.governance_process
class Counting(GovernanceProcess):
    """Changes its outcome in place."""

    name = "counting"
    plugin_name = "durable"
    poll_every = 1

    def start(self, parameters):
        self.outcome = {"n": 0}
        self.status = ProcessStatus.PENDING

    def update(self):
        self.outcome["n"] += 1

    def close(self):
        self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class CountingTogether(GovernanceProcess):
    """So do many at once."""

    name = "counting-together"
    plugin_name = "durable"
    poll_every = 1

    def start(self, parameters):
        self.outcome = {"n": 0}
        self.status = ProcessStatus.PENDING

    @classmethod
    def update_many(cls, processes):
        for process in processes:
            process.outcome["n"] += 1

    def close(self):
        self.status = ProcessStatus.COMPLETED
