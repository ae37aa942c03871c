"""A platform of workspaces: a community may have several of them."""

from engine.plugins import GovernanceProcess, Plugin, ProcessStatus, Registry

CONFIG = {
    "type": "object",
    "properties": {
        "team_id": {"type": "string"},
        "webhook_slug": {"type": "string"},
        "token": {"type": "string", "writeOnly": True},
        "refuse": {"type": "boolean"},
    },
    "additionalProperties": False,
}


@Registry.plugin
class Workspaces(Plugin):
    name = "workspaces"
    config_schema = CONFIG
    community_platform_id_key = "team_id"

    def initialize(self):
        if self.config.get("refuse"):
            raise ValueError("no")

    @Registry.action(slug="where")
    def where(self, parameters):
        self.state.set("calls", self.state.get("calls", 0) + 1)
        return {
            "instance": self.instance_name,
            "team": self.community_platform_id,
            "hook": self.webhook_url,
            "calls": self.state.get("calls"),
        }

    @Registry.webhook_receiver(event_schemas=[{"type": "heard"}])
    def receive(self, request):
        self.send_event_to_driver("heard", request.json())

    @Registry.event_producer_task(every=3600, event_schemas=[{"type": "looked"}])
    def look(self):
        self.send_event_to_driver("looked", {"calls": self.state.get("calls", 0)})


@Registry.governance_process
class Show(GovernanceProcess):
    name = "show"
    plugin_name = "workspaces"
    input_schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "additionalProperties": False,
    }

    def start(self, parameters):
        self.status = ProcessStatus.PENDING

    def receive_webhook(self, request):
        self.outcome = {"from": self.plugin.instance_name}
        self.status = ProcessStatus.COMPLETED


@Registry.plugin
class Underlined(Plugin):
    name = "under_lined"


@Registry.plugin
class Exclusive(Plugin):
    name = "exclusive"
    config_schema = CONFIG
    community_platform_id_key = "team_id"
    community_platform_id_unique = True
