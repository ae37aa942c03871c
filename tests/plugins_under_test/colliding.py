"""A plugin whose parameters are called like everything that calls it."""

from collections.abc import Mapping

from engine.plugins import GovernanceProcess, Plugin, ProcessStatus, Registry

NAMES = (
    "method", "what", "loaded", "engine", "args", "kwargs", "function", "name", "session", "error",
)  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in NAMES},
    "required": list(NAMES),
}


class Unreadable(Mapping):
    """What fails when it is read."""

    def __getitem__(self, key):
        raise LookupError("not readable")

    def __iter__(self):
        raise LookupError("not readable")

    def __len__(self):
        return 1


@Registry.plugin
class Colliding(Plugin):
    name = "colliding"

    @Registry.action(slug="echo", description="gives them back", input_schema=SCHEMA)
    def echo(self, method, what, loaded, engine, args, kwargs, function, name, session, error):
        return {
            "given": [method, what, loaded, engine, args, kwargs, function, name, session, error]
        }

    @Registry.action(slug="echo-async", description="the same", input_schema=SCHEMA)
    async def echo_async(
        self, method, what, loaded, engine, args, kwargs, function, name, session, error
    ):
        return {
            "given": [method, what, loaded, engine, args, kwargs, function, name, session, error]
        }

    @Registry.action(slug="echo-any", description="the same, all by name", input_schema=SCHEMA)
    def echo_any(self, **given):
        return {"given": [given[name] for name in NAMES]}

    @Registry.action(slug="unreadable", description="returns what nobody can read")
    def unreadable(self):
        self.state.set("done", True)
        return {"deep": Unreadable()}

    @Registry.action(slug="done", description="whether anything was stored")
    def done(self):
        return {"done": self.state.get("done", False)}


@Registry.governance_process
class Echo(GovernanceProcess):
    name = "echo"
    plugin_name = "colliding"
    input_schema = SCHEMA

    def start(self, method, what, loaded, engine, args, kwargs, function, name, session, error):
        self.outcome = {
            "given": [method, what, loaded, engine, args, kwargs, function, name, session, error]
        }
        self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class EchoAsync(GovernanceProcess):
    name = "echo-async"
    plugin_name = "colliding"
    input_schema = SCHEMA

    async def start(
        self, method, what, loaded, engine, args, kwargs, function, name, session, error
    ):
        self.outcome = {
            "given": [method, what, loaded, engine, args, kwargs, function, name, session, error]
        }
        self.status = ProcessStatus.COMPLETED


@Registry.governance_process
class UnreadableOutcome(GovernanceProcess):
    name = "unreadable"
    plugin_name = "colliding"

    def start(self, parameters):
        self.plugin_inst.state.set("done", True)
        self.outcome = {"deep": Unreadable()}
        self.status = ProcessStatus.PENDING
