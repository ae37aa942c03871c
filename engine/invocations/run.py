"""The unit of work: one call of plugin code, from its mark to what it left.

Every call goes through ``run``, whichever way it came: load it with its mark, note that it may run,
call it, store all that it did with the mark in one transaction, have Temporal deliver the rest. A
repeat finds the mark. A method that raises leaves nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from engine.errors import EngineError, OutcomeUnknownError, WorkerLostError
from engine.invocations.effects import FollowUp, hand_over
from engine.invocations.heartbeat import (
    again_in,
    before_plugin_code,
    last_unforeseen_try,
    was_cut_off,
)
from engine.invocations.loading import LoadedPlugin
from engine.invocations.lost_calls import clear
from engine.invocations.pacing import call_at_once, call_in_turn
from engine.invocations.plugin_code import beside_plugin_code
from engine.invocations.policy import Policy
from engine.resources import Engine
from engine.store.database import is_outage

log = structlog.get_logger()

Result = TypeVar("Result")

CUT_OFF = "A first try was cut off; whether it had an effect is not known"


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A call that was made, by this try or another, or is not needed."""

    result: Result
    community: str = ""
    # What is handed to Temporal, again if need be.
    follow_up: FollowUp = field(default_factory=FollowUp)


class Call(ABC, Generic[Result]):
    """One call of plugin code; what is particular to its kind.

    Args:
        engine: What all activities share.
        call_id: Its mark, and the idempotency key that the plugin sees.
        policy: What holds for its kind.

    Attributes:
        plugin: The plugin instance, once it is loaded.
        lost_as: What is counted if it is lost with its worker.
        begun_before: Whether another try may have called plugin code, where that is noted.
        begun_now: Whether this try has noted that it may.
    """

    def __init__(self, engine: Engine, call_id: str, policy: Policy) -> None:
        self.engine = engine
        self.id = call_id
        self.policy = policy
        self.plugin: LoadedPlugin | None = None
        self.lost_as = call_id
        self.begun_before = False
        self.begun_now = False

    @property
    @abstractmethod
    def what(self) -> str:
        """Its name for errors and logs, such as ``action 'times-two'``."""

    @abstractmethod
    async def load(self) -> Done[Result] | None:
        """Read it with its mark and load its plugin instance; gives what is known if it is done."""

    async def begin(self) -> Done[Result] | None:
        """Note that plugin code may run from now on, where it matters whether it has before."""
        return None

    @abstractmethod
    async def make(self) -> Any:
        """Call plugin code; gives what it led to, checked."""

    @abstractmethod
    async def store(self, session: AsyncSession, made: Any) -> Done[Result]:
        """Store what it did with its mark, unless another try was faster."""

    @abstractmethod
    async def fail(self, error: EngineError) -> Result:
        """Record that it failed for good."""

    def next_try(self, error: EngineError) -> float | None:
        """In how many seconds it is tried again, 0 for the usual pace; None: not at all."""
        return self.policy.next_try(error, activity.info().attempt)

    async def set_back(self) -> None:
        """Note that what was begun proved to have done nothing."""

    async def follow_up(self, done: Done[Result]) -> None:
        """Have Temporal do what is left to do."""
        await hand_over(self.engine, done.community, done.follow_up)

    async def call(self, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a method of plugin code, in its turn if its kind waits for one."""
        assert self.plugin is not None
        call = call_in_turn if self.policy.paced else call_at_once
        return await call(self.engine, self.plugin, self.what, method, *args, **kwargs)


async def run(engine: Engine, call: Call[Result]) -> Result:
    """Make a call, once, whatever was cut off before.

    Args:
        engine: What all activities share.
        call: The call.

    Returns:
        What the activity gives.

    Raises:
        ApplicationError: It is to be tried again, or has failed.
    """

    async def end() -> Result:
        log.exception("call failed", call=call.id)
        kind = OutcomeUnknownError if call.policy.once else EngineError
        return await call.fail(kind("The engine failed; see its log"))

    return await or_end(try_once(engine, call), end)


async def or_end(work: Awaitable[Result], end: Callable[[], Awaitable[Result]]) -> Result:
    """Do work; an unforeseen error is retried some times, then the call fails with it.

    Args:
        work: The work.
        end: Records that it failed.

    Returns:
        What either of them gave.
    """
    try:
        return await work
    except ApplicationError:
        raise
    except Exception as error:
        if is_outage(error) or not last_unforeseen_try():
            raise
        return await end()


async def try_once(engine: Engine, call: Call[Result]) -> Result:
    """Make one try of a call.

    Args:
        engine: What all activities share.
        call: The call.

    Returns:
        What the call gives.

    Raises:
        ApplicationError: It is to be tried again, or has failed.
    """
    try:
        with before_plugin_code():
            done = await call.load() or await call.begin()
        if done is None:
            assert call.plugin is not None
            with beside_plugin_code(call.plugin, call.what):
                made = await call.make()
            done = await engine.database.persist(lambda session: call.store(session, made))
            await clear(engine, call.lost_as)
    except EngineError as error:
        delay = call.next_try(error)
        if delay is None:
            return await call.fail(_as_known(call, error))
        if error.nothing_done and call.begun_now:
            await call.set_back()
        raise again_in(error.kind, delay or None) from None
    await call.follow_up(done)
    return done.result


def _as_known(call: Call[Any], error: EngineError) -> EngineError:
    """The failure as it is reported: what a try that was cut off did is not known."""
    if not call.begun_before or isinstance(error, OutcomeUnknownError | WorkerLostError):
        return error
    # Another try came to its end, and what it said of itself is what this one says too.
    if activity.info().attempt > 1 and not was_cut_off() and not error.nothing_done:
        return error
    log.warning("call not made again", call=call.id, kind=error.kind)
    return OutcomeUnknownError(CUT_OFF)
