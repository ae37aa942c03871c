"""Plugin code in threads and loops of its own: what it does to itself it does to nobody else."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from engine.invocations.threads import run_in_loop, run_in_thread
from tests.servers import eventually

NAME = contextvars.ContextVar("NAME", default="")


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def given_up(call: Awaitable[Any], after: float = 0.2) -> float:
    """Give up a call; gives how long that took."""
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await call
    return time.monotonic() - started


async def test_what_blocks_its_loop_blocks_no_other() -> None:
    async def block() -> str:
        time.sleep(0.5)  # noqa: ASYNC251
        return "done"

    turns = 0
    call = asyncio.create_task(run_in_loop(block, "blocking"))
    while not call.done():
        await asyncio.sleep(0.02)
        turns += 1
    assert call.result() == "done"
    assert turns > 10


async def test_context_variables_go_along() -> None:
    NAME.set("mine")

    async def read() -> tuple[str, str]:
        return NAME.get(), await asyncio.create_task(read_later())

    async def read_later() -> str:
        return NAME.get()

    assert await run_in_loop(read, "reading") == ("mine", "mine")
    assert await run_in_thread(NAME.get, "reading") == "mine"


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), asyncio.CancelledError()])
async def test_an_error_is_raised_where_it_is_waited_for(error: BaseException) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    def fail_at_once() -> None:
        raise error

    for call in (run_in_loop(fail, "failing"), run_in_thread(fail_at_once, "failing")):
        caught = None
        try:
            await call
        except BaseException as raised:
            caught = raised
        assert caught is error
    await eventually(lambda: not threads("failing"))


@pytest.mark.parametrize("kind", [StopIteration, GeneratorExit])
async def test_what_no_future_may_hold_is_reported_with_its_place(
    kind: type[BaseException],
) -> None:
    """A GeneratorExit would close the coroutines that await the call, whatever they are at."""
    ended_well = False

    async def fail() -> None:
        raise kind("inside")

    def fail_at_once() -> None:
        raise kind("inside")

    async def waiting(call: Awaitable[Any]) -> None:
        nonlocal ended_well
        try:
            await call
        finally:
            await asyncio.sleep(0)
            ended_well = True

    for call in (run_in_loop(fail, "failing"), run_in_thread(fail_at_once, "failing")):
        ended_well = False
        with pytest.raises(RuntimeError) as caught:
            await waiting(call)
        assert ended_well
    # Of a coroutine's StopIteration Python makes a RuntimeError of its own, outside of it.
    assert any(entry.name == "fail_at_once" for entry in caught.traceback)


async def test_a_coroutine_that_stops_its_loop_fails() -> None:
    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)

    with pytest.raises(RuntimeError, match="stopped"):
        await run_in_loop(stop, "stopping")


async def test_a_coroutine_that_is_given_up_cleans_up_first() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            ended.append("clean")

    await given_up(run_in_loop(work, "clean"))
    assert ended == ["clean"]
    await eventually(lambda: not threads("clean"))


async def test_a_call_that_is_given_up_before_it_begins_does_nothing() -> None:
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)

    task = asyncio.create_task(run_in_loop(work, "early"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not begun


async def _heed_nothing() -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


async def _spin() -> None:
    while True:
        pass


async def _block() -> None:
    for _ in range(1200):
        time.sleep(0.05)  # noqa: ASYNC251


@pytest.mark.parametrize("work", [_heed_nothing, _spin, _block])
async def test_what_heeds_no_cancellation_is_left_behind(work: Callable[[], Any]) -> None:
    """It is interrupted, and ends where it runs any Python; nobody waits for it."""
    name = work.__name__
    took = await given_up(run_in_loop(work, name))
    assert 1 <= took < 5
    await eventually(lambda: not threads(name))


async def test_what_a_coroutine_leaves_behind_ends_with_it() -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")

    async def work() -> asyncio.Task[None]:
        task = asyncio.create_task(linger())
        await asyncio.sleep(0)
        return task

    task = await run_in_loop(work, "leaving")
    await eventually(lambda: not threads("leaving"))
    assert task.done()
    assert ended == ["cancelled"]
