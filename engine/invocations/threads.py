"""Runs plugin code in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

# What a coroutine that is cut off has for its `finally`.
LAST_SECONDS = 1.0


class _AbandonedError(BaseException):
    """Raised inside a thread whose call has been given up, to end it."""


async def run_in_thread(function: Callable[[], Any], name: str) -> Any:
    """Run a function in a daemon thread of its own.

    A pool would do for calls that end. This one also serves those that never do: when the awaiting
    task is cancelled the thread is abandoned and interrupted, and delays neither other calls nor
    the process' exit.

    Args:
        function: What to run.
        name: The thread's name.

    Returns:
        What the function returned.

    Raises:
        BaseException: Whatever the function raised.
    """
    done = _new_future()
    thread = _start(name, lambda: _run_and_settle(done, function))
    try:
        return await done
    except asyncio.CancelledError:
        _abandon(thread)
        raise


async def run_in_loop(function: Callable[[], Coroutine[Any, Any, Any]], name: str) -> Any:
    """Run a coroutine function in an event loop and a daemon thread of its own."""
    loop = asyncio.new_event_loop()
    done = _new_future()

    async def work() -> None:
        try:
            result = await function()
        except BaseException as error:
            _settle(done, None, error)
        else:
            _settle(done, result, None)

    task = loop.create_task(work())
    thread = _start(name, lambda: _run_to_end(loop, task, done))
    try:
        await asyncio.wait({done})
    except asyncio.CancelledError:
        _in_loop(loop, task.cancel)
        # A coroutine that does not heed its cancellation is abandoned.
        try:
            await asyncio.wait({done}, timeout=LAST_SECONDS)
        finally:
            if done.cancel():
                _in_loop(loop, loop.stop)
                _abandon(thread)
            else:
                done.exception()
        raise
    return done.result()


def _new_future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _start(name: str, work: Callable[[], None]) -> threading.Thread:
    context = contextvars.copy_context()

    def run() -> None:
        with suppress(_AbandonedError):
            context.run(work)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def _run_and_settle(done: asyncio.Future[Any], function: Callable[[], Any]) -> None:
    """Run a function, and settle the future with its result or error."""
    try:
        result = function()
    except _AbandonedError:
        raise
    except BaseException as error:
        _settle(done, None, error)
    else:
        _settle(done, result, None)


def _run_to_end(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], done: asyncio.Future[Any]
) -> None:
    """Run a loop until its task has ended, then cancel what it left behind, and close the loop."""
    try:
        loop.run_until_complete(task)
        left = asyncio.all_tasks(loop)
        for other in left:
            other.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=LAST_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except BaseException as error:
        # What the task raises it settles itself: this is a loop that was stopped.
        _settle(done, None, error)
    finally:
        loop.close()


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if isinstance(error, StopIteration | GeneratorExit):
        # A future cannot hold the first, and the second would close the coroutines that await it.
        wrapped = RuntimeError(f"raised {type(error).__name__}: {error}")
        error = wrapped.with_traceback(error.__traceback__)

    def settle() -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    # A loop that is closed has nobody who waits.
    _in_loop(done.get_loop(), settle)


def _in_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], Any]) -> None:
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


def _abandon(thread: threading.Thread) -> None:
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_AbandonedError)
        )
