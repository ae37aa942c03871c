"""The Loomio plugin, for the API b2 of Loomio 3.8."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from engine.plugins import (
    AuthenticationError,
    AuthType,
    GovernanceProcess,
    HttpOptions,
    NotFoundError,
    Parameters,
    PlatformRejectedError,
    Plugin,
    PluginError,
    ProcessStatus,
    Registry,
    WebhookRequest,
)
from engine.plugins.loomio import schemas
from engine.plugins.loomio.outcome import (
    discussion_keys,
    moment,
    on_the_hour,
    outcome_of,
    poll_keys,
    soonest_closing,
)

PAGE = 50
PROPOSAL_OPTIONS = ["agree", "disagree", "abstain"]
WITHOUT_OPTIONS = "question"


@Registry.plugin
class Loomio(Plugin):
    """A group on a Loomio server."""

    name = "loomio"
    description = "Discussions and polls of a group on Loomio."
    auth_type = AuthType.API_KEY
    config_schema = schemas.CONFIG

    @property
    def server(self) -> str:
        """The server's address, without a slash at its end."""
        return str(self.config["server_url"]).rstrip("/")

    def http_options(self) -> HttpOptions:
        """Requests go to the server's API, with the key as bearer."""
        return HttpOptions(
            base_url=f"{self.server}/api/b2/",
            headers={"Authorization": f"Bearer {self.config['api_key']}"},
        )

    def initialize(self) -> None:
        """Check that the key works and reaches the group."""
        group = self.config["group_id"]
        try:
            self.http.get(f"groups/{group}")
        except AuthenticationError as error:
            # Loomio answers 403 to both; a key rotates when its user changes the password.
            raise AuthenticationError(
                f"Loomio refuses: either the api_key is no (longer) valid, or its user is no "
                f"member of group {group} ({error.detail})"
            ) from error

    @Registry.action(
        slug="list-members",
        description="List the members of the group, or of a subgroup",
        input_schema=schemas.LIST_MEMBERS,
        output_schema=schemas.MEMBERS,
        idempotent=True,
    )
    def list_members(self, parameters: Parameters) -> dict[str, Any]:
        """List a group's members, all pages of them."""
        group = self.group_of(parameters)
        members: list[dict[str, Any]] = []
        while True:
            page = self.http.get(
                "memberships",
                params={
                    "group_id": group,
                    "limit": PAGE,
                    "offset": len(members),
                },
            ).json()
            users = {user["id"]: user for user in page.get("users", [])}
            rows = page["memberships"]
            members += [_member(row, users.get(row["user_id"], {})) for row in rows]
            if not rows or len(members) >= page["meta"]["total"]:
                return {"members": members}

    @Registry.action(
        slug="create-discussion",
        description="Start a discussion in the group",
        input_schema=schemas.DISCUSSION,
        output_schema=schemas.CREATED_DISCUSSION,
    )
    def create_discussion(self, parameters: Parameters) -> dict[str, Any]:
        """Start a discussion."""
        fields = {
            "group_id": self.group_of(parameters),
            "title": parameters.title,
            "description": parameters.description,
            "description_format": "md",
            "private": parameters.private,
            "recipient_audience": "group" if parameters.notify_group else None,
        }
        answer = self.http.post("discussions", json={"discussion": fields}).json()
        discussion = answer["discussions"][0]
        return {
            "id": discussion["id"],
            "key": discussion["key"],
            "topic_id": discussion.get("topic_id"),
            "url": f"{self.server}/d/{discussion['key']}",
        }

    @Registry.webhook_receiver(
        event_schemas=[
            {"type": kind, "schema": schemas.GROUP_NEWS}
            for kind in (*schemas.EVENT_KINDS, schemas.NEWS)
        ]
    )
    def on_webhook(self, request: WebhookRequest) -> None:
        """Send that something happened, and to what: Loomio signs nothing, so no more is sent.

        Servers of 2021 say of what kind it is; others only link to it.
        """
        polls = poll_keys(request.text, self.server)
        discussions = discussion_keys(request.text, self.server)
        if not polls and not discussions:
            self.log.info("webhook without a link to this Loomio server")
            return
        body = request.json()
        kind = body.get("kind") if isinstance(body, dict) else None
        urls = [f"{self.server}/p/{key}" for key in polls]
        urls += [f"{self.server}/d/{key}" for key in discussions]
        self.send_event_to_driver(
            kind if kind in schemas.EVENT_KINDS else schemas.NEWS,
            {"polls": polls, "discussions": discussions, "urls": urls},
        )

    def webhook_key(self, request: WebhookRequest) -> list[str] | None:
        """The polls that a webhook links to; one without a link may be about any poll."""
        return poll_keys(request.text, self.server) or None

    def group_of(self, parameters: Parameters) -> int:
        """The number of the group that is meant: the configured one, or a subgroup of it."""
        own = int(self.config["group_id"])
        wanted = parameters.get("group_id")
        if wanted is None or wanted == own:
            return own
        group = self.http.get(f"groups/{wanted}").json()["groups"][0]
        if group.get("parent_id") != own:
            raise PlatformRejectedError(f"Loomio's group {wanted} is no subgroup of group {own}")
        return int(wanted)

    def topic_of(self, discussion_id: int) -> int:
        """The number of a discussion's thread, which polls go by."""
        answer = self.http.get(f"discussions/{discussion_id}").json()
        topic = answer["discussions"][0].get("topic_id")
        for row in answer.get("topics", []):
            if (row["topicable_type"], row["topicable_id"]) == ("Discussion", discussion_id):
                topic = row["id"]
        if topic is None:
            raise PlatformRejectedError(f"Loomio shows no thread of discussion {discussion_id}")
        return int(topic)


@Registry.governance_process
class Poll(GovernanceProcess):
    """A poll in the group.

    Webhooks are unsigned and hold rendered text only, so for each one, as for each slow poll, the
    poll itself is read.
    """

    name = "poll"
    plugin_name = "loomio"
    description = "A poll in the Loomio group; votes are reported as they are cast."
    input_schema = schemas.POLL
    outcome_schema = schemas.OUTCOME
    poll_every = timedelta(minutes=15)

    def start(self, parameters: Parameters) -> None:
        """Create the poll.

        Raises:
            PlatformRejectedError: Loomio would not take the closing time, or made an orphan.
        """
        self._check_closing_time(parameters.closing_at)
        fields = _poll_fields(parameters, self.plugin_inst.group_of(parameters))
        if parameters.discussion_id is not None:
            fields["topic_id"] = self.plugin_inst.topic_of(parameters.discussion_id)
            del fields["group_id"]
        fields["details"] = f"{fields['details'] or ''}\n\n{self._mark}".strip()
        body = {"poll": fields, "notify_recipients": parameters.notify_on_open}
        if parameters.recipient_user_ids:
            # Loomio reads invitations from here, not from the poll's own fields.
            body["recipient_user_ids"] = parameters.recipient_user_ids
        answer = self.http.post("polls", json=body).json()
        poll = answer["polls"][0]
        self._refuse_orphan(poll, fields)
        self._adopt(poll)

    def find_started(self, parameters: Parameters) -> bool:
        """Find the poll of a start that was cut off, by the mark in its details.

        Raises:
            PlatformRejectedError: It would be in a thread, where Loomio lists no polls.
        """
        if parameters.topic_id is not None or parameters.discussion_id is not None:
            raise PlatformRejectedError(
                "Loomio does not list the polls of a thread, so whether the poll was made there "
                "is not known"
            )
        group = self.plugin_inst.group_of(parameters)
        seen = 0
        while True:
            page = self.http.get(
                "polls",
                params={
                    "group_id": group,
                    "status": "all",
                    "limit": PAGE,
                    "offset": seen,
                },
            ).json()
            for poll in page["polls"]:
                if self._mark in (poll.get("details") or ""):
                    self._adopt(poll)
                    return True
            seen += len(page["polls"])
            if not page["polls"] or seen >= page["meta"]["total"]:
                return False

    @property
    def _mark(self) -> str:
        """Unseen by readers, for it is a comment in Markdown; the same on every try of a start."""
        return f"<!-- metagov {self.idempotency_key} -->"

    def _adopt(self, poll: dict[str, Any]) -> None:
        """Make a fresh poll this process' own."""
        self.title = poll["title"]
        self.url = f"{self.plugin_inst.server}/p/{poll['key']}"
        self.correlation_key = poll["key"]
        self.state.set("poll_id", poll["id"])
        self._take(poll)

    def receive_webhook(self, request: WebhookRequest) -> None:
        """Read the poll: the webhook itself is only a hint."""
        self._refresh()

    def update(self) -> None:
        """Read the poll, in case a webhook was lost."""
        self._refresh()

    def close(self) -> None:
        """Do what Loomio's API allows to close the poll: move its closing time up.

        Raises:
            PlatformRejectedError: The poll is open still; it says until when.
        """
        expected = self.closing_at
        self._refresh()
        if self.status == ProcessStatus.COMPLETED:
            return
        now, closing_at = self.now(), self.closing_at
        if isinstance(closing_at, datetime) and closing_at <= now:
            return  # Loomio's own job closes it in a moment.
        if isinstance(expected, datetime) and expected <= now:
            return  # Somebody has put the end off on Loomio: the new one holds.
        soonest = soonest_closing(now)
        if isinstance(closing_at, datetime) and closing_at <= soonest:
            state = f"it closes at {closing_at:%Y-%m-%d %H:%M} UTC"
        else:
            self.http.patch(
                f"polls/{self.state.get('poll_id')}",
                json={"poll": {"closing_at": soonest.isoformat()}},
            )
            state = f"its closing time was moved up to {soonest:%Y-%m-%d %H:%M} UTC"
        raise PlatformRejectedError(
            f"Loomio's API cannot close a poll; {state}. A person can close it now at {self.url}"
        )

    def _refresh(self) -> None:
        try:
            poll = self.http.get(f"polls/{self.state.get('poll_id')}").json()["polls"][0]
        except NotFoundError:
            self._end_deleted()
            return
        if poll.get("discarded_at"):
            self._end_deleted()
            return
        self._take(poll)

    def _take(self, poll: dict[str, Any]) -> None:
        self.outcome = outcome_of(poll)
        self.closing_at = moment(poll.get("closing_at"))
        self.status = ProcessStatus.COMPLETED if poll.get("closed_at") else ProcessStatus.PENDING
        self.save()

    def _end_deleted(self) -> None:
        self.errors = {"code": "poll_deleted", "message": "The poll was deleted on Loomio"}
        self.status = ProcessStatus.COMPLETED
        self.save()

    def _refuse_orphan(self, poll: dict[str, Any], fields: dict[str, Any]) -> None:
        """Refuse a poll that Loomio made without its group or options, and take it away again."""
        wanted = len(fields.get("options", []))
        in_its_place = poll.get("group_id") is not None or "topic_id" in fields
        if in_its_place and len(poll.get("poll_option_names", [])) >= wanted:
            return
        try:
            self.http.delete(f"polls/{poll['id']}")
            removal = "it was removed again"
        except PluginError as error:
            removal = f"removing poll {poll['id']} failed as well ({error.detail})"
        raise PlatformRejectedError(
            "Loomio took the poll without its group or options, as servers of another version "
            f"do; {removal}"
        )

    def _check_closing_time(self, text: str) -> None:
        """Refuse what Loomio would refuse, in words that name the rounding."""
        try:
            closing_at = moment(text)
        except ValueError:
            closing_at = None
        if closing_at is None:
            raise PlatformRejectedError(f"closing_at is no time that Loomio knows: {text!r:.80}")
        rounded = on_the_hour(closing_at)
        if rounded <= self.now():
            raise PlatformRejectedError(
                f"closing_at must be in the future: Loomio rounds it down to the full hour, "
                f"{rounded:%Y-%m-%d %H:%M} UTC, and it is {self.now():%Y-%m-%d %H:%M} UTC"
            )


def _member(membership: dict[str, Any], user: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": membership["user_id"],
        "name": user.get("name"),
        "username": user.get("username"),
        "admin": bool(membership.get("admin")),
        "pending": membership.get("accepted_at") is None,
        "bot": bool(user.get("bot")),
    }


def _poll_fields(parameters: Parameters, group_id: int) -> dict[str, Any]:
    """The poll as Loomio wants it; what was not given is left to Loomio's defaults."""
    poll_type = parameters.poll_type or ("poll" if parameters.options else "proposal")
    options = parameters.options or (PROPOSAL_OPTIONS if poll_type == "proposal" else [])
    closing_at = moment(parameters.closing_at)
    assert closing_at is not None
    fields = {
        "title": parameters.title,
        "poll_type": poll_type,
        "details": parameters.details,
        "details_format": "md",
        "closing_at": on_the_hour(closing_at).isoformat(),
    }
    fields |= {"topic_id": parameters.topic_id} if parameters.topic_id else {"group_id": group_id}
    if poll_type != WITHOUT_OPTIONS:
        fields["options"] = options
    passed_on = (
        "hide_results",
        "anonymous",
        "specified_voters_only",
        "shuffle_options",
        "notify_on_open",
        "notify_on_closing_soon",
        "recipient_user_ids",
        "quorum_pct",
        "agree_target",
        "min_score",
        "max_score",
        "dots_per_person",
        "minimum_stance_choices",
        "maximum_stance_choices",
        "stance_reason_required",
        "opening_at",
        "tags",
    )
    return fields | {name: parameters[name] for name in passed_on if name in parameters}
