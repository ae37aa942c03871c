"""The one protocol of what is asked from outside: accept once, hand over, answer or withdraw.

A request's row is stored before Temporal knows of it. A repeat with the same idempotency key
gets what the first request led to. One that Temporal does not take is withdrawn in the
transaction that finds that nobody has begun with it; only then is it answered with 503.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import true
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import BadRequestError, EngineError, OutcomeUnknownError, UnavailableError
from engine.requests.instances import Chosen, Instance, find_instance
from engine.resources import Engine
from engine.store.accepted import Idempotency, accept_once
from engine.store.database import is_outage
from engine.store.invocations import Invocation
from engine.store.processes import GovernanceProcess

LONGEST_KEY = 255

Row = TypeVar("Row", Invocation, GovernanceProcess)
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Once:
    """An idempotency key as a request brings it.

    Attributes:
        key: The key; None if the request has none.
        body: The request's body, which comes with the key each time.
    """

    key: str | None
    body: Mapping[str, Any]

    def within(
        self, engine: Engine, scope: str, instance: Instance | None = None
    ) -> Idempotency | None:
        """The key as it is stored.

        Args:
            engine: What is open.
            scope: What the key is for: operation and community.
            instance: The plugin instance that is asked, if one is.

        Returns:
            The key with the body's hash, or None.

        Raises:
            BadRequestError: The key is empty or too long.
        """
        if self.key is None:
            return None
        if not 0 < len(self.key) <= LONGEST_KEY:
            raise BadRequestError(f"Idempotency-Key must have 1 to {LONGEST_KEY} characters")
        asked: Any = self.body
        if instance is not None and instance.name != instance.plugin:
            # Another instance is asked for something else.
            asked = {"instance": instance.name, "body": asked}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return Idempotency(scope, self.key, digest, engine.settings.idempotency_hours)


async def accept(engine: Engine, row: SQLModel, row_id: str, once: Idempotency | None) -> str:
    """Store a request's row, unless a request with the same key was accepted before."""
    accepted = await accept_once(engine.database, row, row_id, true(), once)
    assert accepted is not None, "its condition always holds"
    return accepted


async def accept_of_instance(
    engine: Engine,
    chosen: Chosen,
    row_for: Callable[[Instance], Row],
    scope: str,
    once: Once,
) -> tuple[Row, Instance, str]:
    """Store what is asked of a plugin instance as it is now; gives the id of the stored row too."""
    while True:
        instance = await find_instance(engine, chosen)
        row = row_for(instance)
        key = once.within(engine, f"{scope} {instance.community}", instance)
        accepted = await accept_once(engine.database, row, row.id, instance.unchanged(), key)
        if accepted is not None:
            return row, instance, accepted
        # It was changed since it was read, so it is read again.


@asynccontextmanager
async def answering(asked: str) -> AsyncIterator[None]:
    """Answer an accepted request with OutcomeUnknownError if the database goes out."""
    try:
        yield
    except Exception as error:
        if not is_outage(error):
            raise
        raise OutcomeUnknownError(
            f"The {asked} was accepted, but the database does not answer; it may be done. "
            "The same request with the same Idempotency-Key returns its outcome"
        ) from None


async def hand_over(
    engine: Engine,
    asked: Awaitable[Reply],
    withdraw: Callable[[AsyncSession, EngineError], Awaitable[bool]],
    otherwise: str,
    failures: type[EngineError] = UnavailableError,
) -> Reply:
    """Hand an accepted request to Temporal; one that it does not take is withdrawn.

    Args:
        engine: What is open.
        asked: What is asked of Temporal.
        withdraw: Ends the request's row in a transaction; False if somebody has begun with it.
        otherwise: What is said of a request that was not withdrawn.
        failures: What may mean that Temporal has not taken it.

    Returns:
        What Temporal gave.

    Raises:
        UnavailableError: The request was withdrawn: nothing was done, and nothing will be.
        OutcomeUnknownError: It was not: somebody has begun with it.
    """
    try:
        return await asked
    except failures as error:
        failure = error
    if not await engine.database.persist(lambda session: withdraw(session, failure)):
        raise OutcomeUnknownError(
            f"{otherwise}; the same request with the same Idempotency-Key returns its outcome"
        ) from failure
    if isinstance(failure, UnavailableError):
        raise failure
    raise UnavailableError(f"{failure.detail}; it was taken back, and nothing was done")
