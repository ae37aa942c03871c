"""The Discourse plugin."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from engine.plugins import (
    AuthenticationError,
    AuthType,
    BadWebhookError,
    GovernanceProcess,
    HmacSignature,
    HttpOptions,
    NotFoundError,
    Parameters,
    PlatformRejectedError,
    Plugin,
    ProcessStatus,
    Registry,
    WebhookRequest,
    closing,
    tally,
)
from engine.plugins.discourse import schemas
from engine.plugins.discourse.poll import (
    FIRST,
    NAME,
    closing_time,
    find_poll,
    is_closed,
    markup,
    names_of,
    option_texts,
    outcome_of,
)

PAGE = 50
SELDOM = timedelta(minutes=15)
OFTEN = timedelta(seconds=15)
# What webhooks are about, as the body's one key says; the headers are not signed.
KINDS = ("post", "topic", "user", "group", "group_user", "category", "reviewable")


@Registry.plugin
class Discourse(Plugin):
    """A forum on Discourse."""

    name = "discourse"
    description = "Topics, posts, users and polls of a Discourse forum."
    auth_type = AuthType.API_KEY
    config_schema = schemas.CONFIG
    webhook_signature = HmacSignature(
        "X-Discourse-Event-Signature", "webhook_secret", prefix="sha256="
    )
    webhook_id_header = "X-Discourse-Event-Id"

    @property
    def server(self) -> str:
        """The forum's address, without a slash at its end."""
        return str(self.config["server_url"]).rstrip("/")

    def http_options(self) -> HttpOptions:
        """Requests go to the forum, in the name of its configured user."""
        return HttpOptions(
            base_url=f"{self.server}/",
            headers={
                "Api-Key": self.config["api_key"],
                "Api-Username": self.config["api_username"],
                "Accept": "application/json",
            },
        )

    def initialize(self) -> None:
        """Check that the key works for the user.

        Raises:
            AuthenticationError: It does not.
        """
        username = self.config["api_username"]
        try:
            self.http.get(f"u/{username}.json")
        except AuthenticationError as error:
            raise AuthenticationError(
                f"Discourse refuses the api_key, or the api_username {username!r} with it "
                f"({error.detail})"
            ) from error
        except NotFoundError:
            raise AuthenticationError(f"Discourse knows no user {username!r}") from None

    @Registry.action(
        slug="create-topic",
        description="Start a topic",
        input_schema=schemas.CREATE_TOPIC,
        output_schema=schemas.CREATED,
    )
    def create_topic(self, parameters: Parameters) -> dict[str, Any]:
        """Start a topic."""
        return self.create(dict(parameters))

    @Registry.action(
        slug="create-post",
        description="Reply in a topic",
        input_schema=schemas.CREATE_POST,
        output_schema=schemas.CREATED,
    )
    def create_post(self, parameters: Parameters) -> dict[str, Any]:
        """Reply in a topic."""
        return self.create(dict(parameters))

    @Registry.action(
        slug="create-message",
        description="Send a private message",
        input_schema=schemas.CREATE_MESSAGE,
        output_schema=schemas.CREATED,
    )
    def create_message(self, parameters: Parameters) -> dict[str, Any]:
        """Send a private message to users and groups."""
        return self.create(
            {
                "title": parameters.title,
                "raw": parameters.raw,
                "target_recipients": ",".join(parameters.recipients),
                "archetype": "private_message",
            }
        )

    @Registry.action(
        slug="edit-post",
        description="Change the text of a post",
        input_schema=schemas.EDIT_POST,
        output_schema=schemas.CREATED,
        idempotent=True,
    )
    def edit_post(self, parameters: Parameters) -> dict[str, Any]:
        """Change the text of a post."""
        body = {"raw": parameters.raw, "edit_reason": parameters.edit_reason}
        changed = {name: value for name, value in body.items() if value is not None}
        answer = self.http.put(f"posts/{parameters.id}.json", json={"post": changed}).json()
        return self._created(answer["post"])

    @Registry.action(slug="delete-post", description="Delete a post", input_schema=schemas.ONE_POST)
    def delete_post(self, parameters: Parameters) -> None:
        """Delete a post; it can be recovered."""
        self.http.delete(f"posts/{parameters.id}.json")

    @Registry.action(
        slug="recover-post", description="Bring a deleted post back", input_schema=schemas.ONE_POST
    )
    def recover_post(self, parameters: Parameters) -> None:
        """Bring a deleted post back."""
        self.http.put(f"posts/{parameters.id}/recover.json")

    @Registry.action(
        slug="lock-post",
        description="Let only staff change a post, or its author again",
        input_schema=schemas.LOCK_POST,
        idempotent=True,
    )
    def lock_post(self, parameters: Parameters) -> None:
        """Lock a post, or unlock it."""
        body = {"locked": "true" if parameters.locked else "false"}
        self.http.put(f"posts/{parameters.id}/locked.json", json=body)

    @Registry.action(
        slug="delete-topic", description="Delete a topic", input_schema=schemas.ONE_TOPIC
    )
    def delete_topic(self, parameters: Parameters) -> None:
        """Delete a topic."""
        self.http.delete(f"t/{parameters.id}.json")

    @Registry.action(
        slug="get-user",
        description="Read a user",
        input_schema=schemas.ONE_USER,
        output_schema=schemas.USER,
        idempotent=True,
    )
    def get_user(self, parameters: Parameters) -> dict[str, Any]:
        """Read a user."""
        return _user(self.http.get(f"u/{parameters.username}.json").json()["user"])

    @Registry.action(
        slug="list-members",
        description="List the members of a group",
        input_schema=schemas.LIST_MEMBERS,
        output_schema=schemas.MEMBERS,
        idempotent=True,
    )
    def list_members(self, parameters: Parameters) -> dict[str, Any]:
        """List a group's members, all pages of them."""
        members: dict[int, dict[str, Any]] = {}
        offset = 0
        while True:
            page = self.http.get(
                f"groups/{parameters.group}/members.json",
                params={"limit": PAGE, "offset": offset},
            ).json()
            owners = {owner["id"] for owner in page.get("owners") or []}
            for row in page["members"]:
                members[row["id"]] = _member(row, row["id"] in owners)
            offset += len(page["members"])
            if not page["members"] or offset >= page["meta"]["total"]:
                return {"members": list(members.values())}

    @Registry.webhook_receiver(
        event_schemas=[
            {"type": "post_created", "schema": {"type": "object"}},
            {"type": "topic_created", "schema": {"type": "object"}},
            {"type": "user_created", "schema": {"type": "object"}},
            {"type": "user_fields_changed", "schema": {"type": "object"}},
        ]
    )
    def on_webhook(self, request: WebhookRequest) -> None:
        """Send what the forum reports as an event of the same name."""
        kind, about = _about(request)
        if kind is None:
            return
        event = request.headers.get("X-Discourse-Event") or ""
        # The name is not signed: it must at least be one of what the signed body is about.
        if not event.startswith(f"{kind}_"):
            raise BadWebhookError(f"The event {event!r:.40} is none about a {kind}")
        if kind == "user":
            self._note_fields(about)
        self.send_event_to_driver(event, about, initiator=_initiator(kind, about))

    def webhook_key(self, request: WebhookRequest) -> str | list[str]:
        """The topic that a webhook is about, if it is about one."""
        kind, about = _about(request)
        topic = about.get({"post": "topic_id", "topic": "id"}.get(kind or "", ""))
        return f"topic/{topic}" if topic is not None else []

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Make a post: one of its own, or the first of a topic or message.

        Args:
            body: As ``POST /posts.json`` takes it.

        Returns:
            What the actions return.
        """
        return self._created(self.http.post("posts.json", json=body).json())

    def _created(self, post: dict[str, Any]) -> dict[str, Any]:
        if "id" not in post:
            return {"id": None, "topic_id": None, "url": None, "pending": True}
        place = f"{self.server}/t/{post['topic_slug']}/{post['topic_id']}/{post['post_number']}"
        known = {name: post[name] for name in ("id", "topic_id", "post_number")}
        return known | {"url": place, "pending": False}

    def _note_fields(self, user: dict[str, Any]) -> None:
        """Send an event when the fields of a user's profile are not as they were last received."""
        fields, key = user.get("user_fields"), f"user_fields/{user.get('id')}"
        if not isinstance(fields, dict):
            return
        before = self.state.get(key)
        if before == fields:
            return
        self.state.set(key, fields)
        if before is not None:
            self.send_event_to_driver(
                "user_fields_changed",
                {
                    "id": user.get("id"),
                    "username": user.get("username"),
                    "old_user_fields": before,
                    "user_fields": fields,
                },
                initiator=_initiator("user", user),
            )


@Registry.governance_process
class Poll(GovernanceProcess):
    """A poll in a post.

    Discourse sends no webhooks about votes, so the poll is read: seldom at first, often towards its
    closing time, and whenever something happens in its topic.
    """

    name = "poll"
    plugin_name = "discourse"
    description = "A poll in a new topic, or in a reply; votes are reported as they are seen."
    input_schema = schemas.POLL
    outcome_schema = schemas.OUTCOME
    poll_every = SELDOM

    def start(self, parameters: Parameters) -> None:
        """Post the poll.

        Raises:
            PlatformRejectedError: The closing time is past, or Discourse made no poll of the post.
        """
        given = parameters.closing_at
        closing_at = closing.future_moment(given, self.now()) if given else None
        body = {"raw": markup(parameters, closing_at)}
        if parameters.topic_id is not None:
            body["topic_id"] = parameters.topic_id
        else:
            body |= {"title": parameters.title, "external_id": self._external_id}
            if parameters.category is not None:
                body["category"] = parameters.category
        created = self.plugin_inst.create(body)
        if created["pending"]:
            raise PlatformRejectedError(
                "Discourse holds the post for review; if it is approved, its poll is not the "
                "engine's: let the api_username post without review"
            )
        self._adopt(created["id"])

    def find_started(self, parameters: Parameters) -> bool:
        """Find the topic of a start that was cut off, by its external id.

        Raises:
            PlatformRejectedError: It would be a reply, which carries no such id.
        """
        if parameters.topic_id is not None:
            raise PlatformRejectedError(
                "A reply carries no id of ours, so whether the poll was posted is not known"
            )
        try:
            found = self.http.get(f"t/external_id/{self._external_id}.json")
        except NotFoundError:
            return False
        # It redirects to /t/{slug}/{id}.json.
        topic = found.headers["location"].partition("?")[0].rstrip("/").rpartition("/")[2]
        shown = self.http.get(f"t/{topic.removesuffix('.json')}.json").json()
        self._adopt(shown["post_stream"]["posts"][0]["id"])
        return True

    def receive_webhook(self, request: WebhookRequest) -> None:
        """Read the poll, for something has happened in its topic."""
        self._refresh()

    def update(self) -> None:
        """Read the poll."""
        self._refresh()

    def close(self) -> None:
        """Close the poll, unless it is over already."""
        self._refresh()
        if self.status == ProcessStatus.COMPLETED:
            return
        body = {"post_id": self.state.get("post_id"), "poll_name": NAME, "status": "closed"}
        self._take(self.http.put("polls/toggle_status.json", json=body).json()["poll"], "driver")

    @property
    def _external_id(self) -> str:
        """The same on every try of a start; Discourse allows 50 letters, digits, - and _."""
        return "metagov-" + hashlib.sha256(self.idempotency_key.encode()).hexdigest()[:40]

    def _adopt(self, post_id: int) -> None:
        """Make the poll of a fresh post this process' own."""
        post = self.http.get(f"posts/{post_id}.json").json()
        poll = find_poll(post)
        if poll is None:
            self.http.delete(f"posts/{post_id}.json")
            raise PlatformRejectedError(
                "Discourse made no poll of the post, so it was deleted again: is its poll plugin "
                "on, and may the api_username make polls?"
            )
        self.title = self.parameters.title
        self.url = (
            f"{self.plugin_inst.server}/t/{post['topic_slug']}/{post['topic_id']}/"
            f"{post['post_number']}"
        )
        self.correlation_key = f"topic/{post['topic_id']}"
        self.state.set("post_id", post_id)
        self.state.set("names", names_of(poll, option_texts(self.parameters)))
        self._take(poll)

    def _refresh(self) -> None:
        try:
            post = self.http.get(f"posts/{self.state.get('post_id')}.json").json()
        except NotFoundError:
            post = {}
        poll = find_poll(post)
        if poll is None or post.get("deleted_at"):
            self.errors = {"code": "poll_deleted", "message": "The poll was deleted on Discourse"}
            self.status = ProcessStatus.COMPLETED
            return
        self._take(poll)

    def _take(self, poll: dict[str, Any], closed_by: tally.ClosedBy = "platform") -> None:
        now = self.now()
        self.closing_at = closing_time(poll)
        closed = is_closed(poll, now)
        if closed and self.closing_at is not None and self.closing_at <= now:
            closed_by = "deadline"
        self.outcome = outcome_of(
            poll,
            self.state.get("names"),
            self._voters(poll),
            closed_by if closed else None,
        )
        self.status = ProcessStatus.COMPLETED if closed else ProcessStatus.PENDING
        self.poll_again_in = closing.pause(self.closing_at, now, seldom=SELDOM, often=OFTEN)

    def _voters(self, poll: dict[str, Any]) -> dict[str, list[str]]:
        """Who voted for each option, of a poll that shows it."""
        if not poll.get("public") or any("votes" not in option for option in poll["options"]):
            return {}
        shown = poll.get("preloaded_voters") or {}
        found = {}
        for option in poll["options"]:
            rows = shown.get(option["id"], []) if isinstance(shown, dict) else []
            names = _usernames(rows, poll["type"])
            if len(names) < option["votes"]:
                names = self._all_voters(option["id"], poll["type"])
            found[option["id"]] = sorted(names)
        return found

    def _all_voters(self, option: str, kind: str) -> list[str]:
        names: list[str] = []
        page = 1
        while True:
            answer = self.http.get(
                "polls/voters.json",
                params={
                    "post_id": self.state.get("post_id"),
                    "poll_name": NAME,
                    "option_id": option,
                    "page": page,
                    "limit": PAGE,
                },
            ).json()["voters"]
            rows = answer.get(option, []) if isinstance(answer, dict) else answer
            names += _usernames(rows, kind)
            if len(rows) < PAGE:
                return names
            page += 1


def _usernames(rows: list[dict[str, Any]], kind: str) -> list[str]:
    """The users in a list of voters; in ranked choice those who put the option first."""
    if kind != "ranked_choice":
        return [row["username"] for row in rows]
    return [row["user"]["username"] for row in rows if str(row["rank"]) == FIRST]


def _about(request: WebhookRequest) -> tuple[str | None, dict[str, Any]]:
    """What a webhook is about: the kind of thing, and the thing."""
    body = request.json()
    for kind in KINDS:
        if isinstance(body, dict) and isinstance(body.get(kind), dict):
            return kind, body[kind]
    return None, {}


def _initiator(kind: str, about: dict[str, Any]) -> dict[str, Any] | None:
    author = about.get("created_by") if kind == "topic" else about
    name = author.get("username") if isinstance(author, dict) else None
    return {"user_id": name, "provider": "discourse"} if name else None


def _user(user: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": user["id"],
        "username": user["username"],
        "name": user.get("name"),
        "trust_level": user.get("trust_level"),
        "admin": bool(user.get("admin")),
        "moderator": bool(user.get("moderator")),
        "user_fields": user.get("user_fields") or {},
    }


def _member(row: dict[str, Any], owner: bool) -> dict[str, Any]:
    return {
        "id": row["id"],
        "username": row["username"],
        "name": row.get("name"),
        "owner": owner,
    }
