"""A plugin that gives values which are hard to store, to send, or to measure."""

from engine.plugins import GovernanceProcess, Plugin, PluginError, RateLimitError, Registry

HALF = "half \ud800 pair"


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class OddError(PluginError):
    status = "abc"
    title = HALF


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value, value]
    return value


CALLS = {}


def odd_key(plugin):
    plugin.state.set(HALF, 1)


DEEDS = {
    "event type": lambda p: p.send_event_to_driver(HALF),
    "event time": lambda p: p.send_event_to_driver("t", timestamp=HALF),
    "state key": odd_key,
    "state size": lambda p: p.state.set("k", "a" * 2_000_000),
    "many": lambda p: nested(60),
    "long": lambda p: [0] * 3_000_000,
}
RAISED = {
    "half": lambda: PluginError(HALF),
    "nul": lambda: PluginError("a \x00"),
    "object": lambda: PluginError(object()),
    "status": lambda: OddError("odd"),
    "wait": lambda: RateLimitError("later", float("inf")),
    "long": lambda: PluginError("a" * 5_000_000),
    "unspeakable": Unspeakable,
}
KEYS = {
    "number": 5,
    "false": False,
    "half": HALF,
    "nul": "a\x00b",
    "list": ["k", HALF, None, b"k"],
    "object": object(),
}


@Registry.plugin
class Odd(Plugin):
    name = "odd"

    @Registry.action(slug="do", description="something odd")
    def do(self, parameters):
        return DEEDS[parameters["deed"]](self)

    @Registry.action(slug="do-again", description="something odd", idempotent=True)
    def do_again(self, parameters):
        CALLS[parameters["call"]] = CALLS.get(parameters["call"], 0) + 1
        return DEEDS[parameters["deed"]](self)

    @Registry.action(slug="fail", description="oddly", idempotent=True)
    def fail(self, parameters):
        raise RAISED[parameters["how"]]()

    def webhook_id(self, request):
        return request.headers.get("x-half") and HALF

    def webhook_key(self, request):
        text = request.text
        return KEYS.get(text.removeprefix("odd "), "k")


@Registry.governance_process
class Vote(GovernanceProcess):
    name = "vote"
    plugin_name = "odd"

    def start(self, parameters):
        if "how" in parameters:
            raise RAISED[parameters["how"]]()
        self.correlation_key = "k"
        self.outcome = {"votes": []}

    def receive_webhook(self, request):
        self.outcome["votes"].append(request.text)

    def close(self):
        self.status = "completed"
