"""The faults of the suite, what each is thrown at, and how long it lasts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from faults import throws, troubles
from faults.ballots import Ballot, BallotClosedAgain
from faults.composition import Composed
from faults.endings import Cancelled, Pill, PolledPill, Terminated
from faults.processes import BlindVote, LoomioPoll, SlowVote, Tally, TallyTogether, Vote
from faults.scenarios import Scenario, nothing_more
from faults.units import (
    Action,
    ActionAgain,
    ActionInTime,
    ActionRepeated,
    ActionTwice,
    Unit,
    Webhook,
    WebhookFiftyTimes,
    WebhookInTime,
)
from faults.world import World

LATE_SECONDS = 3.0

Kind = Callable[[World], Unit]


class WebhookAtOne(Webhook):
    """A webhook to the API process that is killed."""

    api = 0


MIXED: list[Kind] = [Action, Webhook, LoomioPoll, Vote]
# Keyed ones know their ballot by a key, each of the others concerns all of its community.
BALLOTS: list[Kind] = [Ballot, partial(Ballot, keyed=False)]
TIMED: list[Kind] = [partial(Ballot, closing="time"), partial(Ballot, closing="time", keyed=False)]
ENDED: list[Kind] = [
    partial(Ballot, closing="webhook"),
    partial(Ballot, closing="webhook", keyed=False),
]
SLOW_BALLOTS: list[Kind] = [
    partial(Ballot, votes=10, slow=slow) for slow in ("vote", "receiver", "starting", "closing")
]
COMPOSED: list[Kind] = [Composed, partial(Composed, where="update")]
SLOW: list[Kind] = [ActionRepeated, SlowVote, BlindVote]
OVERLAPPING: list[Kind] = [
    partial(Ballot, votes=20, early=0.7),
    ActionRepeated,
    partial(Ballot, votes=20, early=0.7, keyed=False),
    SlowVote,
    partial(Ballot, votes=20, closing="time"),
    Webhook,
    partial(Ballot, votes=20, closing="webhook", early=0.7),
    BlindVote,
]

QUICK = [
    Scenario(
        "worker killed inside `start`", throws.kill_worker_inside_start, [LoomioPoll], down=(0, 5)
    ),
    Scenario(
        "worker killed inside `update`",
        throws.kill_worker_inside_update,
        [Vote],
        batch=4,
        down=(0, 5),
    ),
    Scenario(
        "workers killed after the commit, before the activity's completion",
        throws.kill_workers_after_their_commit,
        [Action],
        runs=16,
        calls=(1.5, 3),
        down=(0, 5),
        tags={"ci"},
    ),
    Scenario(
        "worker killed inside a delivery",
        throws.kill_worker_inside_delivery,
        [Action],
        again=True,
        down=(0, 5),
    ),
    Scenario(
        "API killed between storing a webhook and answering",
        throws.kill_api_before_its_answer,
        [WebhookAtOne],
        down=(0, 5),
        tags={"ci"},
    ),
    Scenario(
        "Temporal server killed, started on its file",
        throws.kill_temporal,
        MIXED,
        calls=(0, 3),
        down=(0, 15),
        tags={"ci"},
    ),
    Scenario(
        "everything killed at once",
        throws.kill_everything,
        MIXED,
        runs=16,
        again=True,
        calls=(0, 3),
        down=(0, 10),
    ),
    Scenario(
        "the same webhook fifty times at once",
        nothing_more,
        [WebhookFiftyTimes],
        batch=1,
        runs=8,
        tags={"ci"},
    ),
    Scenario(
        "one idempotency key at two API processes at once",
        nothing_more,
        [ActionTwice],
        runs=16,
        calls=(0, 2),
        tags={"ci"},
    ),
    Scenario(
        "30 votes, then DELETE",
        nothing_more,
        BALLOTS,
        runs=12,
        batch=4,
        unknown=False,
        calls=(0, 2),
        tags={"ci"},
    ),
    Scenario(
        "30 votes, then the closing time",
        nothing_more,
        TIMED,
        runs=8,
        batch=4,
        unknown=False,
        calls=(0, 2),
    ),
    Scenario(
        "30 votes, then a webhook that ends it",
        nothing_more,
        ENDED,
        runs=8,
        batch=4,
        unknown=False,
        calls=(0, 2),
    ),
    Scenario(
        "votes and a close, a worker killed meanwhile",
        throws.kill_worker,
        [*BALLOTS, *TIMED, *ENDED],
        runs=18,
        batch=6,
        again=True,
        calls=(0, 4),
        down=(0, 10),
    ),
    Scenario(
        "APIs killed before they answer a DELETE, which is sent again",
        throws.kill_apis_inside_close,
        [partial(BallotClosedAgain, votes=6, slow="closing")],
        runs=12,
        batch=6,
        calls=(0, 4),
        down=(0, 5),
    ),
    Scenario(
        "a DELETE sent twice with one key",
        nothing_more,
        [partial(BallotClosedAgain, votes=6)],
        runs=6,
        batch=6,
        unknown=False,
        tags={"ci"},
    ),
    Scenario(
        "an outcome changed in place by a poll",
        nothing_more,
        [Tally, TallyTogether],
        runs=8,
        unknown=False,
        tags={"ci"},
    ),
    Scenario(
        "processes that start others, a worker killed meanwhile",
        throws.kill_worker,
        COMPOSED,
        runs=16,
        again=True,
        calls=(0, 3),
        down=(0, 5),
        tags={"ci"},
    ),
    Scenario(
        "processes that start others, everything killed when some have been",
        throws.kill_everything_inside_calls,
        COMPOSED,
        runs=16,
        again=True,
        calls=(0, 3),
        down=(0, 10),
    ),
    Scenario(
        "half-sent POSTs to both APIs",
        troubles.half_sent,
        [WebhookInTime],
        runs=16,
        unknown=False,
        down=(5, 20),
        spread=4,
    ),
    Scenario(
        "webhooks, starts, closes, actions and kills overlap",
        throws.overlap,
        OVERLAPPING,
        runs=32,
        batch=16,
        again=True,
        calls=(0, 8),
        down=(0, 5),
        spread=8,
    ),
    Scenario(
        "database locked", troubles.lock_database, MIXED, runs=16, calls=(0, 10), down=(2, 20)
    ),
    Scenario("driver's endpoint down", troubles.driver_is_down, [Action, Vote], down=(0, 60)),
    Scenario(
        "driver's endpoint too slow",
        troubles.driver_answers("late", LATE_SECONDS),
        [Action, Vote],
        runs=8,
        down=(4, 4),
    ),
    Scenario(
        "driver's endpoint answers 500",
        troubles.driver_answers("500"),
        [Action, Vote],
        runs=8,
        down=(20, 20),
    ),
    Scenario(
        "driver's endpoint answers 410, is enabled again, and what failed is sent again",
        troubles.driver_answers("410"),
        [Action],
        runs=8,
        down=(2, 2),
    ),
    Scenario(
        "driver's endpoint cuts the connection after reading",
        troubles.driver_answers("cut"),
        [Action, Vote],
        runs=8,
        down=(2, 2),
    ),
]

PATIENT = [
    Scenario(
        "all workers killed inside calls that had their effect",
        throws.kill_workers_inside_calls,
        SLOW,
        runs=24,
        batch=12,
        calls=(0, 60),
        down=(0, 60),
    ),
    Scenario(
        "everything killed inside calls that had their effect",
        throws.kill_everything_inside_calls,
        SLOW,
        runs=24,
        batch=12,
        again=True,
        calls=(0, 60),
        down=(0, 120),
    ),
    Scenario(
        "workers stopped by SIGTERM, calls longer than their grace",
        throws.terminate_workers,
        [*SLOW, *SLOW_BALLOTS],
        runs=14,
        batch=14,
        again=True,
        calls=(0, 60),
        down=(0, 5),
    ),
    Scenario(
        "all workers stopped by SIGSTOP, then let go on",
        throws.stop_workers,
        [*SLOW, *SLOW_BALLOTS],
        runs=21,
        batch=7,
        again=True,
        calls=(0, 60),
        down=(0, 40),
    ),
    Scenario(
        "Temporal's file lost",
        throws.lose_temporal,
        [ActionRepeated, SlowVote, BlindVote, Webhook],
        runs=16,
        again=True,
        calls=(0, 20),
        down=(0, 30),
    ),
    Scenario(
        "more votes before a close than can be handled in time",
        nothing_more,
        [partial(Ballot, votes=8, slow="every vote")],
        runs=2,
        calls=(40, 40),
    ),
    Scenario(
        "a workflow cancelled or terminated by a Temporal client",
        nothing_more,
        [Cancelled, Terminated],
        runs=8,
        unknown=False,
    ),
    Scenario(
        "an `async def` of another community blocks its loop",
        troubles.block_workers,
        [ActionInTime, WebhookInTime],
        runs=8,
        unknown=False,
        calls=(0, 2),
        down=(40, 40),
        spread=20,
    ),
    Scenario(
        "code that ends its worker, in four processes, beside others",
        nothing_more,
        [Pill, ActionAgain, PolledPill, Vote, Pill, Webhook, PolledPill, Vote],
        runs=8,
        again=True,
        spread=5,
    ),
]

ELSEWHERE = [
    Scenario(
        "everything killed inside calls, down for ten minutes (PostgreSQL)",
        throws.kill_everything,
        [*MIXED, *SLOW, *SLOW_BALLOTS],
        runs=22,
        batch=22,
        again=True,
        calls=(0, 60),
        down=(600, 600),
        place="postgresql",
    ),
    Scenario(
        "database down (PostgreSQL)",
        troubles.stop_database,
        MIXED,
        runs=24,
        calls=(0, 10),
        down=(2, 20),
        place="postgresql",
    ),
    Scenario(
        "30 votes, then a close (PostgreSQL)",
        nothing_more,
        [*BALLOTS, *TIMED, *ENDED],
        runs=12,
        batch=6,
        unknown=False,
        calls=(0, 2),
        place="postgresql",
    ),
    Scenario(
        "votes and a close, a worker killed meanwhile (PostgreSQL)",
        throws.kill_worker,
        [*BALLOTS, *TIMED, *ENDED],
        runs=12,
        batch=6,
        again=True,
        calls=(0, 4),
        down=(0, 10),
        place="postgresql",
    ),
    Scenario(
        "all workers killed inside calls that had their effect (PostgreSQL)",
        throws.kill_workers_inside_calls,
        SLOW,
        runs=12,
        batch=12,
        calls=(0, 30),
        down=(30, 30),
        place="postgresql",
    ),
    Scenario(
        "disk full for the SQLite file",
        troubles.fill_disk,
        MIXED,
        runs=8,
        down=(10, 10),
        place="small disk",
    ),
]

# Those of one list run one after the other, beside those of the others.
LANES = [QUICK, PATIENT, ELSEWHERE]
