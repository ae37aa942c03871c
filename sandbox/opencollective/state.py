"""What the Open Collective twin remembers: its collective, what happened, and its webhooks."""

from __future__ import annotations

import re
from collections import Counter

from sandbox.opencollective.models import (
    BOT,
    EMOJI,
    EXPENSE_STEPS,
    Activity,
    CodedError,
    Comment,
    Conversation,
    Expense,
    Membership,
    Thing,
    Update,
    Webhook,
    counts,
)
from sandbox.opencollective.webhooks import webhook_body
from sandbox.twin import Twin

API_KEY = "opencollective-twin-token"
SCOPES = frozenset({"account", "conversations", "expenses", "updates", "webhooks"})


class OpenCollectiveTwin(Twin):
    """Open Collective, as far as the twin has it.

    Args:
        base_url: Under which its links lead to it; set anew where it is run.
        public_webhooks_only: Whether it refuses webhooks to loopback, as the platform does.

    Attributes:
        requests: How often each operation was asked for.
        rate_limited: How many of the next requests are over the limit.
        failures: With which statuses the next requests fail, with an HTML page.
        late_failures: The same, what was asked for being done.
        scopes: What the token may do.
        is_admin: Whether the token's user is an admin.
        wants_second_factor: Whether the collective wants one for what is delicate.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:9294",
        *,
        public_webhooks_only: bool = False,
    ) -> None:
        super().__init__(base_url)
        self.public_webhooks_only = public_webhooks_only
        self.token = API_KEY
        self.scopes = set(SCOPES)
        self.is_admin = True
        self.wants_second_factor = False
        self.rate_limited = 0
        self.failures: list[int] = []
        self.late_failures: list[int] = []
        self.requests: Counter[str] = Counter()
        self.conversations: dict[str, Conversation] = {}
        self.expenses: dict[str, Expense] = {}
        self.updates: dict[str, Update] = {}
        self.activities: list[Activity] = []
        self.webhooks: list[Webhook] = []
        self.members: list[Membership] = []
        self._next = 100
        for slug, role in ((BOT, "ADMIN"), ("ada", "ADMIN"), ("grace", "BACKER"), ("mary", "HOST")):
            self.members.append(Membership(self._new(), "mem", self.now(), slug, role))

    def converse(self, author: str, title: str, html: str, tags: list[str]) -> Conversation:
        """Start a conversation.

        Args:
            author: Who does.
            title: Its title.
            html: Its first text.
            tags: Its tags.

        Returns:
            The conversation.

        Raises:
            CodedError: It has no fitting title, or no text.
        """
        if not 3 <= len(title) <= 255:
            raise CodedError("Validation error: Validation len on title failed")
        if not html.strip():
            raise CodedError("Comment is empty")
        now = self.now()
        body = Comment(self._new(), "m", now, author, html)
        made = Conversation(self._new(), "c", now, title, tags, body)
        self.conversations[made.id] = made
        self.happens("COLLECTIVE_CONVERSATION_CREATED", author, made)
        return made

    def comment(self, author: str, about: Conversation | Expense | Update, html: str) -> Comment:
        """Comment on something.

        Args:
            author: Who does.
            about: On what.
            html: The text.

        Returns:
            The comment.

        Raises:
            CodedError: It has no text.
        """
        if not html.strip():
            raise CodedError("Comment is empty")
        made = Comment(self._new(), "m", self.now(), author, html)
        about.comments.append(made)
        kind = type(about).__name__.upper()
        self.happens(f"{kind}_COMMENT_CREATED", author, about)
        return made

    def react(
        self, author: str, to: Comment | Update, emoji: str, remove: bool = False
    ) -> dict[str, int]:
        """React, or take a reaction back; there is no webhook for it.

        Args:
            author: Who does.
            to: To what.
            emoji: One of eight.
            remove: Whether it is taken back.

        Returns:
            How many gave each.

        Raises:
            CodedError: It is none of the eight.
        """
        if emoji not in EMOJI:
            raise CodedError("Validation error: Must be in []")
        who = to.reactions.setdefault(emoji, set())
        (who.discard if remove else who.add)(author)
        return counts(to)

    def file_expense(self, author: str, description: str, amount: int) -> Expense:
        """File an expense.

        Args:
            author: Who does.
            description: What for.
            amount: In cents.

        Returns:
            The expense.
        """
        made = Expense(self._new(), "e", self.now(), author, description, amount)
        self.expenses[made.id] = made
        self.happens("COLLECTIVE_EXPENSE_CREATED", author, made)
        return made

    def process(self, author: str, expense: Expense, action: str) -> None:
        """Move an expense on.

        Args:
            author: Who does.
            expense: The expense.
            action: How.

        Raises:
            CodedError: It cannot be done, or not now.
        """
        if action == "PAY" and self.wants_second_factor:
            raise CodedError("This personal token is not pre-authorized for 2FA", "")
        if action not in EXPENSE_STEPS:
            raise CodedError(f"The action {action} is not known here.", "BadRequest")
        if action in ("PAY", "SCHEDULE_FOR_PAYMENT") and expense.status != "APPROVED":
            raise CodedError(
                f"Expense status is {expense.status}, it must be APPROVED", "Forbidden"
            )
        expense.status, kind = EXPENSE_STEPS[action]
        self.happens(f"COLLECTIVE_EXPENSE_{kind}", author, expense)

    def publish(self, author: str, title: str, html: str) -> Update:
        """Publish an update.

        Args:
            author: Who does.
            title: Its title.
            html: Its text.

        Returns:
            The update.
        """
        made = Update(self._new(), "u", self.now(), title, html)
        self.updates[made.id] = made
        self.happens("COLLECTIVE_UPDATE_PUBLISHED", author, made)
        return made

    def join(self, slug: str, role: str = "BACKER") -> Membership:
        """Take somebody in.

        Args:
            slug: Whom.
            role: As what.

        Returns:
            The membership.
        """
        made = Membership(self._new(), "mem", self.now(), slug, role)
        self.members.append(made)
        self.happens("COLLECTIVE_MEMBER_CREATED", slug, made)
        return made

    def add_webhook(self, activity_type: str, url: str) -> Webhook:
        """Register a webhook.

        Args:
            activity_type: The activities that it is sent for.
            url: Where to.

        Returns:
            The webhook.

        Raises:
            CodedError: The address is not public.
        """
        private = re.match(
            r"https?://(localhost|[\d.]+|\[[^]]*\]|[^/]*\.(local|internal))[:/]", url
        )
        if self.public_webhooks_only and private:
            raise CodedError("Not a valid URL")
        made = Webhook(self._new(), "w", self.now(), activity_type, url)
        self.webhooks.append(made)
        return made

    def happens(self, kind: str, author: str, about: Thing) -> None:
        """Make a note of what has happened, and send webhooks about it.

        Args:
            kind: The activity, as GraphQL names it.
            author: Who did it.
            about: What it is about.
        """
        activity = Activity(self._new(), "a", self.now(), kind, author, about)
        self.activities.append(activity)
        body = webhook_body(activity)
        for webhook in list(self.webhooks):
            if webhook.activity_type in ("ACTIVITY_ALL", kind):
                self.sender.send(webhook.url, body)

    def _new(self) -> int:
        self._next += 1
        return self._next
