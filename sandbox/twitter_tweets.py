"""The posts of the X twin, and why one may not be taken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sandbox.people import RefusedError

ACCOUNT = "governance_bot"


class PostRefusedError(RefusedError):
    """A post is not made, or not deleted.

    Attributes:
        status: The status of the answer.
    """

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status


@dataclass
class Tweet:
    """A post.

    Attributes:
        id: Its number.
        author: Who wrote it.
        text: Its text.
        created_at: When it was made.
        replies_to: Which one it answers.
        quotes: Which one it quotes.
    """

    id: int
    author: str
    text: str
    created_at: datetime
    replies_to: int | None = None
    quotes: int | None = None
