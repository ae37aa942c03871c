"""The Open Collective plugin, for its GraphQL API v2."""

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
    PluginError,
    RateLimitError,
    Registry,
    WebhookRequest,
    closing,
    tally,
)
from engine.plugins.opencollective import queries, schemas
from engine.plugins.opencollective.activities import (
    EVENT_SCHEMAS,
    EVENTS,
    OVERLAP,
    cursor_after,
    event_data,
    initiator,
)

PAGE = 100
# By what Open Collective calls its failures.
ERRORS: dict[str, type[PluginError]] = {
    "Unauthorized": AuthenticationError,
    "Forbidden": AuthenticationError,
    "InvalidToken": AuthenticationError,
    "NotFound": NotFoundError,
    "RateLimitExceeded": RateLimitError,
    "INTERNAL_SERVER_ERROR": PlatformDownError,
    "InternalServerError": PlatformDownError,
}


@Registry.plugin
class OpenCollective(Plugin):
    """A collective, whose news are read by a cursor, at each webhook and every five minutes."""

    # Its webhooks are unsigned, mostly empty and never sent twice, so each is a hint at most.

    name = "opencollective"
    description = "Conversations, expenses, updates and members of a collective."
    auth_type = AuthType.API_KEY
    config_schema = schemas.CONFIG
    rate_limit = "90/min"

    @property
    def slug(self) -> str:
        """The collective, as its address has it."""
        return str(self.config["collective_slug"])

    def http_options(self) -> HttpOptions:
        """Requests go to the API, with the personal token."""
        return HttpOptions(
            base_url=f"{self.config['api_url'].rstrip('/')}/",
            headers={"Personal-Token": self.config["access_token"]},
        )

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Run a GraphQL operation; PluginError if it, or a part of it, failed."""
        body = {"query": query, "variables": variables}
        answer = self.http.post("graphql/v2", json=body).json()
        errors = answer.get("errors") if isinstance(answer, dict) else None
        if errors:
            first = errors[0]
            code = (first.get("extensions") or {}).get("code", "")
            reason = f"Open Collective: {first.get('message', 'no reason given')}"
            raise ERRORS.get(code, PlatformRejectedError)(reason)
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
            raise PlatformDownError("Open Collective answered without data")
        return dict(answer["data"])

    def initialize(self) -> None:
        """Check the token, begin to follow the news, and register the webhook."""
        self._begin()
        self._register()

    def on_config_change(self, old_config: dict[str, Any]) -> None:
        """Go on with the same news; another collective, or webhook, is begun anew."""
        if old_config["collective_slug"] != self.slug:
            self.state.remove("cursor")
        self._begin()
        deciding = ("api_url", "collective_slug", "webhook_slug", "register_webhook")
        if any(old_config.get(name) != self.config.get(name) for name in deciding):
            try:
                self._unregister()
            except PluginError as error:
                self.log.warning("the old webhook stays on Open Collective", detail=error.detail)
        self._register()

    def on_disable(self) -> None:
        """Take the webhook away again."""
        self._unregister()

    @Registry.action(
        slug="list-members",
        description="List the collective's members",
        input_schema=schemas.LIST_MEMBERS,
        output_schema=schemas.MEMBERS,
        idempotent=True,
    )
    def list_members(self, parameters: Parameters) -> dict[str, Any]:
        """List the members, all pages of them."""
        rows = self._pages(
            queries.MEMBERS, ("account", "members"), slug=self.slug, role=parameters.roles
        )
        return {"members": [_member(row) for row in rows]}

    @Registry.action(
        slug="create-conversation",
        description="Start a conversation",
        input_schema=schemas.CREATE_CONVERSATION,
        output_schema=schemas.CONVERSATION,
    )
    def create_conversation(self, parameters: Parameters) -> dict[str, Any]:
        """Start a conversation."""
        return self.converse(parameters.title, parameters.html, parameters.tags or [])

    @Registry.action(
        slug="edit-conversation",
        description="Change a conversation's title and tags",
        input_schema=schemas.EDIT_CONVERSATION,
        output_schema=schemas.CONVERSATION,
        idempotent=True,
    )
    def edit_conversation(self, parameters: Parameters) -> dict[str, Any]:
        """Change the title, and the tags if they are given."""
        fields = {name: parameters[name] for name in ("id", "title", "tags") if name in parameters}
        edited = self.ask(queries.EDIT_CONVERSATION, **fields)["editConversation"]
        return self._conversation(edited)

    @Registry.action(
        slug="create-comment",
        description="Comment on a conversation, an expense or an update",
        input_schema=schemas.CREATE_COMMENT,
        output_schema=schemas.COMMENT,
    )
    def create_comment(self, parameters: Parameters) -> dict[str, Any]:
        """Comment on one thing."""
        about = {
            name: {"id": parameters[f"{name}_id"]}
            for name in ("conversation", "expense", "update")
            if f"{name}_id" in parameters
        }
        return self.comment(parameters.html, **about)

    @Registry.action(
        slug="process-expense",
        description="Approve, reject, pay ... an expense",
        input_schema=schemas.PROCESS_EXPENSE,
        output_schema=schemas.EXPENSE,
    )
    def process_expense(self, parameters: Parameters) -> dict[str, Any]:
        """Move an expense on."""
        expense = self.ask(
            queries.PROCESS_EXPENSE,
            expense={"id": parameters.expense_id},
            action=parameters.action,
            message=parameters.message,
        )["processExpense"]
        return {
            "id": expense["id"],
            "legacy_id": expense.get("legacyId"),
            "status": expense["status"],
        }

    @Registry.action(
        slug="react",
        description="React to a comment or an update, or take the reaction back",
        input_schema=schemas.REACT,
        output_schema=schemas.REACTIONS,
        idempotent=True,
    )
    def react(self, parameters: Parameters) -> dict[str, Any]:
        """React with one of the emoji that Open Collective has."""
        bare = tally.bare_emoji(parameters.emoji)
        emoji = next((e for e in schemas.EMOJI if tally.bare_emoji(e) == bare), None)
        if emoji is None:
            raise PlatformRejectedError(
                f"Open Collective has no reaction {parameters.emoji!r:.20}, only "
                f"{' '.join(schemas.EMOJI)}"
            )
        kind = "comment" if "comment_id" in parameters else "update"
        query = queries.REMOVE_REACTION if parameters.remove else queries.ADD_REACTION
        data = self.ask(query, emoji=emoji, **{kind: {"id": parameters[f"{kind}_id"]}})
        (answer,) = data.values()
        return {"reactions": (answer.get(kind) or {}).get("reactions") or {}}

    @Registry.webhook_receiver(event_schemas=EVENT_SCHEMAS)
    def on_webhook(self, request: WebhookRequest) -> None:
        """Read the news, if the webhook is about this collective at all."""
        about = request.read("CollectiveId", int)
        if about != self.state.get("legacy_id"):
            self.log.warning("webhook about another collective ignored", collective=about)
            return
        self._read_news()

    @Registry.event_producer_task(every=timedelta(minutes=5))
    def read_news(self) -> None:
        """Read the news, in case a webhook was lost."""
        self._read_news()

    def webhook_key(self, request: WebhookRequest) -> list[str]:
        """No process waits for webhooks: there are none about reactions."""
        return []

    def converse(self, title: str, html: str, tags: list[str]) -> dict[str, Any]:
        """Start a conversation."""
        made = self.ask(
            queries.CREATE_CONVERSATION,
            account={"slug": self.slug},
            title=title,
            html=html,
            tags=tags,
        )["createConversation"]
        return self._conversation(made)

    def comment(self, html: str, **about: dict[str, str]) -> dict[str, Any]:
        """Comment on something, such as ``conversation={"id": ...}``."""
        made = self.ask(queries.CREATE_COMMENT, comment={"html": html, **about})["createComment"]
        return {"id": made["id"], "created_at": made.get("createdAt")}

    def address_of(self, conversation: dict[str, Any]) -> str:
        """Where people find a conversation."""
        website = self.config["website_url"].rstrip("/")
        return f"{website}/{self.slug}/conversations/{conversation['slug']}-{conversation['id']}"

    def _conversation(self, conversation: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": conversation["id"],
            "title": conversation["title"],
            "url": self.address_of(conversation),
        }

    def _begin(self) -> None:
        """Check the token, and remember which news are old."""
        try:
            account = self.ask(queries.ACCOUNT, slug=self.slug)["account"]
        except AuthenticationError as error:
            raise AuthenticationError(
                f"Open Collective refuses the access_token ({error.detail})"
            ) from error
        except NotFoundError:
            raise PlatformRejectedError(
                f"Open Collective knows no collective_slug {self.slug!r}"
            ) from None
        self.state.set("legacy_id", account["legacyId"])
        if self.state.get("cursor") is None:
            self.state.set("cursor", cursor_after({}, self._activities(None)))

    def _register(self) -> None:
        if not self.config["register_webhook"]:
            return
        hooks = self._pages(queries.WEBHOOKS, ("account", "webhooks"), slug=self.slug)
        known = next((h["id"] for h in hooks if h["webhookUrl"] == self.webhook_url), None)
        if known is None:
            webhook = {
                "account": {"slug": self.slug},
                "activityType": "ACTIVITY_ALL",
                "webhookUrl": self.webhook_url,
            }
            known = self.ask(queries.CREATE_WEBHOOK, webhook=webhook)["createWebhook"]["id"]
        self.state.set("webhook_id", known)

    def _unregister(self) -> None:
        webhook_id = self.state.get("webhook_id")
        if webhook_id is None:
            return
        try:
            self.ask(queries.DELETE_WEBHOOK, webhook={"id": webhook_id})
        except NotFoundError:
            self.log.info("the webhook was gone from Open Collective already")
        self.state.remove("webhook_id")

    def _read_news(self) -> None:
        """Send an event for each activity since the cursor, once, in their order."""
        cursor = self.state.get("cursor")
        fresh = [item for item in self._activities(cursor["at"]) if item["id"] not in cursor["ids"]]
        if not fresh:
            return
        # The newest come first, also within one millisecond.
        for activity in sorted(reversed(fresh), key=lambda item: closing.moment(item["createdAt"])):
            self.send_event_to_driver(
                EVENTS[activity["type"]],
                event_data(activity),
                initiator=initiator(activity),
                timestamp=closing.moment(activity["createdAt"]).timestamp(),
            )
        # Of two calls at once only one sends: the other one is retried.
        self.state.compare_and_set("cursor", cursor, cursor_after(cursor, fresh))

    def _activities(self, since: str | None) -> list[dict[str, Any]]:
        """The collective's activities from shortly before a moment; without it, the newest page."""
        date_from = (closing.moment(since) - OVERLAP).isoformat() if since else None
        rows = self._pages(
            queries.ACTIVITIES,
            ("activities",),
            most=None if since else PAGE,
            account=[{"slug": self.slug}],
            types=list(EVENTS),
            dateFrom=date_from,
        )
        return [row for row in rows if (row.get("account") or {}).get("slug") == self.slug]

    def _pages(
        self, query: str, path: tuple[str, ...], most: int | None = None, **variables: Any
    ) -> list[dict[str, Any]]:
        """Read a collection, page by page, to its end or to so many."""
        rows: list[dict[str, Any]] = []
        while True:
            found: Any = self.ask(query, limit=PAGE, offset=len(rows), **variables)
            for name in path:
                found = found[name]
            if found["nodes"] is None:
                raise AuthenticationError(
                    f"Open Collective shows no {path[-1]}: the access_token's user must be an "
                    f"admin of {self.slug!r}"
                )
            rows += found["nodes"]
            if not found["nodes"] or len(rows) >= (most or found["totalCount"]):
                return list({row["id"]: row for row in rows}.values())


def _member(row: dict[str, Any]) -> dict[str, Any]:
    account = row.get("account") or {}
    return {
        "id": row["id"],
        "role": row["role"],
        "since": row["since"],
        "slug": account.get("slug"),
        "name": account.get("name"),
    }
