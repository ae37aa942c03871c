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


NEVER_ANONYMOUS = ["count", "question", "meeting"]
EVENT_KINDS = [
    "new_discussion",
    "discussion_edited",
    "new_comment",
    "poll_created",
    "poll_edited",
    "poll_closing_soon",
    "poll_expired",
    "poll_closed_by_user",
    "poll_reopened",
    "outcome_created",
    "outcome_updated",
    "outcome_review_due",
    "stance_created",
    "stance_updated",
]
# What a webhook becomes that does not say what it is about.
NEWS = "group_news"


def _for_types(poll_types: list[str], then: dict[str, Any]) -> dict[str, Any]:
    return {
        "if": {"properties": {"poll_type": {"enum": poll_types}}, "required": ["poll_type"]},
        "then": then,
    }


def _only_for(name: str, poll_types: list[str]) -> dict[str, Any]:
    """Loomio would take no notice of it in a poll of another type."""
    return {
        "if": {"required": [name]},
        "then": {"properties": {"poll_type": {"enum": poll_types}}, "required": ["poll_type"]},
    }


def _options_needed(poll_types: list[str], least: int) -> dict[str, Any]:
    """Loomio would make such a poll without options, and nobody could vote in it."""
    then = {"properties": {"options": {"minItems": least}}, "required": ["options"]}
    return _for_types(poll_types, then)


IN_GROUP: dict[str, Any] = {
    "type": "integer",
    "description": "A subgroup of the configured group; default: that group.",
    "examples": [8],
}


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

LIST_MEMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {"group_id": IN_GROUP},
    "additionalProperties": False,
}

DISCUSSION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "group_id": IN_GROUP,
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
            "description": (
                "Default for a proposal: agree, disagree, abstain. Needed for every other type "
                "but `question`."
            ),
            "examples": [["agree", "disagree"]],
        },
        "details": {"type": "string", "default": ""},
        "group_id": IN_GROUP,
        "opening_at": {
            "type": "string",
            "format": "date-time",
            "description": "When voting begins; default: at once.",
        },
        "closing_at": {
            "type": "string",
            "anyOf": [{"format": "date-time"}, {"format": "date"}],
            "description": (
                "A date is its first moment in UTC. Loomio rounds down to the full hour, and that "
                "must be in the future; without it the poll would never open."
            ),
            "examples": ["2027-01-01"],
        },
        "topic_id": {"type": "integer", "description": "The thread to put the poll into."},
        "discussion_id": {
            "type": "integer",
            "description": "The discussion into whose thread to put the poll, if not `topic_id`.",
        },
        "hide_results": {"enum": ["off", "until_vote", "until_closed"], "default": "off"},
        "anonymous": {"type": "boolean", "default": False},
        "specified_voters_only": {
            "type": "boolean",
            "default": False,
            "description": "Only those invited vote: `recipient_user_ids`, and later on Loomio.",
        },
        "recipient_user_ids": {
            "type": "array",
            "items": {"type": "integer"},
            "uniqueItems": True,
            "description": "Whom to invite, by the ids of `list-members`.",
        },
        "shuffle_options": {"type": "boolean", "default": False},
        "notify_on_open": {
            "type": "boolean",
            "default": False,
            "description": "Whether Loomio notifies the whole group.",
        },
        "notify_on_closing_soon": {
            "enum": ["nobody", "author", "undecided_voters", "voters"],
            "default": "nobody",
            "description": "Whom Loomio reminds a day before the end.",
        },
        "quorum_pct": {"type": "integer", "minimum": 0, "maximum": 100},
        "agree_target": {"type": "integer", "minimum": 1},
        "min_score": {"type": "integer"},
        "max_score": {"type": "integer"},
        "dots_per_person": {"type": "integer", "minimum": 1},
        "minimum_stance_choices": {"type": "integer", "minimum": 0},
        "maximum_stance_choices": {"type": "integer", "minimum": 1},
        "stance_reason_required": {
            "enum": ["required", "optional", "disabled"],
            "description": "Whether voters give a reason; default: as the group has it.",
        },
        "tags": {"type": "array", "items": {"type": "string", "minLength": 1}},
    },
    "required": ["title", "closing_at"],
    "allOf": [
        _options_needed(["poll", "count", "score", "meeting", "dot_vote", "check"], 1),
        _options_needed(["ranked_choice", "stv"], 2),
        {"not": {"required": ["topic_id", "discussion_id"]}},
        _for_types(NEVER_ANONYMOUS, {"properties": {"anonymous": {"const": False}}}),
        _for_types(["question"], {"properties": {"options": {"maxItems": 0}}}),
        _for_types(
            ["meeting"],
            {
                "properties": {
                    "options": {"items": {"anyOf": [{"format": "date-time"}, {"format": "date"}]}}
                }
            },
        ),
        _only_for("dots_per_person", ["dot_vote"]),
    ],
}

GROUP_NEWS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "polls": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Keys of the polls that the webhook links to.",
        },
        "discussions": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Keys of the discussions that it links to.",
        },
        "urls": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["polls", "discussions", "urls"],
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
                    "voters": {
                        "type": "array",
                        "items": {"type": "integer"},
                        "description": "User ids, the first 500; absent in anonymous polls.",
                    },
                },
                "required": ["count", "score"],
            },
        },
        "voters": {"type": "integer", "description": "How many have voted."},
        "eligible": {"type": "integer", "description": "How many may vote."},
        "undecided": {"type": "integer"},
        "turnout": {"type": "number", "description": "voters / eligible, from 0 to 1."},
        "winner": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Of a closed poll: the highest score, more than one in a tie. Not stv.",
        },
        "closed_by": {
            "enum": ["platform", "deadline"],
            "description": "Of a closed poll: by a person on Loomio, or by its closing time.",
        },
        "quorum_pct": {"type": "number", "description": "Of a poll that has a quorum."},
        "quorum_met": {"type": "boolean", "description": "Of a poll that has a quorum."},
    },
    "required": ["voters", "eligible", "undecided", "turnout"],
}
