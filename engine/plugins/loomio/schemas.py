"""JSON Schemas of the Loomio plugin."""

from typing import Any

POLL_TYPES = [
    "proposal",
    "poll",
    "count",
    "score",
    "ranked_choice",
    "meeting",
    "dot_vote",
    "check",
    "question",
    "stv",
]

CONFIG: dict[str, Any] = {
    "type": "object",
    "properties": {
        "server_url": {
            "type": "string",
            "pattern": "^https?://[^/?#]+/?$",
            "default": "https://www.loomio.com",
            "description": "The Loomio server's own address.",
        },
        "api_key": {
            "type": "string",
            "minLength": 1,
            "description": "API key of the user, best a bot, in whose name the plugin acts.",
            "examples": ["abc123"],
        },
        "group_id": {
            "type": "integer",
            "description": "The group's number.",
            "examples": [7],
        },
        "webhook_slug": {
            "type": "string",
            "description": "Hard-to-guess end of the webhook URL: Loomio signs nothing.",
        },
    },
    "required": ["api_key", "group_id"],
    "additionalProperties": False,
}

DISCUSSION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 150, "examples": ["Budget"]},
        "description": {"type": "string", "default": ""},
        "private": {"type": "boolean", "default": True},
        "notify_group": {"type": "boolean", "default": False},
    },
    "required": ["title"],
    "additionalProperties": False,
}

CREATED_DISCUSSION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "key": {"type": "string"},
        "topic_id": {"type": ["integer", "null"], "description": "For polls in this thread."},
        "url": {"type": "string"},
    },
    "required": ["id", "key", "url"],
}

MEMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "members": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer"},
                    "name": {"type": ["string", "null"]},
                    "username": {"type": ["string", "null"]},
                    "admin": {"type": "boolean"},
                    "pending": {"type": "boolean", "description": "Has not accepted yet."},
                    "bot": {"type": "boolean"},
                },
                "required": ["id", "admin", "pending"],
            },
        }
    },
    "required": ["members"],
}

POLL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "examples": ["Adopt the budget?"]},
        "poll_type": {
            "enum": POLL_TYPES,
            "description": "Default: `poll` where options are given, else `proposal`.",
        },
        "options": {
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "minItems": 1,
            "uniqueItems": True,
            "description": "Default for a proposal: agree, disagree, abstain.",
            "examples": [["agree", "disagree"]],
        },
        "details": {"type": "string", "default": ""},
        "closing_at": {
            "type": "string",
            "anyOf": [{"format": "date-time"}, {"format": "date"}],
            "description": "Loomio rounds it down to the hour; without it the poll never opens.",
            "examples": ["2027-01-01"],
        },
        "topic_id": {"type": "integer", "description": "The thread to put the poll into."},
        "hide_results": {"enum": ["off", "until_vote", "until_closed"], "default": "off"},
        "anonymous": {"type": "boolean", "default": False},
        "specified_voters_only": {"type": "boolean", "default": False},
        "shuffle_options": {"type": "boolean", "default": False},
        "notify_on_open": {
            "type": "boolean",
            "default": False,
            "description": "Whether Loomio tells the whole group.",
        },
        "quorum_pct": {"type": "integer", "minimum": 0, "maximum": 100},
        "min_score": {"type": "integer"},
        "max_score": {"type": "integer"},
        "dots_per_person": {"type": "integer", "minimum": 1},
        "minimum_stance_choices": {"type": "integer", "minimum": 0},
        "maximum_stance_choices": {"type": "integer", "minimum": 1},
    },
    "required": ["title", "closing_at"],
}

OUTCOME: dict[str, Any] = {
    "type": "object",
    "properties": {
        "votes": {
            "type": "object",
            "description": "By option; absent while Loomio hides the results.",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "count": {"type": "integer", "description": "How many chose it."},
                    "score": {"type": "number", "description": "What they gave it in all."},
                    "voters": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["count", "score"],
            },
        },
        "voters": {"type": "integer", "description": "How many have voted."},
        "eligible": {"type": "integer", "description": "How many may vote."},
        "undecided": {"type": "integer"},
        "turnout": {"type": "number", "description": "voters / eligible, from 0 to 1."},
        "winner": {"type": "array", "items": {"type": "string"}},
        "closed_by": {"enum": ["platform", "deadline"]},
    },
}
