"""How the Open Collective twin answers the fields of its schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import uuid4

from graphql import GraphQLError, GraphQLResolveInfo

from sandbox.opencollective import models
from sandbox.opencollective.state import OpenCollectiveTwin

Shown = dict[str, Any]
Info: TypeAlias = GraphQLResolveInfo[bool]


def failure(reason: str, code: str = "") -> GraphQLError:
    """A failure as the platform reports it.

    Args:
        reason: In a sentence.
        code: What it calls this; some failures have no name.

    Returns:
        The error.
    """
    return GraphQLError(reason, extensions={"id": str(uuid4()), "code": code} if code else None)


class Resolvers:
    """Answers queries and mutations.

    Args:
        twin: What they are about.
    """

    def __init__(self, twin: OpenCollectiveTwin) -> None:
        self.twin = twin

    @property
    def root(self) -> dict[str, Callable[..., Any]]:
        """The function of each field of ``Query`` and ``Mutation``."""
        scopes: dict[str, tuple[str | None, Callable[..., Any]]] = {
            "account": (None, self._account_of),
            "conversation": (None, self._conversation_of),
            "expense": (None, self._expense_of),
            "activities": (None, self._activities),
            "createConversation": ("conversations", self._create_conversation),
            "editConversation": ("conversations", self._edit_conversation),
            "createComment": ("conversations", self._create_comment),
            "deleteComment": ("conversations", self._delete_comment),
            "addEmojiReaction": ("conversations", self._react),
            "removeEmojiReaction": ("conversations", self._take_back),
            "processExpense": ("expenses", self._process_expense),
            "createWebhook": ("webhooks", self._create_webhook),
            "deleteWebhook": ("webhooks", self._delete_webhook),
        }
        return {name: self._allowed(scope, act) for name, (scope, act) in scopes.items()}

    def _allowed(self, scope: str | None, act: Callable[..., Any]) -> Callable[..., Any]:
        def resolve(info: Info, **arguments: Any) -> Any:
            if scope and not info.context:
                raise failure("You need to be authenticated to perform this action", "Unauthorized")
            if scope and scope not in self.twin.scopes:
                raise failure(
                    f'The Personal Token is not allowed for operations in scope "{scope}".',
                    "Forbidden",
                )
            try:
                return act(info, **arguments)
            except models.CodedError as error:
                raise failure(str(error), error.code) from None

        return resolve

    def _account_of(self, info: Info, slug: str | None = None) -> Shown:
        if slug != models.SLUG:
            raise failure(f"Account Not Found: {slug}", "NotFound")
        return self._collective()

    def _conversation_of(self, info: Info, id: str) -> Shown | None:
        found = self.twin.conversations.get(id)
        return self._conversation(found) if found else None

    def _expense_of(self, info: Info, expense: Shown) -> Shown:
        return self._expense(self._find(self.twin.expenses, expense, "Expense"))

    def _activities(
        self,
        info: Info,
        limit: int,
        offset: int,
        account: Sequence[Shown] = (),
        type: Sequence[str] | None = None,
        dateFrom: str | None = None,
    ) -> Shown:
        allowed = info.context and self.twin.is_admin and "account" in self.twin.scopes
        if not allowed or not all(self._is_collective(named) for named in account):
            return {"totalCount": 0, "nodes": None}
        since = datetime.fromisoformat(dateFrom) if dateFrom else None
        rows = [
            activity
            for activity in reversed(self.twin.activities)
            if (type is None or activity.type in type)
            and (since is None or activity.created_at >= since)
        ]
        return _page(rows, self._activity, limit, offset)

    def _create_conversation(
        self,
        info: Info,
        title: str,
        html: str,
        account: Shown,
        tags: list[str] | None = None,
    ) -> Shown:
        self._want_collective(account)
        return self._conversation(self.twin.converse(models.BOT, title, html, tags or []))

    def _edit_conversation(
        self, info: Info, id: str, title: str, tags: list[str] | None = None
    ) -> Shown:
        found = self._find(self.twin.conversations, {"id": id}, "Conversation")
        found.title = title
        found.tags = found.tags if tags is None else tags
        return self._conversation(found)

    def _create_comment(self, info: Info, comment: Shown) -> Shown:
        things: dict[str, dict[str, Any]] = {
            "conversation": self.twin.conversations,
            "expense": self.twin.expenses,
            "update": self.twin.updates,
        }
        named = [name for name in things if comment.get(name)]
        if len(named) != 1:
            raise failure("A comment is about one thing", "ValidationFailed")
        about = self._find(things[named[0]], comment[named[0]], named[0].title())
        made = self.twin.comment(models.BOT, about, comment.get("html") or "")
        return self._comment(made)

    def _delete_comment(self, info: Info, id: str) -> Shown:
        for conversation in self.twin.conversations.values():
            for comment in conversation.comments:
                if id in (comment.id, comment.public_id):
                    conversation.comments.remove(comment)
                    return self._comment(comment)
        raise failure("Comment Not Found", "NotFound")

    def _react(
        self,
        info: Info,
        emoji: str,
        comment: Shown | None = None,
        update: Shown | None = None,
        *,
        remove: bool = False,
    ) -> Shown:
        if comment is not None:
            to = self._find(self._comments(), comment, "Comment")
            self.twin.react(models.BOT, to, emoji, remove)
            return {"comment": self._comment(to), "update": None}
        about = self._find(self.twin.updates, update or {}, "Update")
        self.twin.react(models.BOT, about, emoji, remove)
        return {"comment": None, "update": self._update(about)}

    def _take_back(self, info: Info, emoji: str, **target: Shown) -> Shown:
        return self._react(info, emoji, **target, remove=True)

    def _process_expense(
        self, info: Info, expense: Shown, action: str, message: str | None = None
    ) -> Shown:
        found = self._find(self.twin.expenses, expense, "Expense")
        self._want_admin()
        self.twin.process(models.BOT, found, action)
        return self._expense(found)

    def _create_webhook(self, info: Info, webhook: Shown) -> Shown:
        self._want_collective(webhook["account"])
        self._want_admin()
        if self.twin.wants_second_factor:
            raise failure("This personal token is not pre-authorized for 2FA")
        return _webhook(self.twin.add_webhook(webhook["activityType"], webhook["webhookUrl"]))

    def _delete_webhook(self, info: Info, webhook: Shown) -> Shown:
        found = self._find({hook.id: hook for hook in self.twin.webhooks}, webhook, "Webhook")
        self._want_admin()
        self.twin.webhooks.remove(found)
        return _webhook(found)

    def _find(self, things: dict[str, Any], reference: Shown, kind: str) -> Any:
        names = {reference.get("id"), reference.get("legacyId")} - {None}
        for thing in things.values():
            if names & {thing.id, thing.public_id, thing.number}:
                return thing
        raise failure(f"{kind} Not Found", "NotFound")

    def _comments(self) -> dict[str, models.Comment]:
        found = [conversation.body for conversation in self.twin.conversations.values()]
        for conversation in self.twin.conversations.values():
            found += conversation.comments
        for expense in self.twin.expenses.values():
            found += expense.comments
        for update in self.twin.updates.values():
            found += update.comments
        return {comment.id: comment for comment in found}

    def _is_collective(self, reference: Shown) -> bool:
        return reference.get("slug") == models.SLUG or reference.get("legacyId") == models.LEGACY_ID

    def _want_collective(self, reference: Shown) -> None:
        if not self._is_collective(reference):
            raise failure("Account Not Found", "NotFound")

    def _want_admin(self) -> None:
        if not self.twin.is_admin:
            raise failure("You need to be an admin of this account", "Forbidden")

    def _collective(self) -> Shown:
        def members(info: Info, limit: int, offset: int, role: list[str] | None = None) -> Shown:
            rows = [m for m in self.twin.members if role is None or m.role in role]
            return _page(rows, self._member, limit, offset)

        def conversations(info: Info, limit: int, offset: int, tag: str | None = None) -> Shown:
            rows = [c for c in self.twin.conversations.values() if tag is None or tag in c.tags]
            return _page(rows, self._conversation, limit, offset)

        def webhooks(info: Info, limit: int, offset: int) -> Shown:
            self._want_admin()
            return _page(self.twin.webhooks, _webhook, limit, offset)

        return {
            "__typename": "Collective",
            "id": "acc_example",
            "legacyId": models.LEGACY_ID,
            "slug": models.SLUG,
            "name": "Example Collective",
            "members": members,
            "conversations": conversations,
            "webhooks": webhooks,
        }

    def _conversation(self, conversation: models.Conversation) -> Shown:
        def comments(info: Info, limit: int, offset: int) -> Shown:
            return _page(conversation.comments, self._comment, limit, offset)

        return {
            "id": conversation.id,
            "publicId": conversation.public_id,
            "slug": models.as_slug(conversation.title),
            "title": conversation.title,
            "summary": conversation.body.html[:240],
            "tags": conversation.tags,
            "body": self._comment(conversation.body),
            "comments": comments,
        }

    def _comment(self, comment: models.Comment) -> Shown:
        own = [emoji for emoji, who in comment.reactions.items() if models.BOT in who]
        return {
            "id": comment.id,
            "publicId": comment.public_id,
            "html": comment.html,
            "createdAt": models.as_text(comment.created_at),
            "fromAccount": _person(comment.author),
            "reactions": models.counts(comment),
            "userReactions": own,
        }

    def _expense(self, expense: models.Expense) -> Shown:
        return {
            "id": expense.id,
            "legacyId": expense.number,
            "status": expense.status,
            "amount": expense.amount,
            "currency": "USD",
            "description": expense.description,
            "payee": _person(expense.author),
            "createdByAccount": _person(expense.author),
        }

    def _update(self, update: models.Update) -> Shown:
        return {
            "id": update.id,
            "slug": models.as_slug(update.title),
            "title": update.title,
            "summary": update.html[:240],
            "isPrivate": False,
            "reactions": models.counts(update),
        }

    def _member(self, member: models.Membership) -> Shown:
        return {
            "id": member.id,
            "publicId": member.public_id,
            "role": member.role,
            "since": models.as_text(member.created_at),
            "account": _person(member.slug),
        }

    def _activity(self, activity: models.Activity) -> Shown:
        about = activity.about
        return {
            "id": activity.id,
            "type": activity.type,
            "createdAt": models.as_text(activity.created_at),
            "account": self._collective(),
            "fromAccount": _person(activity.author),
            "individual": _person(activity.author),
            "expense": self._expense(about) if isinstance(about, models.Expense) else None,
            "update": self._update(about) if isinstance(about, models.Update) else None,
            "conversation": (
                self._conversation(about) if isinstance(about, models.Conversation) else None
            ),
        }


def _page(rows: Sequence[Any], show: Callable[[Any], Shown], limit: int, offset: int) -> Shown:
    page = [show(row) for row in rows[offset : offset + limit]]
    return {"totalCount": len(rows), "nodes": page}


def _person(slug: str) -> Shown:
    name = slug.replace("-", " ").title()
    return {"__typename": "Individual", "id": f"acc_{slug}", "slug": slug, "name": name}


def _webhook(webhook: models.Webhook) -> Shown:
    return {
        "id": webhook.id,
        "publicId": webhook.public_id,
        "activityType": webhook.activity_type,
        "webhookUrl": webhook.url,
    }
