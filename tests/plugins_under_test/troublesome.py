"""A plugin that does everything that plugin code must not do."""

import asyncio
import time
from datetime import datetime, timedelta
from typing import ClassVar

import httpx

from engine.plugins import (
    GovernanceProcess,
    HmacSignature,
    Plugin,
    PluginError,
    ProcessStatus,
    RateLimitError,
    Registry,
    WebhookResponse,
)

TRIES = {}
KEY_AND_VALUE = {"type": "object", "properties": {"key": {"type": "string"}, "value": {}}}


@Registry.plugin
class Troublesome(Plugin):
    name = "troublesome"
    config_schema = {
        "type": "object",
        "properties": {
            "api_key": {"type": "string"},
            "signing_secret": {"type": "string"},
            "refuse": {"type": "string"},
        },
    }
    webhook_signature = HmacSignature(
        header="X-Signature", secret="signing_secret", prefix="sha256=", required=False
    )

    def initialize(self):
        if "refuse" in self.config:
            self.state.set("left behind", True)
            raise PluginError(f"{self.config['refuse']} {self.config.get('api_key')}")

    def answer_webhook(self, request):
        if request.body == b"ping":
            return WebhookResponse(body={"pong": True})
        return None

    @Registry.action(slug="misbehave", description="do as told", is_public=True)
    def misbehave(self, parameters):
        how = parameters["how"]
        self.state.set("how", how)
        self.send_event_to_driver("misbehaved", {"how": how})
        if how == "datetime":
            return {"when": datetime(2027, 1, 1)}
        if how == "nan":
            return {"deep": [float("nan")]}
        if how == "exit":
            raise SystemExit(3)
        if how == "zero":
            return 1 / 0
        if how == "stop":
            raise StopIteration
        if how == "platform":
            raise PluginError(f"no entry with {self.config['api_key']}")
        if how == "httpx":
            httpx.Response(
                418, request=httpx.Request("GET", "http://p.test/x?k=1")
            ).raise_for_status()
        if how == "hang":
            time.sleep(3600)
        if how == "spin":
            while True:
                pass
        if how == "none":
            return None
        return {"state": self.state.get("how")}

    @Registry.action(slug="hang", description="async, for ever")
    async def hang(self):
        await asyncio.sleep(3600)

    @Registry.action(
        slug="wrong-output", description="x", output_schema={"type": "object", "required": ["a"]}
    )
    def wrong_output(self):
        return {}

    @Registry.action(slug="limited", description="asks twice to come back later")
    def limited(self, parameters):
        tries = TRIES[parameters["id"]] = TRIES.get(parameters["id"], 0) + 1
        if tries < 3:
            raise RateLimitError("slowly", retry_after_seconds=0.1)
        return {"tries": tries}

    @Registry.action(slug="counted", description="counts its calls")
    async def counted(self, parameters):
        await asyncio.sleep(parameters.get("seconds", 0))
        tries = TRIES[parameters["id"]] = TRIES.get(parameters["id"], 0) + 1
        return {"tries": tries}

    @Registry.action(slug="put", description="write one key", input_schema=KEY_AND_VALUE)
    def put(self, key, value):
        self.state.set(key, value)

    @Registry.action(slug="fetch", description="read one key", input_schema=KEY_AND_VALUE)
    def fetch(self, key):
        return {"value": self.state.get(key)}


@Registry.governance_process
class Fragile(GovernanceProcess):
    name = "fragile"
    plugin_name = "troublesome"
    input_schema = {
        "type": "object",
        "properties": {"fail": {"type": "string"}, "closing_in": {"type": "number"}},
    }

    def start(self, parameters):
        self.plugin_inst.state.set("started", self.id)
        if parameters.fail == "start":
            raise PluginError("the platform will not have it")
        if parameters.fail == "start-hang":
            time.sleep(3600)
        if parameters.fail == "start-bug":
            raise KeyError("inside")
        if parameters.closing_in is not None:
            self.closing_at = self.now() + timedelta(seconds=parameters.closing_in)
        self.url = "https://platform.test/vote/1"
        self.status = ProcessStatus.PENDING

    def close(self):
        if self.parameters.fail == "close":
            raise PluginError("it will not close")
        if self.parameters.fail == "stay":
            return
        self.outcome = {"closed": True}
        self.status = ProcessStatus.COMPLETED

    def receive_webhook(self, request):
        if request.text == "fail":
            self.outcome = {"half": "done"}
            raise ValueError("half-way")
        self.outcome = {"heard": [*self.outcome.get("heard", []), request.text]}


@Registry.governance_process
class Unclosable(GovernanceProcess):
    name = "unclosable"
    plugin_name = "troublesome"

    def start(self, parameters):
        self.status = ProcessStatus.PENDING.value


@Registry.plugin
class Adaptable(Plugin):
    """Keeps its state when its config changes."""

    name = "adaptable"

    def initialize(self):
        self.state.set("history", [])

    def on_config_change(self, old_config):
        history = self.state.get("history")
        history.append([old_config.get("n"), self.config.get("n")])

    @Registry.action(slug="history", description="x")
    def history(self):
        return {"history": self.state.get("history")}


@Registry.plugin
class Registering(Plugin):
    """Makes something on its platform when it is enabled, and takes it away when it goes."""

    name = "registering"
    on_platform: ClassVar[list[str]] = []

    def initialize(self):
        self.state.set("made", f"{self.community.name}/{self.config.get('n')}")
        self.on_platform.append(self.state.get("made"))

    def on_disable(self):
        self.on_platform.remove(self.state.get("made"))
        if "stuck" in self.config:
            raise PluginError("the platform is gone")
