"""JSON Schemas of the X plugin."""

from typing import Any

from engine.plugins import strict_object

USER_KEYS = ("consumer_key", "consumer_secret", "access_token", "access_token_secret")


def _key(description: str) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "description": description}


ID: dict[str, Any] = {
    "type": "string",
    "pattern": "^[0-9]{1,19}$",
    "examples": ["1346889436626259968"],
}
USERNAME: dict[str, Any] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_]{1,15}$",
    "description": "Without the @.",
    "examples": ["metagov"],
}
TEXT: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 25_000,
    "description": "X counts 280 characters, more for accounts that pay.",
    "examples": ["Vote now"],
}

CONFIG = strict_object(
    [],
    consumer_key=_key("OAuth 1.0a: the app's API key."),
    consumer_secret=_key("OAuth 1.0a: the app's API key secret."),
    access_token=_key("OAuth 1.0a: the account's access token."),
    access_token_secret=_key("OAuth 1.0a: the account's access token secret."),
    bearer_token=_key(
        "OAuth 2.0: a user's access token, or an app-only one, which reads but cannot post."
    ),
    username=USERNAME
    | {"description": "Whose posts and mentions to follow; needed with an app-only token."},
    api_url={
        "type": "string",
        "pattern": "^https?://[^/?#]+/?$",
        "default": "https://api.x.com",
        "description": "Where the API is.",
    },
) | {"oneOf": [{"required": list(USER_KEYS)}, {"required": ["bearer_token"]}]}

_REPLY_SETTINGS = {
    "enum": ["following", "mentionedUsers", "subscribers", "verified"],
    "description": "Who may reply; without it everybody.",
}
SEND = strict_object(
    ["text"],
    text=TEXT,
    quote_tweet_id=ID | {"description": "The post that this one quotes."},
    reply_settings=_REPLY_SETTINGS,
)
REPLY = strict_object(["tweet_id", "text"], tweet_id=ID, text=TEXT)
SENT = strict_object(["id", "text", "url"], id=ID, text={"type": "string"}, url={"type": "string"})

DELETE = strict_object(["id"], id=ID)
DELETED = strict_object(["deleted"], deleted={"type": "boolean"})

GET_USER = strict_object([], id=ID, username=USERNAME) | {
    "oneOf": [{"required": ["id"]}, {"required": ["username"]}]
}
USER = {
    "type": "object",
    "properties": {
        "id": ID,
        "username": {"type": "string"},
        "name": {"type": "string"},
        "description": {"type": "string"},
        "created_at": {"type": "string"},
        "protected": {"type": "boolean"},
        "public_metrics": {"type": "object"},
    },
    "required": ["id", "username", "name"],
}

TWEET = {
    "type": "object",
    "properties": {
        "id": ID,
        "text": {"type": "string"},
        "url": {"type": "string"},
        "created_at": {"type": "string"},
        "author": {
            "type": "object",
            "properties": {"id": {"type": "string"}, "username": {"type": ["string", "null"]}},
            "required": ["id"],
        },
        "conversation_id": {"type": "string"},
        "referenced_tweets": {
            "type": "array",
            "description": "Posts that it answers, quotes or repeats.",
        },
    },
    "required": ["id", "text", "url", "author"],
}
