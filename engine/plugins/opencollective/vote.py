"""A vote on a conversation, by reactions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from html import escape, unescape
from string import Template
from typing import Any

from engine.plugins import (
    GovernanceProcess,
    NotFoundError,
    Parameters,
    PlatformRejectedError,
    ProcessStatus,
    Registry,
    closing,
    tally,
)
from engine.plugins.opencollective import queries, schemas
from engine.plugins.opencollective.plugin import OpenCollective

PAGE = 100
YES, NO = "👍", "👎"
RULE = f"<p>Vote by a reaction to this text: {YES} for yes, {NO} for no.</p>"
SELDOM = timedelta(minutes=5)
OFTEN = timedelta(seconds=30)
_TAG = re.compile(r"<[^>]*>")


@Registry.governance_process
class Vote(GovernanceProcess):
    """A vote by 👍 and 👎 reactions to the first text of a conversation.

    Open Collective sends no webhooks about reactions, so they are read every five minutes, and more
    often towards the closing time.
    """

    name = "vote"
    plugin_name = OpenCollective.name
    description = "A vote by reactions to a conversation; votes are reported as they are seen."
    input_schema = schemas.VOTE
    outcome_schema = schemas.OUTCOME
    poll_every = SELDOM

    def start(self, parameters: Parameters) -> None:
        """Start the conversation, or take up one that there is.

        Raises:
            PlatformRejectedError: The closing time is past.
        """
        if parameters.closing_at is not None:
            self.closing_at = closing.future_moment(parameters.closing_at, self.now())
        conversation_id = parameters.conversation_id
        if conversation_id is None:
            html = f"{parameters.html}{RULE}"
            tags = [*(parameters.tags or []), self._tag]
            conversation_id = self.plugin_inst.converse(parameters.title, html, tags)["id"]
        self._adopt(conversation_id)

    def find_started(self, parameters: Parameters) -> bool:
        """Find the conversation of a start that was cut off, by its tag."""
        if parameters.conversation_id is not None:
            return False
        found = self.plugin_inst.ask(
            queries.CONVERSATIONS_BY_TAG, slug=self.plugin_inst.slug, tag=self._tag
        )["account"]["conversations"]["nodes"]
        if not found:
            return False
        # It may have come meanwhile: then the vote ends at once.
        self.closing_at = parameters.closing_at
        self._adopt(found[0]["id"])
        return True

    def update(self) -> None:
        """Count the reactions; with the threshold reached the vote is over."""
        votes = self._count()
        if votes is None:
            return
        if tally.decided(votes, _voters(votes), self._rules):
            self._end(votes, "decided")

    def close(self) -> None:
        """Count the reactions for the last time, and post the outcome in a comment."""
        votes = self._count()
        if votes is None:
            return
        due = isinstance(self.closing_at, datetime) and self.closing_at <= self.now()
        self._end(votes, "deadline" if due else "driver")

    @property
    def _tag(self) -> str:
        """The same on every try of a start."""
        return f"metagov-{hashlib.sha256(self.idempotency_key.encode()).hexdigest()[:16]}"

    @property
    def _rules(self) -> tally.VotingRules:
        return tally.VotingRules(
            ("yes", "no"),
            quorum_votes=self.parameters.quorum_votes or 0,
            threshold_votes=self.parameters.threshold_votes,
        )

    def _adopt(self, conversation_id: str) -> None:
        self.state.set("conversation_id", conversation_id)
        conversation = self._read()
        if conversation is None:
            raise PlatformRejectedError(
                f"Open Collective knows no conversation {conversation_id!r:.80} with a text"
            )
        self.title = conversation["title"]
        self.url = self.plugin_inst.address_of(conversation)
        self.status = ProcessStatus.PENDING
        self.update()

    def _read(self) -> dict[str, Any] | None:
        """The conversation, or None if it is gone."""
        conversation_id = self.state.get("conversation_id")
        try:
            found = self.plugin_inst.ask(queries.CONVERSATION, id=conversation_id)["conversation"]
        except NotFoundError:
            return None
        return found if found and found.get("body") else None

    def _count(self) -> dict[str, tally.OptionVotes] | None:
        """Count, and set the outcome so far; None if the conversation is gone, which ends it."""
        conversation = self._read()
        if conversation is None:
            self.errors = {
                "code": "conversation_deleted",
                "message": "The conversation was deleted on Open Collective",
            }
            self.status = ProcessStatus.COMPLETED
            return None
        votes = votes_of(conversation["body"].get("reactions") or {})
        self.outcome = self._outcome(votes)
        self.poll_again_in = closing.pause(self.closing_at, self.now(), seldom=SELDOM, often=OFTEN)
        return votes

    def _end(self, votes: Mapping[str, tally.OptionVotes], closed_by: tally.ClosedBy) -> None:
        self.outcome = self._outcome(votes, closed_by)
        if self.parameters.closing_comment is not None:
            self._comment_once(self._rendered(self.parameters.closing_comment))
        self.status = ProcessStatus.COMPLETED

    def _outcome(
        self, votes: Mapping[str, tally.OptionVotes], closed_by: tally.ClosedBy | None = None
    ) -> dict[str, Any]:
        voters = _voters(votes)
        return tally.outcome(
            votes,
            voters=voters,
            quorum=tally.quorum_met(voters, self._rules),
            winner=tally.winners(votes) if closed_by else None,
            closed_by=closed_by,
        )

    def _rendered(self, template: str) -> str:
        outcome = self.outcome
        values = {
            "title": self.title,
            "url": self.url,
            "yes": outcome["votes"]["yes"]["count"],
            "no": outcome["votes"]["no"]["count"],
            "voters": outcome["voters"],
            "winner": " and ".join(outcome["winner"]) or "nobody",
            "closed_by": outcome["closed_by"],
        }
        return Template(template).substitute({k: escape(str(v)) for k, v in values.items()})

    def _comment_once(self, html: str) -> None:
        """Comment, unless a call that was cut off has done so."""
        offset, text = 0, _text(html)
        while True:
            page = self.plugin_inst.ask(
                queries.COMMENTS, id=self.state.get("conversation_id"), limit=PAGE, offset=offset
            )["conversation"]["comments"]
            if any(_text(comment.get("html") or "") == text for comment in page["nodes"]):
                return
            offset += len(page["nodes"])
            if not page["nodes"] or offset >= page["totalCount"]:
                break
        self.plugin_inst.comment(html, conversation={"id": self.state.get("conversation_id")})


def votes_of(reactions: Mapping[str, int]) -> dict[str, tally.OptionVotes]:
    """Count votes for ``yes`` and ``no`` by reaction; other emoji are no votes."""
    counts = {YES: 0, NO: 0}
    for emoji, count in reactions.items():
        bare = tally.bare_emoji(emoji)
        if bare in counts:
            counts[bare] += count
    return {"yes": tally.OptionVotes(counts[YES]), "no": tally.OptionVotes(counts[NO])}


def _voters(votes: Mapping[str, tally.OptionVotes]) -> int:
    return sum(option.count for option in votes.values())


def _text(html: str) -> str:
    """What is read of HTML, however the platform has cleaned it."""
    return " ".join(unescape(_TAG.sub(" ", html)).split())
