"""The Loomio plugin, for the API b2 of Loomio 3.8."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
    ProcessStatus,
    Registry,
    WebhookRequest,
)
from engine.plugins.loomio import schemas
from engine.plugins.loomio.outcome import outcome_of, poll_keys

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
        description="List the group's members",
        output_schema=schemas.MEMBERS,
    )
    def list_members(self) -> dict[str, Any]:
        """List the group's members, all pages of them."""
        members: list[dict[str, Any]] = []
        while True:
            page = self.http.get(
                "memberships",
                params={
                    "group_id": self.config["group_id"],
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
            "group_id": self.config["group_id"],
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

    def webhook_key(self, request: WebhookRequest) -> list[str] | None:
        """The polls that a webhook links to; a text without a link may be about any poll."""
        return poll_keys(request.text) or None


@Registry.governance_process
class Poll(GovernanceProcess):
    """A poll in the group.

    Webhooks are unsigned and hold rendered text only, so each one, like each slow poll, leads to
    a look at the poll itself.
    """

    name = "poll"
    plugin_name = "loomio"
    description = "A poll in the Loomio group; votes are told as they are cast."
    input_schema = schemas.POLL
    outcome_schema = schemas.OUTCOME
    poll_every = timedelta(minutes=15)

    def start(self, parameters: Parameters) -> None:
        """Create the poll."""
        fields = _poll_fields(parameters, self.plugin_inst.config["group_id"])
        answer = self.http.post(
            "polls", json={"poll": fields, "notify_recipients": parameters.notify_on_open}
        ).json()
        poll = answer["polls"][0]
        self._refuse_orphan(poll, fields)
        self.title = parameters.title
        self.url = f"{self.plugin_inst.server}/p/{poll['key']}"
        self.correlation_key = poll["key"]
        self.state.set("poll_id", poll["id"])
        self._take(poll)

    def receive_webhook(self, request: WebhookRequest) -> None:
        """Look at the poll: the webhook itself is only a hint."""
        self._refresh()

    def update(self) -> None:
        """Look at the poll, in case a webhook was lost."""
        self._refresh()

    def close(self) -> None:
        """Do what Loomio's API allows to close the poll: move its closing time up.

        Raises:
            PlatformRejectedError: The poll is open still; it says until when.
        """
        self._refresh()
        if self.status == ProcessStatus.COMPLETED:
            return
        next_hour = self.now().replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        closing_at = self.closing_at
        if isinstance(closing_at, datetime) and closing_at <= next_hour:
            if closing_at <= self.now():
                return  # Loomio's own job closes it in a moment.
            told = f"it closes at {closing_at:%Y-%m-%d %H:%M} UTC"
        else:
            when = next_hour.isoformat()
            self.http.patch(
                f"polls/{self.state.get('poll_id')}", json={"poll": {"closing_at": when}}
            )
            told = f"its closing time was moved up to {next_hour:%Y-%m-%d %H:%M} UTC"
        raise PlatformRejectedError(
            f"Loomio's API cannot close a poll; {told}. A person can close it now at {self.url}"
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
        self.closing_at = poll.get("closing_at")
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
        self.http.delete(f"polls/{poll['id']}")
        raise PlatformRejectedError(
            "Loomio took the poll without its group or options, as servers of another version "
            "do; it was removed again"
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
    closing_at = datetime.fromisoformat(parameters.closing_at)
    if closing_at.tzinfo is None:
        closing_at = closing_at.replace(tzinfo=UTC)
    fields = {
        "title": parameters.title,
        "poll_type": poll_type,
        "details": parameters.details,
        "details_format": "md",
        "closing_at": closing_at.astimezone(UTC).isoformat(),
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
        "quorum_pct",
        "min_score",
        "max_score",
        "dots_per_person",
        "minimum_stance_choices",
        "maximum_stance_choices",
    )
    return fields | {name: parameters[name] for name in passed_on if name in parameters}
