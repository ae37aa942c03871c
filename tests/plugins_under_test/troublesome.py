"""A plugin that does everything that plugin code must not do."""

import asyncio
import time
from collections import Counter
from datetime import datetime, timedelta
from http import HTTPStatus
from ipaddress import ip_address
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


class Note:
    def __init__(self, text):
        self.text = text
        self.origin = ip_address("192.0.2.1")
        self.read = Counter(text)


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
        if how == "foreign-enum":
            self.state.set("status", HTTPStatus.OK)
        if how == "large-result":
            return {"text": "x" * 1_048_576}
        if how == "large-event":
            self.send_event_to_driver("flood", {"text": "x" * 262_144})
        return {"state": self.state.get("how")}

    @Registry.action(slug="read", description="reads an address of its platform")
    def read(self, parameters):
        self.state.set("how", "read")
        return {"bytes": len(self.http.get(parameters["url"]).content)}

    @Registry.action(slug="read-async", description="the same, on the loop")
    async def read_async(self, parameters):
        self.state.set("how", "read")
        return {"bytes": len((await self.http.get(parameters["url"])).content)}

    @Registry.action(slug="return-text", description="returns a text of a length")
    def return_text(self, parameters):
        self.state.set("how", "returned")
        return {"text": "x" * parameters["length"]}

    @Registry.action(slug="tell-text", description="tells of a text of a length")
    def tell_text(self, parameters):
        self.state.set("how", "told")
        self.send_event_to_driver("told", {"text": "x" * parameters["length"]}, timestamp="1")

    @Registry.action(slug="keep", description="keeps an object of the plugin's own")
    def keep(self, parameters):
        self.state.set("note", Note(parameters["text"]))

    @Registry.action(slug="kept", description="reads it")
    def kept(self):
        note = self.state.get("note")
        return {"text": note.text, "from": str(note.origin), "read": note.read}

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
        if parameters.fail == "start-limited":
            raise RateLimitError("slowly", retry_after_seconds=30)
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
        if self.parameters.fail == "close-slowly":
            time.sleep(1.5)
        self.outcome = {"closed": True}
        self.status = ProcessStatus.COMPLETED

    def receive_webhook(self, request):
        if request.text == "generator-exit":
            raise GeneratorExit
        if request.text == "fail":
            self.outcome = {"half": "done"}
            raise ValueError("half-way")
        if request.text == "count":
            self.state.set("count", self.state.get("count", 0) + 1)
            self.outcome = {"count": self.state.get("count")}
            return
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
        time.sleep(self.config.get("seconds", 0))
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
