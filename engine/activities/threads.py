"""Runs a plugin's plain ``def`` methods in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Callable
from typing import Any


class _AbandonedError(BaseException):
    """Raised inside a thread whose call has been given up, to end it."""


async def run_in_thread(function: Callable[[], Any], name: str) -> Any:
    """Run a function in a daemon thread of its own.

    A pool would do for calls that end. This one also serves those that never do: when the awaiting
    task is cancelled the thread is left behind, told to end, and holds up neither other calls nor
    the process' exit.

    Args:
        function: What to run.
        name: The thread's name.

    Returns:
        What the function returned.

    Raises:
        BaseException: Whatever the function raised.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def work() -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = context.run(function)
        except _AbandonedError:
            return
        except StopIteration as error:
            # A future cannot hold a StopIteration.
            failure = RuntimeError(f"raised StopIteration: {error}")
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:
            return  # The loop is closed: nobody waits any more.

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        return await done
    except asyncio.CancelledError:
        if thread.is_alive() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(_AbandonedError)
            )
        raise
