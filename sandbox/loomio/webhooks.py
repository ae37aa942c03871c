"""Loomio's webhooks: their forms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

EVENT_KINDS = [
    "new_discussion", "discussion_edited", "new_comment", "poll_created", "poll_edited",
    "poll_closing_soon", "poll_expired", "poll_closed_by_user", "poll_reopened",
    "outcome_created", "outcome_updated", "outcome_review_due", "stance_created",
    "stance_updated",
]  # fmt: skip
# Microsoft's and Webex' forms are not known well enough to be imitated.
WEBHOOK_KINDS = {"markdown", "slack", "discord"}
GROUP_NAME = "Example Org"
LONGEST_DISCORD_TEXT = 1900


@dataclass(frozen=True)
class News:
    """What happened: its kind, to what, where that is below the server's address, and by whom."""

    kind: str
    title: str
    place: str
    actor: str
    poll_type: str | None = None


def webhook_body(news: News, base_url: str, form: str, old: bool) -> dict[str, Any]:
    """Write a webhook.

    Args:
        news: What it is about.
        base_url: The platform's address, for links.
        form: The chatbot's ``webhook_kind``.
        old: Whether it has what webhooks had in 2021 beside the text.

    Returns:
        Its JSON body.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", news.title.lower()).strip("-")
    link = f"{base_url}/{news.place}/{slug}"
    said = f"{news.actor} {news.kind.replace('_', ' ')}"
    text = f"{said}: [{news.title}]({link})\n\n# {news.title}\n"
    body = {"text": text, "icon_url": f"{base_url}/theme/icon.png", "username": "Loomio"}
    if form == "slack":
        body = {"text": f"{said}: <{link}|{news.title}>"}
    if form == "discord":
        body["content"] = text[:LONGEST_DISCORD_TEXT]
    if not old:
        return body
    return body | {
        "kind": news.kind,
        "url": link,
        "group_name": GROUP_NAME,
        "actor_name": news.actor,
        "poll_type": news.poll_type,
        "title": news.title,
        "attachments": [],
    }
