"""The tutorial's plugin: every part of the SDK once, without a platform."""

from __future__ import annotations

from typing import Any

from engine.plugins import (
    GovernanceProcess,
    Parameters,
    Plugin,
    ProcessStatus,
    Registry,
    WebhookRequest,
)


@Registry.plugin
class Tutorial(Plugin):
    """Doubles numbers, reports posts and takes show-of-hands votes."""

    name = "tutorial"
    description = "The plugin that the tutorial builds."
    config_schema = {
        "type": "object",
        "properties": {
            "api_key": {"type": "string", "examples": ["ABC123"]},
            "foo": {"type": "string", "default": "bar"},
            "webhook_slug": {"type": "string"},
        },
        "required": ["api_key", "foo"],
    }

    def initialize(self) -> None:
        """Begin with a count of nought."""
        self.state.set("calls", 0)

    @Registry.action(
        slug="times-two",
        description="Double a number",
        input_schema={
            "type": "object",
            "properties": {"value": {"type": "number", "examples": [5]}},
            "required": ["value"],
        },
        output_schema={
            "type": "object",
            "properties": {"result": {"type": "number"}},
            "required": ["result"],
        },
    )
    def times_two(self, parameters: Parameters) -> dict[str, float]:
        """Double a number, and count the call."""
        self.state.set("calls", self.state.get("calls", 0) + 1)
        return {"result": parameters["value"] * 2}

    @Registry.webhook_receiver(
        event_schemas=[
            {
                "type": "post_created",
                "schema": {"type": "object", "properties": {"title": {"type": "string"}}},
            }
        ]
    )
    def on_post(self, request: WebhookRequest) -> None:
        """Send the driver an event for a post."""
        initiator = {"user_id": request.read("account", str), "provider": "tutorial"}
        self.send_event_to_driver(
            event_type="post_created", data=request.read("data", dict), initiator=initiator
        )

    @Registry.event_producer_task(
        event_schemas=[{"type": "calls_counted", "schema": {"type": "object"}}]
    )
    def count_calls(self) -> None:
        """Send the driver how often times-two was called, if that has changed."""
        calls = self.state.get("calls", 0)
        if calls != self.state.get("calls_told", 0):
            self.state.set("calls_told", calls)
            self.send_event_to_driver(event_type="calls_counted", data={"calls": calls})


@Registry.governance_process
class ShowOfHands(GovernanceProcess):
    """A vote whose hands are raised by webhook, until enough are up or it is closed."""

    name = "show-of-hands"
    plugin_name = "tutorial"
    description = "Counts webhooks that raise a hand; completes when enough are up."
    input_schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string", "examples": ["Shall we?"]},
            "enough": {"type": "integer", "minimum": 1, "default": 3},
        },
    }
    outcome_schema = {
        "type": "object",
        "properties": {"hands": {"type": "array", "items": {"type": "string"}}},
    }

    def start(self, parameters: Parameters) -> None:
        """Begin with no hands up."""
        self.title = parameters.title
        self.outcome: dict[str, Any] = {"hands": []}
        self.status = ProcessStatus.PENDING.value
        self.save()

    def receive_webhook(self, request: WebhookRequest) -> None:
        """Take note of a raised hand; each person has one."""
        person = request.read("raised_by", str, "")
        if not person or person in self.outcome["hands"]:
            return
        self.outcome["hands"].append(person)
        if len(self.outcome["hands"]) >= self.parameters["enough"]:
            self.close()

    def close(self) -> None:
        """Complete with the hands that are up."""
        self.status = ProcessStatus.COMPLETED.value
        self.save()
