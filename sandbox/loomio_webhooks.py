"""Loomio's webhooks: their forms, and sending them without a signature and without a retry."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

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
        news: What it tells.
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


class Sender:
    """Posts in the background of an event loop; it may be asked to from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Send from now on, in the loop that runs."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Send no more; what is under way is cut off."""
        self._loop = None
        for task in self._sending:
            task.cancel()

    def send(self, url: str, body: dict[str, Any]) -> None:
        """Post a JSON body once; nobody looks at the answer.

        Args:
            url: Where to.
            body: The body.
        """
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin, url, body)

    def _begin(self, url: str, body: dict[str, Any]) -> None:
        task = asyncio.ensure_future(_post(url, body))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


async def _post(url: str, body: dict[str, Any]) -> None:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        # The platform only makes a note of a webhook that fails.
        with suppress(httpx.HTTPError, httpx.InvalidURL):
            await client.post(url, json=body)
