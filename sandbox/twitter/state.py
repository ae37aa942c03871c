"""What the X twin remembers: users, posts, keys, and how often each route was asked."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sandbox.twin import RefusedError, Twin

ACCOUNT = "governance_bot"
KEYS = {
    "consumer_key": "twitter-twin-consumer-key",
    "consumer_secret": "twitter-twin-consumer-secret",
    "access_token": "twitter-twin-access-token",
    "access_token_secret": "twitter-twin-access-token-secret",
}
USER_BEARER = "twitter-twin-user-bearer"
APP_BEARER = "twitter-twin-app-bearer"
FIRST_ID = 1346889436626259968
LONGEST_TEXT = 280
# What may be asked in 15 minutes.
LIMITS = {"POST /2/tweets": 100, "DELETE /2/tweets/{id}": 50}
LIMIT_ELSEWHERE = 900
WINDOW_SECONDS = 900


class ForbiddenError(RefusedError):
    """What only others may do, or nobody twice in a row."""


@dataclass
class Tweet:
    """A post.

    Attributes:
        id: Its number.
        author: Who wrote it.
        text: Its text.
        created_at: When it was made.
        replies_to: Which one it answers.
        quotes: Which one it quotes.
    """

    id: int
    author: str
    text: str
    created_at: datetime
    replies_to: int | None = None
    quotes: int | None = None


class TwitterTwin(Twin):
    """X, as far as the twin has it.

    Args:
        base_url: Under which its links lead to it; set anew where it is run.

    Attributes:
        requests: How often each method and path pattern of the API was called.
        limits: What may be asked of each in 15 minutes.
        rate_limited: How many of the next requests are over the limit.
        failures: With which statuses the next requests fail, with an HTML page.
        users: User names by their number.
        tweets: The posts by their number, the oldest first.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:9295") -> None:
        super().__init__(base_url)
        self.keys = dict(KEYS)
        self.bearers = {USER_BEARER: True, APP_BEARER: False}
        self.limits = dict(LIMITS)
        self.rate_limited = 0
        self.failures: list[int] = []
        self.requests: Counter[str] = Counter()
        self.asked: Counter[tuple[str, int]] = Counter()
        self.users = dict(enumerate((ACCOUNT, "ada", "grace", "linus"), 1001))
        self.tweets: dict[int, Tweet] = {}
        self._next = FIRST_ID

    def limit(self, route: str) -> tuple[int, int, int]:
        """Count a request.

        Args:
            route: Its method and path pattern.

        Returns:
            How many are allowed, how many are left (below 0: this one was too many), and when
            the count begins anew, in seconds since the epoch.
        """
        most = self.limits.get(route, LIMIT_ELSEWHERE)
        window = int(self.now().timestamp()) // WINDOW_SECONDS
        self.asked[route, window] += 1
        left = most - self.asked[route, window]
        if self.rate_limited > 0:
            self.rate_limited -= 1
            left = -1
        return most, left, (window + 1) * WINDOW_SECONDS

    def post(
        self, author: str, text: str, replies_to: int | None = None, quotes: int | None = None
    ) -> Tweet:
        """Post.

        Args:
            author: Who does.
            text: The text.
            replies_to: Which post it answers.
            quotes: Which post it quotes.

        Returns:
            The post.

        Raises:
            ForbiddenError: It says what the last one said.
            RefusedError: It is not taken.
        """
        if author not in self.users.values():
            raise RefusedError(f"There is no user {author!r}.")
        if not text or len(text) > LONGEST_TEXT:
            raise RefusedError("One or more parameters to your request was invalid.")
        for other in (replies_to, quotes):
            if other is not None and other not in self.tweets:
                raise RefusedError("You attempted to reply to a Tweet that is deleted.")
        own = [tweet for tweet in self.tweets.values() if tweet.author == author]
        if own and own[-1].text == text:
            raise ForbiddenError("You are not allowed to create a Tweet with duplicate content.")
        made = Tweet(self._next, author, text, self.now(), replies_to, quotes)
        self.tweets[made.id] = made
        self._next += 1
        return made

    def delete(self, author: str, tweet_id: int) -> None:
        """Delete a post; one that is not there is as good as deleted.

        Args:
            author: Who does.
            tweet_id: Which one.

        Raises:
            ForbiddenError: It is somebody else's.
        """
        found = self.tweets.get(tweet_id)
        if found is not None and found.author != author:
            raise ForbiddenError("You are not authorized to delete this Tweet.")
        self.tweets.pop(tweet_id, None)

    def timeline(self, user: str) -> list[Tweet]:
        """A user's posts, the newest first."""
        return [tweet for tweet in reversed(self.tweets.values()) if tweet.author == user]

    def mentions(self, user: str) -> list[Tweet]:
        """The posts of others that mention a user, the newest first."""
        name = re.compile(rf"@{user}\b", re.IGNORECASE)
        return [
            tweet
            for tweet in reversed(self.tweets.values())
            if tweet.author != user and name.search(tweet.text)
        ]

    def number(self, user: str) -> int | None:
        """A user's number."""
        return next((n for n, name in self.users.items() if name == user), None)

    def show_user(self, user: str) -> dict[str, Any]:
        """A user, as the API shows one."""
        name = user.replace("_", " ").title()
        return {"id": str(self.number(user)), "name": name, "username": user}

    def show(self, tweet: Tweet) -> dict[str, Any]:
        """A post with all of its fields, as the API shows one."""
        shown: dict[str, Any] = {
            "id": str(tweet.id),
            "text": tweet.text,
            "edit_history_post_ids": [str(tweet.id)],
            "author_id": str(self.number(tweet.author)),
            "conversation_id": str(tweet.replies_to or tweet.id),
            "created_at": f"{tweet.created_at:%Y-%m-%dT%H:%M:%S}."
            f"{tweet.created_at.microsecond // 1000:03}Z",
        }
        kinds = {"replied_to": tweet.replies_to, "quoted": tweet.quotes}
        references = [{"type": kind, "id": str(other)} for kind, other in kinds.items() if other]
        return shown | ({"referenced_tweets": references} if references else {})
