"""Which failures of calls to Temporal are retried, and what the others are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import pytest
from temporalio.client import Client, RPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from engine.errors import PluginTimeoutError, UnavailableError
from engine.settings import Settings
from engine.temporal import rpc
from engine.temporal.rpc import Rpc, is_outage, slow_or_unavailable

Status = RPCStatusCode


def error(status: RPCStatusCode) -> RPCError:
    return RPCError("no", status, b"")


def an_rpc() -> Rpc:
    return Rpc(cast(Client, None), Settings(worker_wait_seconds=0.3))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "PAUSE_SECONDS", 0.01)


class _Call:
    """A call that fails some times, or for ever."""

    def __init__(self, failures: Sequence[BaseException] | BaseException) -> None:
        self.failures = failures
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        if isinstance(self.failures, BaseException):
            raise self.failures
        if self.made <= len(self.failures):
            raise self.failures[self.made - 1]
        return "answered"


@pytest.mark.parametrize(
    ("failure", "outage"),
    [
        (error(Status.UNAVAILABLE), True),
        (error(Status.DEADLINE_EXCEEDED), True),
        (RuntimeError("cannot connect"), True),
        (error(Status.NOT_FOUND), False),
        (error(Status.PERMISSION_DENIED), False),
        (error(Status.INVALID_ARGUMENT), False),
        (error(Status.RESOURCE_EXHAUSTED), False),
    ],
)
def test_what_is_an_outage(failure: Exception, outage: bool) -> None:
    assert is_outage(failure) is outage


async def test_a_call_is_retried_through_an_outage() -> None:
    call = _Call([error(Status.UNAVAILABLE), RuntimeError("away"), asyncio.CancelledError()])
    assert await an_rpc().reach(call) == "answered"
    assert call.made == 4


async def test_it_is_retried_no_longer_than_a_request_waits() -> None:
    call = _Call(error(Status.UNAVAILABLE))
    with pytest.raises(RPCError):
        await an_rpc().reach(call)
    assert call.made > 2


async def test_what_is_no_outage_is_raised_at_once() -> None:
    call = _Call(error(Status.PERMISSION_DENIED))
    with pytest.raises(RPCError):
        await an_rpc().reach(call)
    assert call.made == 1


async def test_a_caller_that_gives_up_is_no_outage() -> None:
    """The SDK raises an error of its own where the awaiting task is cancelled."""

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise RPCTimeoutOrCancelledError from None

    task = asyncio.create_task(an_rpc().reach(hang))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("failure", [error(Status.NOT_FOUND), RuntimeError("x"), TimeoutError()])
async def test_what_is_asked_once_is_answered_or_not_there(failure: Exception) -> None:
    call = _Call(failure)
    with pytest.raises(UnavailableError):
        await an_rpc().ask(call(), timedelta(seconds=1))
    assert call.made == 1


async def test_what_does_not_answer_in_time_is_not_there() -> None:
    with pytest.raises(UnavailableError):
        await an_rpc().ask(asyncio.sleep(60), timedelta(seconds=0.05))


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (TimeoutError(), PluginTimeoutError),
        (RPCTimeoutOrCancelledError(), PluginTimeoutError),
        (error(Status.DEADLINE_EXCEEDED), PluginTimeoutError),
        (error(Status.CANCELLED), PluginTimeoutError),
        (error(Status.UNAVAILABLE), UnavailableError),
        (RuntimeError("cannot connect"), UnavailableError),
    ],
)
def test_what_may_have_been_done_is_not_said_to_be_undone(
    failure: Exception, kind: type[Any]
) -> None:
    assert type(slow_or_unavailable(failure)) is kind
