"""JSON Schemas of the Open Collective plugin."""

from typing import Any

from engine.plugins import strict_object

EMOJI = ["👍️", "👎", "😀", "🎉", "😕", "❤️", "🚀", "👀"]
EXPENSE_ACTIONS = [
    "APPROVE",
    "UNAPPROVE",
    "REQUEST_RE_APPROVAL",
    "REJECT",
    "MARK_AS_UNPAID",
    "SCHEDULE_FOR_PAYMENT",
    "UNSCHEDULE_PAYMENT",
    "PAY",
    "MARK_AS_SPAM",
    "MARK_AS_INCOMPLETE",
    "HOLD",
    "RELEASE",
]
ROLES = [
    "ADMIN",
    "MEMBER",
    "BACKER",
    "CONTRIBUTOR",
    "HOST",
    "ATTENDEE",
    "COMMUNITY_MANAGER",
    "FOLLOWER",
    "ACCOUNTANT",
    "CONNECTED_ACCOUNT",
]

ID: dict[str, Any] = {"type": "string", "minLength": 1}
TITLE: dict[str, Any] = {"type": "string", "minLength": 3, "maxLength": 255}
TEXT: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "description": "HTML.",
    "examples": ["<p>Hello</p>"],
}
TAGS: dict[str, Any] = {"type": "array", "items": {"type": "string", "minLength": 1}}


def _one_of(*names: str) -> list[dict[str, Any]]:
    return [{"required": [name]} for name in names]


CONFIG = strict_object(
    ["access_token", "collective_slug"],
    access_token={
        "type": "string",
        "minLength": 1,
        "description": "A personal token of an admin of the collective.",
        "examples": ["abc123"],
    },
    collective_slug={
        "type": "string",
        "pattern": "^[a-z0-9-]+$",
        "description": "The collective, as its address has it.",
        "examples": ["webpack"],
    },
    register_webhook={
        "type": "boolean",
        "default": True,
        "description": (
            "Whether to register a webhook on Open Collective, which it refuses for addresses that "
            "are not public; without it news come within five minutes."
        ),
    },
    webhook_slug={
        "type": "string",
        "minLength": 8,
        "description": "Hard-to-guess end of the webhook URL: Open Collective signs nothing.",
        "examples": ["f5c3ff8f"],
    },
    api_url={
        "type": "string",
        "pattern": "^https?://[^/?#]+/?$",
        "default": "https://api.opencollective.com",
        "description": "Where the API is.",
    },
    website_url={
        "type": "string",
        "pattern": "^https?://[^/?#]+/?$",
        "default": "https://opencollective.com",
        "description": "Where people read.",
    },
) | {
    "if": {"properties": {"register_webhook": {"const": True}}},
    "then": {"required": ["webhook_slug"]},
}

LIST_MEMBERS = strict_object(
    [],
    roles={
        "type": "array",
        "items": {"enum": ROLES},
        "uniqueItems": True,
        "description": "Only members in one of these roles.",
        "examples": [["ADMIN"]],
    },
)

MEMBERS = strict_object(
    ["members"],
    members={
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "id": {"type": "string", "description": "Of the membership."},
                "role": {"type": "string"},
                "since": {"type": "string"},
                "slug": {"type": ["string", "null"], "description": "The member's account."},
                "name": {"type": ["string", "null"]},
            },
            "required": ["id", "role"],
        },
    },
)

CREATE_CONVERSATION = strict_object(["title", "html"], title=TITLE, html=TEXT, tags=TAGS)
EDIT_CONVERSATION = strict_object(["id", "title"], id=ID, title=TITLE, tags=TAGS)
CONVERSATION = strict_object(
    ["id", "title", "url"], id=ID, title={"type": "string"}, url={"type": "string"}
)

CREATE_COMMENT = strict_object(
    ["html"], html=TEXT, conversation_id=ID, expense_id=ID, update_id=ID
) | {"oneOf": _one_of("conversation_id", "expense_id", "update_id")}
COMMENT = strict_object(["id"], id=ID, created_at={"type": ["string", "null"]})

PROCESS_EXPENSE = strict_object(
    ["expense_id", "action"],
    expense_id=ID,
    action={"enum": EXPENSE_ACTIONS, "examples": ["APPROVE"]},
    message={"type": "string", "description": "Shown with what was done."},
)
EXPENSE = strict_object(
    ["id", "status"],
    id=ID,
    legacy_id={"type": ["integer", "null"]},
    status={"type": "string", "examples": ["APPROVED"]},
)

REACT = strict_object(
    ["emoji"],
    emoji={
        "type": "string",
        "description": f"One of {' '.join(EMOJI)}; a skin tone does not matter.",
        "examples": [EMOJI[0]],
    },
    comment_id=ID,
    update_id=ID,
    remove={"type": "boolean", "default": False, "description": "Take the reaction back."},
) | {"oneOf": _one_of("comment_id", "update_id")}
REACTIONS = strict_object(
    ["reactions"],
    reactions={
        "type": "object",
        "description": "How many gave each.",
        "additionalProperties": {"type": "integer"},
    },
)

PLACEHOLDERS = ("title", "url", "yes", "no", "voters", "winner", "closed_by")

VOTE = strict_object(
    [],
    title=TITLE | {"examples": ["Pay for the summer camp?"]},
    html={"type": "string", "default": "", "description": "HTML above the request to vote."},
    tags=TAGS,
    conversation_id=ID | {"description": "Vote on this conversation, not on a new one."},
    closing_at={
        "type": "string",
        "anyOf": [{"format": "date-time"}, {"format": "date"}],
        "description": "A date is its first moment in UTC; without it only a driver closes.",
        "examples": ["2027-01-01"],
    },
    closing_comment={
        "type": "string",
        "minLength": 1,
        "maxLength": 10_000,
        "pattern": rf"^([^$]|\$\$|\$\{{({'|'.join(PLACEHOLDERS)})\}})*$",
        "description": (
            "HTML of the comment that gives the outcome; in it stand "
            + ", ".join(f"${{{name}}}" for name in PLACEHOLDERS)
            + ", and $$ for a dollar sign."
        ),
        "examples": ["<p>Decided: ${winner}, ${yes} to ${no}.</p>"],
    },
    quorum_votes={"type": "integer", "minimum": 1, "description": "How many have to vote."},
    threshold_votes={
        "type": "integer",
        "minimum": 1,
        "description": "With so many votes, and the quorum, the leading option wins at once.",
    },
) | {"oneOf": _one_of("title", "conversation_id")}

_OPTION = {
    "type": "object",
    "properties": {"count": {"type": "integer"}},
    "required": ["count"],
}
OUTCOME: dict[str, Any] = {
    "type": "object",
    "properties": {
        "votes": {
            "type": "object",
            "description": "Reactions 👍 (yes) and 👎 (no) to the conversation's first text.",
            "properties": {"yes": _OPTION, "no": _OPTION},
            "required": ["yes", "no"],
        },
        "voters": {
            "type": "integer",
            "description": "Reactions in all: Open Collective does not show who reacted.",
        },
        "quorum_met": {"type": "boolean"},
        "winner": {
            "type": "array",
            "items": {"enum": ["yes", "no"]},
            "description": "Of a closed vote; both in a tie, none if nobody voted.",
        },
        "closed_by": {"enum": ["driver", "deadline", "decided"]},
    },
    "required": ["votes", "voters"],
}
