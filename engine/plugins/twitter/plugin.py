"""The plugin for X, which was Twitter, by its API v2."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from engine.plugins import (
    AuthenticationError,
    AuthType,
    HttpOptions,
    NotFoundError,
    Parameters,
    PlatformDownError,
    PlatformRejectedError,
    Plugin,
    Registry,
    closing,
)
from engine.plugins.twitter import schemas
from engine.plugins.twitter.signing import OAuth1

PAGE = 100
# The platform's name of a timeline -> the event that each post of it becomes.
TIMELINES = {"tweets": "tweet_created", "mentions": "mention_created"}
FIELDS = {
    "tweet.fields": "author_id,conversation_id,created_at,referenced_tweets",
    "expansions": "author_id",
    "user.fields": "username",
}
USER_FIELDS = {"user.fields": "created_at,description,protected,public_metrics"}


@Registry.plugin
class Twitter(Plugin):
    """An account on X."""

    name = "twitter"
    description = "Posts of an account on X (Twitter), and who mentions it."
    auth_type = AuthType.OAUTH
    config_schema = schemas.CONFIG

    def http_options(self) -> HttpOptions:
        """Requests go to the API, signed for the account or with the bearer token."""
        token = self.config.get("bearer_token")
        return HttpOptions(
            base_url=f"{self.config['api_url'].rstrip('/')}/2/",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            auth=None if token else OAuth1(self.config),
            limit_reset_header="x-rate-limit-reset",
        )

    def initialize(self) -> None:
        """Check the keys, and begin to follow the account's posts and mentions."""
        self._begin()

    def on_config_change(self, old_config: dict[str, Any]) -> None:
        """Check the keys; another account is followed from now on."""
        self._begin()

    @Registry.action(
        slug="send-tweet",
        description="Post",
        input_schema=schemas.SEND,
        output_schema=schemas.SENT,
    )
    def send_tweet(self, parameters: Parameters) -> dict[str, Any]:
        """Post."""
        return self._send(dict(parameters))

    @Registry.action(
        slug="reply",
        description="Reply to a post",
        input_schema=schemas.REPLY,
        output_schema=schemas.SENT,
    )
    def reply(self, parameters: Parameters) -> dict[str, Any]:
        """Reply to a post."""
        return self._send(
            {
                "text": parameters.text,
                "reply": {"in_reply_to_tweet_id": parameters.tweet_id},
            }
        )

    @Registry.action(
        slug="delete-tweet",
        description="Delete a post of the account",
        input_schema=schemas.DELETE,
        output_schema=schemas.DELETED,
        idempotent=True,
    )
    def delete_tweet(self, parameters: Parameters) -> dict[str, Any]:
        """Delete a post."""
        answer = _data(self.http.delete(f"tweets/{parameters.id}").json())
        return {"deleted": bool(answer.get("deleted"))}

    @Registry.action(
        slug="get-user",
        description="Read a user's profile",
        input_schema=schemas.GET_USER,
        output_schema=schemas.USER,
        idempotent=True,
    )
    def get_user(self, parameters: Parameters) -> dict[str, Any]:
        """Read a profile, by id or by name."""
        by_name = parameters.username is not None
        path = f"users/by/username/{parameters.username}" if by_name else f"users/{parameters.id}"
        return _data(self.http.get(path, params=USER_FIELDS).json())

    @Registry.event_producer_task(
        every=timedelta(minutes=5),
        event_schemas=[{"type": event, "schema": schemas.TWEET} for event in TIMELINES.values()],
    )
    def read_timelines(self) -> None:
        """Send an event for each post and for each mention of the account, once."""
        for timeline in TIMELINES:
            self._read(timeline)

    def _begin(self) -> None:
        account = self._account()
        if self.state.get("user_id") == account["id"]:
            return
        self.state.set("user_id", account["id"])
        self.state.set("username", account["username"])
        for timeline in TIMELINES:
            newest = self._page(timeline, {"max_results": 5})["meta"].get("newest_id")
            self.state.set(f"since_id/{timeline}", newest)

    def _account(self) -> dict[str, Any]:
        """Whose posts and mentions are followed."""
        named = self.config.get("username")
        path = f"users/by/username/{named}" if named else "users/me"
        keys = "bearer_token" if "bearer_token" in self.config else ", ".join(schemas.USER_KEYS)
        try:
            return _data(self.http.get(path).json())
        except AuthenticationError as error:
            # A 401 is about the keys; a 403 is what X says to an app that asks who it is.
            app_only = "answered 403" in error.detail and not named
            advice = "; with an app-only token, name a username" if app_only else ""
            raise AuthenticationError(f"X refuses the {keys} ({error.detail}){advice}") from error
        except NotFoundError:
            raise PlatformRejectedError(f"X knows no username {named!r}") from None

    def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            sent = _data(self.http.post("tweets", json=body).json())
        except AuthenticationError as error:
            # A 403 is also what X says to a text that it had just before.
            if "duplicate" in error.detail:
                raise PlatformRejectedError(error.detail) from error
            raise
        return {"id": sent["id"], "text": sent["text"], "url": self._address(sent["id"])}

    def _address(self, tweet_id: str, username: str | None = None) -> str:
        return f"https://x.com/{username or self.state.get('username')}/status/{tweet_id}"

    def _read(self, timeline: str) -> None:
        """Send an event for each post of a timeline since the last one sent, in their order."""
        key = f"since_id/{timeline}"
        since = self.state.get(key)
        fresh, names = self._since(timeline, since)
        if not fresh:
            return
        for tweet in sorted(fresh, key=lambda tweet: int(tweet["id"])):
            username = names.get(tweet["author_id"])
            author = {"id": tweet["author_id"], "username": username}
            optional = ("created_at", "conversation_id", "referenced_tweets")
            self.send_event_to_driver(
                TIMELINES[timeline],
                {
                    "id": tweet["id"],
                    "text": tweet["text"],
                    "url": self._address(tweet["id"], username),
                    "author": author,
                    **{name: tweet[name] for name in optional if name in tweet},
                },
                initiator={"user_id": username or tweet["author_id"], "provider": "twitter"},
                timestamp=_seconds(tweet.get("created_at")),
            )
        # Of two calls at once only one sends: the other one is retried.
        newest = max((tweet["id"] for tweet in fresh), key=int)
        self.state.compare_and_set(key, since, newest)

    def _since(
        self, timeline: str, since: str | None
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """All posts since one, and the names of their authors by id; the newest come first."""
        params: dict[str, Any] = {"max_results": PAGE, **FIELDS}
        if since is not None:
            params["since_id"] = since
        tweets: list[dict[str, Any]] = []
        names: dict[str, str] = {}
        while True:
            page = self._page(timeline, params)
            tweets += page.get("data", [])
            users = (page.get("includes") or {}).get("users", [])
            names |= {user["id"]: user["username"] for user in users}
            following = page["meta"].get("next_token")
            if not following:
                return tweets, names
            params["pagination_token"] = following

    def _page(self, timeline: str, params: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.get(f"users/{self.state.get('user_id')}/{timeline}", params=params)
        page = answer.json()
        if not isinstance(page, dict) or not isinstance(page.get("meta"), dict):
            _data(page)
            raise PlatformDownError("X answered without what a timeline has")
        return page


def _data(answer: Any) -> dict[str, Any]:
    """What an answer holds; X also answers 200 to what has failed."""
    if isinstance(answer, dict) and isinstance(answer.get("data"), dict):
        return dict(answer["data"])
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if not errors:
        raise PlatformDownError("X answered without data")
    first = errors[0]
    reason = f"X: {first.get('detail') or first.get('title') or 'no reason given'}"
    missing = "not-found" in first.get("type", "") or first.get("title") == "Not Found Error"
    raise (NotFoundError if missing else PlatformRejectedError)(reason)


def _seconds(text: str | None) -> float | None:
    return closing.moment(text).timestamp() if text else None
