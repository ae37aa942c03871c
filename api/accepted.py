"""What is told of a request that was accepted, and whose answer cannot be read."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from engine.errors import OutcomeUnknownError
from engine.store.database import is_outage

Result = TypeVar("Result")


async def answer_of(work: Awaitable[Result], asked: str) -> Result:
    """Work on a request that was accepted: if the database goes out, its outcome is not known.

    Args:
        work: What leads to the request's answer.
        asked: What was accepted, such as ``action``.

    Returns:
        What the work gave.

    Raises:
        OutcomeUnknownError: The database does not answer.
    """
    try:
        return await work
    except Exception as error:
        if not is_outage(error):
            raise
        raise OutcomeUnknownError(
            f"The {asked} was accepted, but the database does not answer; it may be done. "
            "The same request with the same Idempotency-Key tells what came of it"
        ) from None
