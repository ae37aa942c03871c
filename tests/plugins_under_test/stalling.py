"""A plugin that holds up whatever it runs on: its event loop, or the whole interpreter."""

import re
import time

from engine.plugins import Plugin, Registry


def hold_up(how):
    if how == "sleep":
        time.sleep(60)
    if how == "compute":
        # Tries for ever, and lets no other thread have a turn.
        re.match("(a+)+$", "a" * 60 + "b")


@Registry.plugin
class Stalling(Plugin):
    name = "stalling"
    config_schema = {"type": "object", "properties": {"team": {"type": "string"}}}

    @classmethod
    def webhook_community(cls, request):
        hold_up(request.headers.get("X-Route"))
        return {"team": "us"}

    async def verify_webhook(self, request):
        hold_up(request.headers.get("X-Verify"))
        return True

    @Registry.action(slug="hold-up", description="hold up the loop")
    async def hold_up(self, parameters):
        hold_up(parameters["how"])

    @Registry.action(slug="compute", description="hold up the interpreter")
    def compute(self):
        hold_up("compute")

    @Registry.webhook_receiver
    def hear(self, request):
        self.send_event_to_driver("heard")
