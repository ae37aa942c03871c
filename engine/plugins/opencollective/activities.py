"""Which of Open Collective's activities become events, and what each event holds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from engine.plugins import closing

EXPENSES = (
    "CREATED",
    "UPDATED",
    "DELETED",
    "APPROVED",
    "UNAPPROVED",
    "REJECTED",
    "RE_APPROVAL_REQUESTED",
    "PROCESSING",
    "SCHEDULED_FOR_PAYMENT",
    "UNSCHEDULED_FOR_PAYMENT",
    "PAID",
    "MARKED_AS_UNPAID",
    "MARKED_AS_SPAM",
    "MARKED_AS_INCOMPLETE",
    "PUT_ON_HOLD",
    "RELEASED_FROM_HOLD",
    "ERROR",
    "INVITE_DRAFTED",
    "INVITE_DECLINED",
    "MOVED",
)
# The platform's name of an activity -> the driver's name of the event.
EVENTS = {f"COLLECTIVE_EXPENSE_{name}": f"expense_{name.lower()}" for name in EXPENSES} | {
    "COLLECTIVE_UPDATE_CREATED": "update_created",
    "COLLECTIVE_UPDATE_PUBLISHED": "update_published",
    "COLLECTIVE_MEMBER_CREATED": "member_joined",
    "COLLECTIVE_CORE_MEMBER_ADDED": "core_member_added",
    "COLLECTIVE_CORE_MEMBER_REMOVED": "core_member_removed",
    "COLLECTIVE_CONVERSATION_CREATED": "conversation_created",
    "CONVERSATION_COMMENT_CREATED": "conversation_comment_created",
    "EXPENSE_COMMENT_CREATED": "expense_comment_created",
    "UPDATE_COMMENT_CREATED": "update_comment_created",
}
ABOUT = ("expense", "update", "conversation")


def _schema(event: str) -> dict[str, Any]:
    """What an event of a kind holds; comments name what they are about, where it is shown."""
    about = [name for name in ABOUT if event.startswith(f"{name}_")]
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "Of the activity."},
            "created_at": {"type": "string"},
            "from_account": {"type": "object"},
            **{name: {"type": "object"} for name in about},
        },
        "required": ["id", "created_at"],
    }


EVENT_SCHEMAS = [{"type": event, "schema": _schema(event)} for event in EVENTS.values()]
# Activities are stored side by side: one may turn up behind another that is younger.
OVERLAP = timedelta(minutes=10)


def cursor_after(before: Mapping[str, Any], activities: list[dict[str, Any]]) -> dict[str, Any]:
    """The cursor after activities: the newest one's time, and the ids within ``OVERLAP`` of it."""
    seen = dict(before.get("ids", {})) | {item["id"]: item["createdAt"] for item in activities}
    if not seen:
        return {"at": before.get("at"), "ids": {}}
    newest = max(seen.values(), key=closing.moment)
    kept = {
        key: at
        for key, at in seen.items()
        if closing.moment(at) >= closing.moment(newest) - OVERLAP
    }
    return {"at": newest, "ids": kept}


def event_data(activity: Mapping[str, Any]) -> dict[str, Any]:
    """The data of an activity's event: its id, time and account, and what it is about."""
    data: dict[str, Any] = {"id": activity["id"], "created_at": activity["createdAt"]}
    if activity.get("fromAccount"):
        data["from_account"] = activity["fromAccount"]
    for name in ABOUT:
        if activity.get(name):
            data[name] = activity[name]
    return data


def initiator(activity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Who did it: the individual, or else the account that it is from."""
    who = activity.get("individual") or activity.get("fromAccount") or {}
    slug = who.get("slug")
    return {"user_id": slug, "provider": "opencollective"} if slug else None
