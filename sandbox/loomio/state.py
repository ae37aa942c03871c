"""What the Loomio twin remembers: groups, members, polls, discussions, webhooks, and faults."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sandbox.loomio.polls import Member, Option, Poll, Stance, as_text, label, moment, on_the_hour
from sandbox.loomio.webhooks import EVENT_KINDS, GROUP_NAME, News, webhook_body
from sandbox.twin import Twin

API_KEY = "loomio-twin-api-key"
GROUP, SUBGROUP, OTHER_GROUP = 7, 71, 72
BOT_USER = 501
LIMIT_WINDOW = timedelta(minutes=5)


@dataclass(frozen=True)
class Fault:
    """How one request is answered instead of properly.

    Attributes:
        status: The HTTP status; one below 400 only slows a proper answer.
        delay_seconds: How long it takes.
        late: Whether it is the answer that takes so long, what was asked for being done at once.
    """

    status: int
    delay_seconds: float = 0.0
    late: bool = False


class LoomioTwin(Twin):
    """Loomio, as far as the twin has it.

    Args:
        base_url: Under which its links lead to it; set anew where it is run.
        api_key: The key that it takes.
        old_webhooks: Whether webhooks have the form of 2021, with ``kind`` and ``url``.
        job_lag: How long after a closing time the background job closes a poll.
        rate_limit: How many requests it takes in five minutes (the platform: 900); None: any.
        discarded_are_gone: Whether a discarded poll is a 404, not a poll without its title.

    Attributes:
        requests: How often each method and path pattern of the API was called.
        makes_orphans: Whether nested polls become orphans too, as on older servers.
        groups: The group, a subgroup of it, and one that has nothing to do with it.
        rate_limited: How many of the next requests are over the limit.
        failures: How the next requests fail, as statuses or faults.
        chatbots: Where webhooks are sent, and about what: ``server`` and ``event_kinds``.
        members: Id, name, user name, and whether it is a bot.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:9292",
        *,
        api_key: str = API_KEY,
        old_webhooks: bool = False,
        job_lag: timedelta = timedelta(0),
        rate_limit: int | None = None,
        discarded_are_gone: bool = False,
    ) -> None:
        super().__init__(base_url)
        self.api_key = api_key
        self.old_webhooks = old_webhooks
        self.job_lag = job_lag
        self.rate_limit = rate_limit
        self.discarded_are_gone = discarded_are_gone
        self.makes_orphans = False
        self.rate_limited = 0
        self.failures: list[int | Fault] = []
        self.requests: Counter[str] = Counter()
        self.groups: dict[int, dict[str, Any]] = {
            number: {
                "id": number,
                "key": f"grpKEY{number:02}",
                "handle": name.lower().replace(" ", "-"),
                "name": name,
                "full_name": name,
                "parent_id": parent,
            }
            for number, name, parent in (
                (GROUP, GROUP_NAME, None),
                (SUBGROUP, f"{GROUP_NAME} Board", GROUP),
                (OTHER_GROUP, "Another Org", None),
            )
        }
        self.polls: dict[int, Poll] = {}
        self.discussions: dict[int, dict[str, Any]] = {}
        self.comments: list[dict[str, Any]] = []
        self.chatbots: list[dict[str, Any]] = []
        self.members: list[tuple[int, str, str, bool]] = [
            (BOT_USER, "Ada Example", "ada", True),
            (502, "Grace Sample", "grace", False),
            (503, "Linus Placeholder", "linus", False),
            (504, "Mary Model", "mary", False),
        ]
        self._next = 300
        self._recent: deque[datetime] = deque()

    @property
    def bot(self) -> Member:
        """The user whose key this is."""
        return next(Member(*member) for member in self.members if member[0] == BOT_USER)

    def new_id(self) -> int:
        """A fresh id."""
        self._next += 1
        return self._next

    def find(self, name: str, discarded: bool = False) -> Poll | None:
        """Find a poll by id or key; a discarded one only if asked to."""
        for poll in list(self.polls.values()):
            if name in (str(poll.id), poll.key) and (discarded or poll.discarded_at is None):
                return poll
        return None

    def has_topic(self, topic_id: Any) -> bool:
        """Whether there is such a thread."""
        threads = [d["topic_id"] for d in self.discussions.values()]
        return topic_id in [*threads, *(poll.topic_id for poll in list(self.polls.values()))]

    def voters(self, poll: Poll) -> list[int]:
        """The ids of those who may vote in a poll."""
        return [member[0] for member in self.members if poll.may_vote(Member(*member))]

    def over_the_limit(self) -> bool:
        """Count a request; whether it is one too many."""
        if self.rate_limited > 0:
            self.rate_limited -= 1
            return True
        if self.rate_limit is None:
            return False
        now = self.now()
        while self._recent and self._recent[0] <= now - LIMIT_WINDOW:
            self._recent.popleft()
        self._recent.append(now)
        return len(self._recent) > self.rate_limit

    def next_fault(self) -> Fault | None:
        """Take the next of ``failures``."""
        if not self.failures:
            return None
        fault = self.failures.pop(0)
        return fault if isinstance(fault, Fault) else Fault(fault)

    def fail_next(self, count: int, status: int = 500, delay_seconds: float = 0.0) -> None:
        """Make the next API requests fail, or only slow.

        Args:
            count: How many.
            status: What they are answered with; below 400, properly.
            delay_seconds: How long each one waits before.
        """
        self.failures += [Fault(status, delay_seconds)] * count

    def add_poll(self, fields: dict[str, Any], group_id: int | None, invited: list[int]) -> Poll:
        """Make a poll of fields that were checked, and send webhooks about it."""
        number, closing_at = self.new_id(), moment(fields.get("closing_at"))
        kind = str(fields.get("poll_type", "proposal"))
        poll = Poll(
            id=number,
            key=f"polKEY{number}",
            fields={k: v for k, v in fields.items() if k not in ("options", "closing_at")},
            group_id=group_id,
            topic_id=fields.get("topic_id") or self.new_id(),
            options=[Option(self.new_id(), n, label(n, kind)) for n in fields.get("options") or []],
            closing_at=on_the_hour(closing_at) if closing_at else None,
            created_at=self.now(),
            author_id=BOT_USER,
            invited=invited,
        )
        self.polls[number] = poll
        self.announce("poll_created", poll, self.bot.name)
        return poll

    def replace_options(self, poll: Poll, names: list[str]) -> None:
        """Give a poll the options named; the votes of those left out are lost."""
        known = {name: option for option in poll.options for name in (option.given, option.label)}
        poll.options = [
            known.get(n) or Option(self.new_id(), n, label(n, poll.kind)) for n in names
        ]
        kept = {option.id for option in poll.options}
        for user, stance in list(poll.votes.items()):
            stance.scores = {o: score for o, score in stance.scores.items() if o in kept}
            if not stance.scores:
                del poll.votes[user]

    def add_discussion(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Start a discussion, and send webhooks about it."""
        number = self.new_id()
        discussion = {
            "id": number,
            "key": f"disKEY{number}",
            "topic_id": self.new_id(),
            "group_id": fields.get("group_id", GROUP),
            "title": fields["title"],
            "description": fields.get("description", ""),
            "description_format": fields.get("description_format", "md"),
            "private": fields.get("private", True),
            "author_id": BOT_USER,
            "created_at": as_text(self.now()),
        }
        self.discussions[number] = discussion
        place = f"d/{discussion['key']}"
        self._tell(News("new_discussion", discussion["title"], place, self.bot.name))
        return discussion

    def add_comment(self, discussion: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
        """Put a comment into a discussion, and send webhooks about it."""
        comment = {
            "id": self.new_id(),
            "body": fields["body"],
            "body_format": fields.get("body_format", "md"),
            "parent_id": fields.get("parent_id", discussion["id"]),
            "parent_type": fields.get("parent_type", "Discussion"),
            "topic_id": discussion["topic_id"],
            "author_id": BOT_USER,
            "created_at": as_text(self.now()),
            "versions_count": 0,
            "discarded_at": None,
            "attachments": [],
        }
        self.comments.append(comment)
        place = f"d/{discussion['key']}"
        self._tell(News("new_comment", discussion["title"], place, self.bot.name))
        return comment

    def add_chatbot(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Register a webhook: ``server``, and unless it is for all, ``event_kinds``."""
        chatbot = {"id": self.new_id(), "group_id": GROUP, "event_kinds": EVENT_KINDS, **fields}
        self.chatbots.append(chatbot)
        return chatbot

    def expire(self) -> None:
        """Close what is past its closing time, as the platform's background job does."""
        for poll in list(self.polls.values()):
            due = poll.closing_at is not None and poll.closing_at + self.job_lag <= self.now()
            if due and poll.closed_at is None and poll.discarded_at is None:
                poll.closed_at = self.now()
                self.announce("poll_expired", poll)

    def vote(self, key: str, user: int, choices: dict[str, int], reason: str = "") -> None:
        """Cast, or change, a member's vote.

        Args:
            key: The poll's key.
            user: The member's id.
            choices: Score by option name.
            reason: Why, in the member's words.

        Raises:
            KeyError: There is no such poll or option.
            ValueError: The poll is not open, the user may not vote, or not like this.
        """
        poll = self._existing(key)
        if poll.closed_at is not None or poll.closing_at is None:
            raise ValueError("the poll is not open")
        if user not in self.voters(poll):
            raise ValueError(f"user {user} is none of the poll's voters")
        scores = poll.choose(choices)
        kind = "stance_updated" if user in poll.votes else "stance_created"
        poll.votes[user] = Stance(self.new_id(), scores, reason, self.now())
        name = next(member[1] for member in self.members if member[0] == user)
        self.announce(kind, poll, "Someone" if poll.anonymous else name)

    def close(self, key: str) -> None:
        """Close a poll early, as a member does in the browser.

        Args:
            key: The poll's key.

        Raises:
            KeyError: There is no such poll.
        """
        poll = self._existing(key)
        poll.closed_at = self.now()
        self.announce("poll_closed_by_user", poll)

    def reopen(self, key: str, closing_at: datetime | None = None) -> None:
        """Open a closed poll again, as a member does in the browser.

        Args:
            key: The poll's key.
            closing_at: When it closes now, rounded down to the hour; default: in a day.

        Raises:
            KeyError: There is no such poll.
            ValueError: That time is not in the future.
        """
        poll = self._existing(key)
        closing_at = on_the_hour(closing_at or self.now() + timedelta(days=1))
        if closing_at <= self.now():
            raise ValueError("closing_at must be in the future")
        poll.closed_at, poll.closing_at = None, closing_at
        self.announce("poll_reopened", poll)

    def announce(self, kind: str, poll: Poll, actor: str = "Grace Sample") -> None:
        """Send a webhook about a poll to each chatbot that wants this kind, or was named."""
        if poll.group_id is None:
            return
        wanted = poll.fields.get("recipient_chatbot_ids") or []
        news = News(kind, str(poll.fields["title"]), f"p/{poll.key}", actor, poll.kind)
        self._tell(news, wanted if kind == "poll_created" else [])

    def _existing(self, key: str) -> Poll:
        poll = self.find(key)
        if poll is None:
            raise KeyError(key)
        return poll

    def _tell(self, news: News, named: Sequence[int] = ()) -> None:
        for chatbot in list(self.chatbots):
            if news.kind in chatbot["event_kinds"] or chatbot.get("id") in named:
                form = chatbot.get("webhook_kind", "markdown")
                body = webhook_body(news, self.base_url, form, self.old_webhooks)
                self.sender.send(chatbot["server"], body)
