"""What the Open Collective twin's webhooks say of what has happened."""

from __future__ import annotations

import re
from typing import Any

from sandbox.opencollective.models import (
    LEGACY_ID,
    SLUG,
    Activity,
    Expense,
    Update,
    as_slug,
    as_text,
)

# The activities that there are here, as GraphQL and as webhooks name them.
WEBHOOK_TYPES = {
    "ACTIVITY_ALL": "all",
    "COLLECTIVE_CONVERSATION_CREATED": "collective.conversation.created",
    "COLLECTIVE_CORE_MEMBER_ADDED": "collective.core.member.added",
    "COLLECTIVE_CORE_MEMBER_REMOVED": "collective.core.member.removed",
    "COLLECTIVE_EXPENSE_APPROVED": "collective.expense.approved",
    "COLLECTIVE_EXPENSE_CREATED": "collective.expense.created",
    "COLLECTIVE_EXPENSE_DELETED": "collective.expense.deleted",
    "COLLECTIVE_EXPENSE_ERROR": "collective.expense.error",
    "COLLECTIVE_EXPENSE_INVITE_DECLINED": "collective.expense.invite.declined",
    "COLLECTIVE_EXPENSE_INVITE_DRAFTED": "collective.expense.invite.drafted",
    "COLLECTIVE_EXPENSE_MARKED_AS_INCOMPLETE": "collective.expense.incomplete",
    "COLLECTIVE_EXPENSE_MARKED_AS_SPAM": "collective.expense.spam",
    "COLLECTIVE_EXPENSE_MARKED_AS_UNPAID": "collective.expense.unpaid",
    "COLLECTIVE_EXPENSE_MOVED": "collective.expense.moved",
    "COLLECTIVE_EXPENSE_PAID": "collective.expense.paid",
    "COLLECTIVE_EXPENSE_PROCESSING": "collective.expense.processing",
    "COLLECTIVE_EXPENSE_PUT_ON_HOLD": "collective.expense.putOnHold",
    "COLLECTIVE_EXPENSE_REJECTED": "collective.expense.rejected",
    "COLLECTIVE_EXPENSE_RELEASED_FROM_HOLD": "collective.expense.releasedFromHold",
    "COLLECTIVE_EXPENSE_RE_APPROVAL_REQUESTED": "collective.expense.reApprovalRequested",
    "COLLECTIVE_EXPENSE_SCHEDULED_FOR_PAYMENT": "collective.expense.scheduledForPayment",
    "COLLECTIVE_EXPENSE_UNAPPROVED": "collective.expense.unapproved",
    "COLLECTIVE_EXPENSE_UNSCHEDULED_FOR_PAYMENT": "collective.expense.unscheduledForPayment",
    "COLLECTIVE_EXPENSE_UPDATED": "collective.expense.updated",
    "COLLECTIVE_MEMBER_CREATED": "collective.member.created",
    "COLLECTIVE_UPDATE_CREATED": "collective.update.created",
    "COLLECTIVE_UPDATE_PUBLISHED": "collective.update.published",
    "CONVERSATION_COMMENT_CREATED": "conversation.comment.created",
    "EXPENSE_COMMENT_CREATED": "expense.comment.created",
    "UPDATE_COMMENT_CREATED": "update.comment.created",
}
# The activities whose webhooks have content.
WITH_CONTENT = re.compile(
    r"collective\.(member\.created|update\.published|expense\."
    r"(created|updated|deleted|approved|unapproved|rejected|reApprovalRequested|paid|unpaid|spam"
    r"|processing|scheduledForPayment|error|invite\.drafted))"
)


def webhook_body(activity: Activity) -> dict[str, Any]:
    """A webhook about what has happened: nothing more than that, for most kinds."""
    kind = WEBHOOK_TYPES[activity.type]
    return {
        "createdAt": as_text(activity.created_at),
        "id": activity.number,
        "type": kind,
        "CollectiveId": LEGACY_ID,
        "data": _content(activity) if WITH_CONTENT.fullmatch(kind) else {},
    }


def _content(activity: Activity) -> dict[str, Any]:
    about = activity.about
    if isinstance(about, Expense):
        money = f"${about.amount / 100:.2f}"
        expense = {
            "idV2": about.id,
            "id": about.number,
            "description": about.description,
            "amount": about.amount,
            "currency": "USD",
            "publicId": about.public_id,
            "formattedAmount": money,
            "formattedAmountWithInterval": money,
        }
        people = {"fromCollective": about.author, "collective": SLUG}
        return {"expense": expense} | {
            name: {"slug": slug, "name": slug.title()} for name, slug in people.items()
        }
    if isinstance(about, Update):
        shown = {"html": about.html, "title": about.title, "slug": as_slug(about.title)}
        more = {"tags": None, "isPrivate": False, "publicId": about.public_id}
        return {"update": {"idV2": about.id, **shown, **more}}
    return {}
