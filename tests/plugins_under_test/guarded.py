"""A plugin that verifies webhooks itself, and takes those of a whole platform at one URL."""

from engine.plugins import Plugin, Registry


@Registry.plugin
class Guarded(Plugin):
    name = "guarded"
    config_schema = {
        "type": "object",
        "properties": {"team": {"type": "string"}, "password": {"type": "string"}},
        "required": ["team", "password"],
    }

    @classmethod
    def webhook_community(cls, request):
        return {"team": request.read("team", str)}

    def verify_webhook(self, request):
        if request.headers.get("X-Password") == "raise":
            raise RuntimeError("inside")
        if request.headers.get("X-Password") == "truthy":
            return "perhaps"
        return request.headers.get("X-Password") == self.config["password"]

    @Registry.webhook_receiver
    def hear(self, request):
        self.send_event_to_driver("heard", data={"team": request.read("team", str)})
