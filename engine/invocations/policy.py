"""One row for each kind of call: may it be repeated, does it wait for its turn, how many tries."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    PlatformDownError,
    PluginPausedError,
    PluginTimeoutError,
    RateLimitError,
    StateConflictError,
    UnavailableError,
    WorkerLostError,
)

Kinds = tuple[type[EngineError], ...]

# What a call that failed of these may have done on the platform is not known.
UNKNOWN: Kinds = (OutcomeUnknownError, PlatformDownError, PluginTimeoutError, StateConflictError)


@dataclass(frozen=True)
class Policy:
    """What holds for a kind of call; failures that did nothing are reasons to retry as well."""

    # It is made once only: what became of a try that was cut off is not known.
    once: bool = False
    # It waits for its turn in the platform's rate; reports of what has happened do not.
    paced: bool = True
    most_tries: int = 3
    # Failures after which it is retried too, for doing it twice leads to the same end.
    repeats: Kinds = ()
    # Failures that are waited out, however many tries that takes.
    waits_out: Kinds = ()
    # How many seconds that a platform asks for are waited for.
    longest_pause: float = 5.0
    # A longer pause is shortened; else the call is given up.
    shortens: bool = False
    # Seconds until the next try where the platform asks for none; 0: the usual pace.
    pause: float = 0.0

    def next_try(self, error: EngineError, tries: int) -> float | None:
        """Seconds until a failed call is retried, 0 for the usual pace; None: it is not."""
        if isinstance(error, WorkerLostError):
            return None
        asked = getattr(error, "retry_after_seconds", None) or self.pause
        patient = asked <= self.longest_pause
        pause = min(asked, self.longest_pause) if self.shortens else asked
        if isinstance(error, self.waits_out):
            return pause
        safe = error.nothing_done or isinstance(error, self.repeats)
        return pause if safe and tries < self.most_tries and (patient or self.shortens) else None


ACTION = Policy(once=True)
IDEMPOTENT_ACTION = Policy(repeats=(PlatformDownError, StateConflictError))
START = Policy(once=True)
# The next try looks for what this one made, and a platform that failed is given some time.
FINDABLE_START = replace(START, most_tries=4, repeats=(EngineError,), shortens=True, pause=5.0)
CLOSE = Policy(waits_out=(StateConflictError,))
# A close does not wait for longer than a pause, and looks anew whether it is due.
PROCESS_WEBHOOK = Policy(
    paced=False,
    most_tries=5,
    repeats=(EngineError,),
    waits_out=(PluginPausedError, RateLimitError, StateConflictError, UnavailableError),
    longest_pause=15.0,
    shortens=True,
)
# It most likely acts upon what its child has come to, so it waits for its turn; nobody calls again.
CHILD_COMPLETED = replace(PROCESS_WEBHOOK, paced=True, most_tries=8)
RECEIVER = Policy(
    paced=False,
    most_tries=8,
    repeats=(EngineError,),
    waits_out=(PluginPausedError, UnavailableError),
    longest_pause=86400.0,
    shortens=True,
)
# The next run of the schedule is the next try.
TASK = Policy(most_tries=1, waits_out=(StateConflictError,))
# The next poll is the next try; it has waited for its turn before.
POLL = Policy(paced=False, most_tries=1)
