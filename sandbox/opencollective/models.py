"""What there is in the Open Collective twin's collective."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime

from sandbox.twin import RefusedError

SLUG = "example-collective"
LEGACY_ID = 7
BOT = "governance-bot"
EMOJI = ("👍\ufe0f", "👎", "😀", "🎉", "😕", "❤\ufe0f", "🚀", "👀")
# What is done to an expense: its status after, and the activity that records it.
EXPENSE_STEPS: dict[str, tuple[str, str]] = {
    "APPROVE": ("APPROVED", "APPROVED"),
    "UNAPPROVE": ("PENDING", "UNAPPROVED"),
    "REQUEST_RE_APPROVAL": ("PENDING", "RE_APPROVAL_REQUESTED"),
    "REJECT": ("REJECTED", "REJECTED"),
    "MARK_AS_UNPAID": ("APPROVED", "MARKED_AS_UNPAID"),
    "SCHEDULE_FOR_PAYMENT": ("SCHEDULED_FOR_PAYMENT", "SCHEDULED_FOR_PAYMENT"),
    "UNSCHEDULE_PAYMENT": ("APPROVED", "UNSCHEDULED_FOR_PAYMENT"),
    "PAY": ("PAID", "PAID"),
    "MARK_AS_SPAM": ("SPAM", "MARKED_AS_SPAM"),
    "MARK_AS_INCOMPLETE": ("INCOMPLETE", "MARKED_AS_INCOMPLETE"),
    "HOLD": ("APPROVED", "PUT_ON_HOLD"),
    "RELEASE": ("APPROVED", "RELEASED_FROM_HOLD"),
}
_ABBREVIATIONS = {"c": "conv", "m": "cmt", "e": "ex", "u": "upd", "w": "not", "a": "act"}


class CodedError(RefusedError):
    """What a request asks for is not done.

    Attributes:
        code: The platform's name of the reason.
    """

    def __init__(self, reason: str, code: str = "ValidationFailed") -> None:
        super().__init__(reason)
        self.code = code


@dataclass
class Thing:
    """Anything with an id.

    Attributes:
        number: Its old number.
        kind: A letter for what it is.
        created_at: When it was made.
    """

    number: int
    kind: str
    created_at: datetime

    @property
    def id(self) -> str:
        """Its id, in the old form: four times eight."""
        text = hashlib.md5(f"{self.kind}{self.number}".encode(), usedforsecurity=False).hexdigest()
        return "-".join(text[start : start + 8] for start in range(0, 32, 8))

    @property
    def public_id(self) -> str:
        """Its id, in the new form."""
        return f"{_ABBREVIATIONS.get(self.kind, 'mem')}_{self.id[:8]}"


@dataclass
class Comment(Thing):
    """A comment, or the text that begins a conversation.

    Attributes:
        author: Who wrote it.
        html: Its text.
        reactions: Who gave which emoji.
    """

    author: str
    html: str
    reactions: dict[str, set[str]] = field(default_factory=dict)


@dataclass
class Conversation(Thing):
    """A conversation.

    Attributes:
        title: Its title.
        tags: Its tags.
        body: Its first text.
        comments: What was answered.
    """

    title: str
    tags: list[str]
    body: Comment
    comments: list[Comment] = field(default_factory=list)


@dataclass
class Expense(Thing):
    """An expense.

    Attributes:
        author: Who filed it, and is to be paid.
        description: What it is for.
        amount: In cents.
        status: Its status.
        comments: What was said about it.
    """

    author: str
    description: str
    amount: int
    status: str = "PENDING"
    comments: list[Comment] = field(default_factory=list)


@dataclass
class Update(Thing):
    """An update.

    Attributes:
        title: Its title.
        html: Its text.
        reactions: Who gave which emoji.
        comments: What was said about it.
    """

    title: str
    html: str
    reactions: dict[str, set[str]] = field(default_factory=dict)
    comments: list[Comment] = field(default_factory=list)


@dataclass
class Membership(Thing):
    """A member in a role.

    Attributes:
        slug: The member.
        role: The role.
    """

    slug: str
    role: str


@dataclass
class Activity(Thing):
    """Something that has happened.

    Attributes:
        type: Its name in GraphQL.
        author: Who did it.
        about: What it is about.
    """

    type: str
    author: str
    about: Thing


@dataclass
class Webhook(Thing):
    """A webhook.

    Attributes:
        activity_type: The activities that it is sent for.
        url: Where to.
    """

    activity_type: str
    url: str


def counts(of: Comment | Update) -> dict[str, int]:
    """How many gave each emoji."""
    return {emoji: len(who) for emoji, who in of.reactions.items() if who}


def as_slug(title: str) -> str:
    """A title, as addresses have it."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "untitled"


def as_text(moment: datetime) -> str:
    """A time as the platform writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
