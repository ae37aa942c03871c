"""What the Discourse twin remembers: topics, posts with their polls, users and webhooks."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sandbox.discourse.polls import TwinPoll, as_text, digest, parse, show, user
from sandbox.twin import RefusedError, Twin

API_KEY = "discourse-twin-api-key"
BOT = "governance-bot"
WEBHOOK_KEY = "discourse-twin-secret"


@dataclass
class Post:
    """A post.

    Attributes:
        id: Its number.
        topic_id: Its topic.
        post_number: Its place in the topic.
        username: Its author.
        raw: Its text.
        created_at: When it was made.
        poll: The poll in it, if there is one.
        deleted_at: When it was deleted.
        locked: Whether only staff may change it.
    """

    id: int
    topic_id: int
    post_number: int
    username: str
    raw: str
    created_at: datetime
    poll: TwinPoll | None = None
    deleted_at: datetime | None = None
    locked: bool = False


@dataclass
class Topic:
    """A topic.

    Attributes:
        id: Its number.
        title: Its title.
        category_id: Its category.
        external_id: The id that its maker gave it.
        recipients: Of a private message: to whom it goes.
        deleted_at: When it was deleted.
    """

    id: int
    title: str
    category_id: int | None
    external_id: str | None
    recipients: list[str] = field(default_factory=list)
    deleted_at: datetime | None = None

    @property
    def slug(self) -> str:
        """Its title, as addresses have it."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "topic"


class DiscourseTwin(Twin):
    """Discourse, as far as the twin has it.

    Args:
        base_url: Under which its links lead to it; set anew where it is run.
        job_lag: How long after a closing time the background job closes a poll.
        reviews: Whether posts are held for review.

    Attributes:
        requests: How often each method and path pattern of the API was called.
        rate_limited: How many of the next requests are over the limit.
        failures: With which statuses the next requests fail, with an HTML page.
        late_failures: The same, what was asked for being done.
        webhooks: The URLs that webhooks are sent to.
        members: User names by their number.
        plain: Whether the poll plugin is off.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:9293",
        *,
        job_lag: timedelta = timedelta(0),
        reviews: bool = False,
    ) -> None:
        super().__init__(base_url)
        self.api_key = API_KEY
        self.job_lag = job_lag
        self.reviews = reviews
        self.plain = False
        self.rate_limited = 0
        self.failures: list[int] = []
        self.late_failures: list[int] = []
        self.requests: Counter[str] = Counter()
        self.topics: dict[int, Topic] = {}
        self.posts: dict[int, Post] = {}
        self.webhooks: list[str] = []
        self.members: dict[int, str] = dict(enumerate((BOT, "ada", "grace", "linus", "mary"), 1))
        self.user_fields: dict[str, dict[str, str]] = {}
        self._next = 40
        self._events = 1000

    def new_id(self) -> int:
        """A fresh number."""
        self._next += 1
        return self._next

    def live(self, post_id: int) -> Post | None:
        """Find a post that is not deleted."""
        post = self.posts.get(post_id)
        if post is None or post.deleted_at or self.topics[post.topic_id].deleted_at:
            return None
        return post

    def add_post(self, username: str, fields: Mapping[str, Any]) -> Post:
        """Make a post, and the topic that it begins.

        Args:
            username: Its author.
            fields: As ``POST /posts.json`` has them.

        Returns:
            The post.

        Raises:
            RefusedError: It is not taken.
        """
        raw, title = str(fields["raw"]), fields.get("title")
        poll = None if self.plain else parse(raw, self.new_id())
        if isinstance(poll, str):
            raise RefusedError(poll)
        if any(post.raw == raw for post in self.posts.values()):
            raise RefusedError("Body is too similar to what you recently posted")
        topic = self.topics.get(int(fields.get("topic_id") or 0))
        if fields.get("topic_id") and (topic is None or topic.deleted_at):
            raise RefusedError("The requested topic does not exist.")
        if topic is None:
            if not title:
                raise RefusedError("Title can't be blank")
            external = fields.get("external_id")
            if external and any(t.external_id == external for t in self.topics.values()):
                raise RefusedError("External has already been taken")
            to = [name for name in str(fields.get("target_recipients", "")).split(",") if name]
            topic = Topic(self.new_id(), str(title), fields.get("category"), external, to)
            self.topics[topic.id] = topic
            begins = True
        else:
            begins = False
        number = 1 + sum(post.topic_id == topic.id for post in self.posts.values())
        post = Post(self.new_id(), topic.id, number, username, raw, self.now(), poll)
        self.posts[post.id] = post
        if begins:
            self.announce("topic_created", {"topic": self.show_topic(topic)})
        self.announce("post_created", {"post": self.show_webhook_post(post)})
        return post

    def vote(self, post_id: int, username: str, options: list[str]) -> None:
        """Cast, or change, a member's vote; there is no webhook for it.

        Args:
            post_id: The post with the poll.
            username: The member.
            options: The texts of the options; in ranked choice in the member's order.

        Raises:
            RefusedError: The poll is closed, or does not take this vote.
        """
        post = self.live(post_id)
        poll = post.poll if post else None
        if poll is None or poll.is_closed(self.now()):
            raise RefusedError("The poll must be open to vote.")
        chosen = [digest(option) for option in options]
        most = poll.bounds.get("max", len(poll.options)) if poll.kind == "multiple" else 1
        too_many = poll.kind != "ranked_choice" and len(chosen) > most
        if too_many or not set(chosen) <= set(poll.options) or len(set(chosen)) < len(chosen):
            raise RefusedError("The vote does not fit the poll.")
        if poll.kind == "ranked_choice" and len(chosen) < len(poll.options):
            raise RefusedError("A ranked vote ranks every option.")
        poll.votes[username] = chosen

    def toggle(self, post_id: int, name: str, status: str, username: str) -> TwinPoll:
        """Close a poll, or open it again.

        Args:
            post_id: The post with the poll.
            name: The poll's name.
            status: ``open`` or ``closed``.
            username: Who asks.

        Returns:
            The poll.

        Raises:
            RefusedError: There is no such poll, or the user may not.
        """
        post = self.live(post_id)
        poll = post.poll if post else None
        if post is None or poll is None or poll.name != name:
            raise RefusedError(f"There is no poll named {name} associated with this post.")
        if username not in (post.username, "system"):
            raise RefusedError("Only a staff member or the original poster can toggle a poll.")
        if status not in ("open", "closed"):
            raise RefusedError("The status is not valid.")
        poll.status = status
        if status == "closed":
            poll.closed_at = poll.closed_at or self.now()
            poll.closed_by = poll.closed_by or username
        else:
            poll.closed_at = poll.closed_by = poll.close = None
        return poll

    def expire(self) -> None:
        """Close what is past its closing time, as the platform's background job does."""
        for post in list(self.posts.values()):
            poll = post.poll
            due = poll is not None and poll.close and poll.close + self.job_lag <= self.now()
            if poll is not None and due and poll.status == "open":
                poll.status, poll.closed_at = "closed", self.now()

    def set_user_fields(self, username: str, fields: dict[str, str]) -> None:
        """Change a user's profile, and send a webhook."""
        self.user_fields[username] = fields
        about = user(username) | {"user_fields": fields, "trust_level": 1}
        self.announce("user_updated", {"user": about})

    def show_topic(self, topic: Topic) -> dict[str, Any]:
        """A topic, as webhooks have it."""
        authors = [post.username for post in self.posts.values() if post.topic_id == topic.id]
        author, last = (authors[0], authors[-1]) if authors else (BOT, BOT)
        return {
            "id": topic.id,
            "title": topic.title,
            "fancy_title": topic.title,
            "slug": topic.slug,
            "category_id": topic.category_id,
            "archetype": "private_message" if topic.recipients else "regular",
            "created_by": user(author),
            "last_poster": user(last),
        }

    def show_post(self, post: Post, caller: str) -> dict[str, Any]:
        """A post, as the API shows it to a user."""
        topic = self.topics[post.topic_id]
        shown: dict[str, Any] = {
            "id": post.id,
            "username": post.username,
            "name": post.username.title(),
            "created_at": as_text(post.created_at),
            "cooked": f"<p>{post.raw}</p>",
            "raw": post.raw,
            "post_number": post.post_number,
            "topic_id": topic.id,
            "topic_slug": topic.slug,
            "user_id": user(post.username)["id"],
            "deleted_at": as_text(post.deleted_at) if post.deleted_at else None,
            "locked": post.locked,
        }
        if post.poll is not None:
            voted = caller in post.poll.votes
            shown["polls"] = [show(post.poll, self.now(), staff=caller == "system", voted=voted)]
            if voted:
                shown["polls_votes"] = {post.poll.name: post.poll.votes[caller]}
        return shown

    def show_webhook_post(self, post: Post) -> dict[str, Any]:
        """A post, as webhooks have it."""
        topic = self.topics[post.topic_id]
        shown = self.show_post(post, "system")
        for name in ("polls_votes", "locked"):
            shown.pop(name, None)
        return shown | {
            "topic_title": topic.title,
            "category_id": topic.category_id,
            "topic_posts_count": sum(p.topic_id == topic.id for p in self.posts.values()),
            "topic_archetype": "private_message" if topic.recipients else "regular",
        }

    def announce(self, event: str, body: dict[str, Any], secret: str = WEBHOOK_KEY) -> None:
        """Send a signed webhook to each URL.

        Args:
            event: Its name.
            body: Its body: one key, the kind of what it is about.
            secret: What it is signed with.
        """
        self._events += 1
        content = json.dumps(body).encode()
        signature = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
        for url in list(self.webhooks):
            self.sender.send(
                url,
                content,
                {
                    "X-Discourse-Instance": self.base_url,
                    "X-Discourse-Event-Id": str(self._events),
                    "X-Discourse-Event-Type": next(iter(body)),
                    "X-Discourse-Event": event,
                    "X-Discourse-Event-Signature": f"sha256={signature}",
                    "User-Agent": "Discourse/2026.8.0",
                },
            )
