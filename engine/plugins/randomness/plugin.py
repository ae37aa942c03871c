"""The randomness plugin."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

from engine.plugins import ConfigurationError, GovernanceProcess, Plugin, ProcessStatus, Registry

_INTEGER_RANGE = {
    "type": "object",
    "properties": {
        "low": {"type": "integer", "description": "Least number; default: the config's."},
        "high": {"type": "integer", "description": "Greatest number; default: the config's."},
    },
}


@Registry.plugin
class Randomness(Plugin):
    """Draws numbers by chance."""

    name = "randomness"
    description = "Random numbers, and votes that chance decides."
    config_schema = {
        "type": "object",
        "properties": {
            "default_low": {"type": "integer", "default": 0, "examples": [1]},
            "default_high": {"type": "integer", "default": 1000, "examples": [6]},
        },
    }

    def initialize(self) -> None:
        """Check that there is something to draw from."""
        if self.config["default_low"] > self.config["default_high"]:
            raise ConfigurationError("default_low must not be greater than default_high")

    @Registry.action(
        slug="random-int",
        description="Draw an integer, both bounds included",
        input_schema=_INTEGER_RANGE,
        output_schema={
            "type": "object",
            "properties": {"value": {"type": "integer"}},
            "required": ["value"],
        },
    )
    def random_int(self, low: int | None = None, high: int | None = None) -> dict[str, int]:
        """Draw an integer."""
        least = self.config["default_low"] if low is None else low
        greatest = self.config["default_high"] if high is None else high
        if least > greatest:
            raise ConfigurationError(f"low ({least}) must not be greater than high ({greatest})")
        return {"value": random.SystemRandom().randint(least, greatest)}

    @Registry.action(
        slug="set-lucky-number",
        description="Keep a lucky number for the community",
        input_schema={
            "type": "object",
            "properties": {"number": {"type": "integer", "examples": [7]}},
            "required": ["number"],
        },
    )
    def set_lucky_number(self, number: int) -> None:
        """Keep a lucky number."""
        self.state.set("lucky_number", number)

    @Registry.action(
        slug="get-lucky-number",
        description="Give the community's lucky number, null if it has none",
        output_schema={
            "type": "object",
            "properties": {"number": {"type": ["integer", "null"]}},
            "required": ["number"],
        },
    )
    def get_lucky_number(self) -> dict[str, int | None]:
        """Give the lucky number."""
        return {"number": self.state.get("lucky_number")}


@Registry.governance_process
class DelayedStochasticVote(GovernanceProcess):
    """A vote that nobody takes part in: chance decides when the time is up."""

    name = "delayed-stochastic-vote"
    plugin_name = "randomness"
    description = "After a delay, or when it is closed, one of the options wins by chance."
    input_schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 200, "examples": ["What is for lunch?"]},
            "options": {
                "type": "array",
                "items": {"type": "string", "minLength": 1},
                "minItems": 1,
                "uniqueItems": True,
                "examples": [["soup", "salad"]],
            },
            "delay": {
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": 525_600,
                "description": "Minutes until the vote closes by itself.",
                "examples": [60],
            },
        },
        "required": ["options", "delay"],
    }
    outcome_schema = {
        "type": "object",
        "properties": {"winner": {"type": "string"}},
    }

    def start(self, parameters: Any) -> None:
        """Note when the vote is due; the engine closes it then."""
        self.title = parameters.title
        self.closing_at = self.now() + timedelta(minutes=parameters.delay)
        self.status = ProcessStatus.PENDING.value
        self.save()

    def close(self) -> None:
        """Let chance decide."""
        self.outcome = {"winner": random.SystemRandom().choice(self.parameters["options"])}
        self.status = ProcessStatus.COMPLETED.value
        self.save()
