"""What a reader of the original's tutorial would write, section by section.

Only the import lines are ours; the rest is in the original's dialect: proxy classes, plain
methods, statuses by value, ``save`` after each change.
"""

import json

from engine.plugins import GovernanceProcess, Plugin, ProcessStatus, Registry

my_input_schema = {
    "type": "object",
    "properties": {"value": {"type": "number"}},
    "required": ["value"],
}
my_output_schema = {"type": "object", "properties": {"result": {"type": "number"}}}


@Registry.plugin
class Reader(Plugin):
    name = "reader"
    config_schema = {
        "type": "object",
        "properties": {
            "api_key": {"type": "string"},
            "foo": {"type": "string", "default": "bar"},
            "webhook_slug": {"type": "string"},
        },
        "required": ["api_key", "foo"],
    }

    class Meta:
        proxy = True

    def initialize(self):
        self.state.set("foo", self.config["foo"])
        self.state.set("initialized", self.state.get("initialized", 0) + 1)
        self.foo = "not kept"

    @Registry.action(
        slug="times-two",
        description="double it",
        input_schema=my_input_schema,
        output_schema=my_output_schema,
    )
    def times_two(self, parameters):
        num = parameters["value"]
        return {"result": num * 2}

    @Registry.action(slug="look", description="read and write state")
    def my_action(self):
        value = self.state.get("foo")
        self.state.set("obj", {"x": 2})
        return {
            "foo": value,
            "kept": hasattr(self, "foo"),
            "initialized": self.state.get("initialized"),
            "community": self.community.name,
        }

    @Registry.webhook_receiver()
    def my_webhook_receiver(self, request):
        body = json.loads(request.body)
        data = body["data"]
        initiator = {"user_id": body["account"], "provider": "identity-provider-key"}
        self.send_event_to_driver(event_type="post_created", data=data, initiator=initiator)

    @Registry.event_producer_task()
    def my_task_function(self):
        asked = self.state.get("asked", 0) + 1
        self.state.set("asked", asked)
        if asked == 1:
            self.send_event_to_driver(event_type="first_look", data={"asked": asked}, initiator={})


@Registry.governance_process
class MyGovProcess(GovernanceProcess):
    name = "my-gov-process"
    plugin_name = "reader"
    input_schema = {}

    class Meta:
        proxy = True

    def start(self, parameters):
        self.status = ProcessStatus.PENDING.value
        self.save()

    def close(self):
        self.outcome = "custom outcome data"
        self.status = ProcessStatus.COMPLETED.value
        self.save()

    def update(self):
        pass

    def receive_webhook(self, request):
        if json.loads(request.body).get("closed"):
            self.outcome = {"told_by": self.plugin_inst.name}
            self.status = ProcessStatus.COMPLETED.value
            self.save()


@Registry.governance_process
class PolledProcess(GovernanceProcess):
    """The pull approach: ``update`` asks again and again."""

    name = "polled"
    plugin_name = "reader"
    input_schema = {"type": "object", "properties": {"after": {"type": "integer"}}}

    class Meta:
        proxy = True

    def start(self, parameters):
        self.status = ProcessStatus.PENDING.value
        self.save()

    def update(self):
        seen = self.plugin_inst.state.get(self.id, 0) + 1
        self.plugin_inst.state.set(self.id, seen)
        if seen >= self.parameters["after"]:
            self.outcome = {"seen": seen}
            self.status = ProcessStatus.COMPLETED.value
            self.save()
