"""JSON Schemas of the Discourse plugin."""

from typing import Any

from engine.plugins import strict_object

TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "description": "Markdown."}
POST_ID: dict[str, Any] = {"type": "integer", "description": "The post's number."}
TOPIC_ID: dict[str, Any] = {"type": "integer", "description": "The topic's number."}


CONFIG = strict_object(
    ["server_url", "api_key"],
    server_url={
        "type": "string",
        "pattern": "^https?://[^/?#]+/?$",
        "description": "The forum's own address.",
        "examples": ["https://forum.example.org"],
    },
    api_key={
        "type": "string",
        "minLength": 1,
        "description": "An API key of the forum, for one user or for all of them.",
        "examples": ["abc123"],
    },
    api_username={
        "type": "string",
        "minLength": 1,
        "default": "system",
        "description": "The user in whose name the plugin acts.",
    },
    webhook_secret={
        "type": "string",
        "minLength": 12,
        "description": "The webhook's secret; without it webhooks are refused.",
        "examples": ["a-secret-of-the-webhook"],
    },
    webhook_slug={
        "type": "string",
        "description": "Hard-to-guess end of the webhook URL.",
    },
)

CREATE_TOPIC = strict_object(
    ["title", "raw"],
    title={"type": "string", "minLength": 1, "examples": ["Budget of 2027"]},
    raw=TEXT,
    category={"type": "integer", "description": "The category's number."},
)

CREATE_POST = strict_object(
    ["topic_id", "raw"],
    topic_id=TOPIC_ID,
    raw=TEXT,
    reply_to_post_number={"type": "integer", "minimum": 1},
)

CREATE_MESSAGE = strict_object(
    ["title", "raw", "recipients"],
    title={"type": "string", "minLength": 1, "examples": ["Your proposal"]},
    raw=TEXT,
    recipients={
        "type": "array",
        "items": {"type": "string", "pattern": "^[^,]+$"},
        "minItems": 1,
        "description": "Names of users and groups.",
        "examples": [["ada"]],
    },
)

EDIT_POST = strict_object(["id", "raw"], id=POST_ID, raw=TEXT, edit_reason={"type": "string"})
ONE_POST = strict_object(["id"], id=POST_ID)
LOCK_POST = strict_object(["id"], id=POST_ID, locked={"type": "boolean", "default": True})
ONE_TOPIC = strict_object(["id"], id=TOPIC_ID)
ONE_USER = strict_object(
    ["username"], username={"type": "string", "minLength": 1, "examples": ["ada"]}
)
LIST_MEMBERS = strict_object(
    [],
    group={
        "type": "string",
        "minLength": 1,
        "default": "trust_level_0",
        "description": "The group's name; `trust_level_0` is everybody.",
    },
)

CREATED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": ["integer", "null"], "description": "The post's number."},
        "topic_id": {"type": ["integer", "null"]},
        "post_number": {"type": ["integer", "null"]},
        "url": {"type": ["string", "null"]},
        "pending": {"type": "boolean", "description": "Held for review: it has no number yet."},
    },
    "required": ["id", "topic_id", "url", "pending"],
}

USER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "username": {"type": "string"},
        "name": {"type": ["string", "null"]},
        "trust_level": {"type": ["integer", "null"]},
        "admin": {"type": "boolean"},
        "moderator": {"type": "boolean"},
        "user_fields": {"type": "object", "description": "By the field's number."},
    },
    "required": ["id", "username"],
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
                    "username": {"type": "string"},
                    "name": {"type": ["string", "null"]},
                    "owner": {"type": "boolean"},
                },
                "required": ["id", "username", "owner"],
            },
        }
    },
    "required": ["members"],
}

LISTED_TYPES = ["regular", "multiple", "ranked_choice"]

POLL: dict[str, Any] = {
    "type": "object",
    "examples": [{"title": "Adopt the budget of 2027?", "options": ["yes", "no"]}],
    "properties": {
        "title": {
            "type": "string",
            "minLength": 1,
            "description": "The poll's question, and the title of its topic.",
            "examples": ["Adopt the budget of 2027?"],
        },
        "options": {
            "type": "array",
            "items": {"type": "string", "pattern": "^(?!.*\\[/?poll)[^\\s\\r\\n][^\\r\\n]*$"},
            "minItems": 2,
            "uniqueItems": True,
            "description": "One line each; not for `number`.",
            "examples": [["yes", "no"]],
        },
        "details": {"type": "string", "default": "", "description": "Markdown above the poll."},
        "closing_at": {
            "type": "string",
            "anyOf": [{"format": "date-time"}, {"format": "date"}],
            "description": "A date is its first moment in UTC.",
            "examples": ["2027-01-01"],
        },
        "poll_type": {"enum": [*LISTED_TYPES, "number"], "default": "regular"},
        "min": {"type": "integer", "minimum": 0},
        "max": {"type": "integer", "minimum": 1},
        "step": {"type": "integer", "minimum": 1},
        "results": {
            "enum": ["always", "on_vote", "on_close", "staff_only"],
            "default": "always",
            "description": "Who sees results, and when.",
        },
        "public": {"type": "boolean", "default": True, "description": "Whether voters are shown."},
        "chart_type": {"enum": ["bar", "pie"], "default": "bar"},
        "groups": {
            "type": "array",
            "items": {"type": "string", "pattern": "^[A-Za-z0-9_.-]+$"},
            "description": "Only members of these groups vote.",
        },
        "category": {"type": "integer", "description": "The category of the new topic."},
        "topic_id": {"type": "integer", "description": "Reply in this topic, not in a new one."},
    },
    "required": ["title"],
    "additionalProperties": False,
    "allOf": [
        {
            "if": {"properties": {"poll_type": {"const": "number"}}, "required": ["poll_type"]},
            "then": {"properties": {"options": False}, "required": ["min", "max"]},
            "else": {"required": ["options"]},
        },
        {"not": {"required": ["category", "topic_id"]}},
    ],
}

OUTCOME: dict[str, Any] = {
    "type": "object",
    "properties": {
        "votes": {
            "type": "object",
            "description": "By option; absent while Discourse hides the results.",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "count": {
                        "type": "integer",
                        "description": "How many chose it; in ranked choice, as their first.",
                    },
                    "voters": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "User names, if the poll shows them.",
                    },
                },
                "required": ["count"],
            },
        },
        "voters": {"type": "integer", "description": "How many have voted."},
        "average": {"type": "number", "description": "Of a number poll."},
        "rounds": {
            "type": "array",
            "description": "Of ranked choice: what each round led to.",
            "items": {
                "type": "object",
                "properties": {
                    "majority": {"type": ["string", "null"]},
                    "eliminated": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
        "winner": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Of a closed poll: several in a tie, none if nobody voted.",
        },
        "closed_by": {"enum": ["platform", "driver", "deadline"]},
    },
    "required": ["voters"],
}
