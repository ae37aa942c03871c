"""Calls a method of plugin code; its errors leave as ours, without secrets."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from temporalio.exceptions import ApplicationError

from engine.errors import (
    BadWebhookError,
    EngineError,
    InvocationError,
    PluginCodeError,
    PluginTimeoutError,
    plain_text,
)
from engine.invocations.loading import LoadedPlugin
from engine.invocations.threads import run_in_loop, run_in_thread
from engine.sdk.http import as_plugin_error
from engine.store.database import is_outage
from engine.store.secrets import redact


async def call(
    loaded: LoadedPlugin, what: str, method: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Call a method of plugin code in a thread of its own, ``async def`` in a loop of its own.

    Args:
        loaded: The plugin instance.
        what: Name of the call for errors and logs, such as ``action 'times-two'``.
        method: The bound method.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        What it returned.

    Raises:
        InvocationError: It failed; the error holds no secret, and of failures that are not the
            platform's, nothing of the inside.
    """
    seconds = loaded.context.timeout_seconds
    try:
        async with asyncio.timeout(seconds) as deadline:
            if inspect.iscoroutinefunction(method):
                return await run_in_loop(lambda: _awaited(loaded, method(*args, **kwargs)), what)
            return await run_in_thread(lambda: method(*args, **kwargs), name=what)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise _failed(loaded, what, "raised CancelledError") from None
    except (InvocationError, BadWebhookError) as error:
        raise redacted(error, loaded.hidden) from None
    except BaseException as error:
        if isinstance(error, TimeoutError) and deadline.expired():
            raise PluginTimeoutError(
                f"The plugin '{loaded.declaration.name}' did not end {what} within {seconds:g} s; "
                "whether it had an effect on the platform is not known"
            ) from None
        mapped = as_plugin_error(error) if isinstance(error, Exception) else None
        if mapped is not None:
            raise redacted(mapped, loaded.hidden) from None
        raise _failed(loaded, what, _described(error, loaded.hidden)) from None
    finally:
        loaded.context.close()


async def _awaited(loaded: LoadedPlugin, coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    finally:
        await loaded.context.close_async()


@contextmanager
def beside_plugin_code(loaded: LoadedPlugin, what: str) -> Iterator[None]:
    """Log an unforeseen error and raise EngineError for it, which is not retried."""
    try:
        yield
    except (EngineError, ApplicationError):
        raise
    except Exception as error:
        if is_outage(error):
            raise
        reason = _described(error, loaded.hidden)
        loaded.context.log.error("engine failed beside plugin code", call=what, reason=reason)
        raise EngineError(f"The engine failed in {what}; see its log") from None


def _failed(loaded: LoadedPlugin, what: str, reason: str) -> PluginCodeError:
    loaded.context.log.error("plugin code failed", call=what, reason=reason)
    return PluginCodeError(f"The plugin '{loaded.declaration.name}' failed in {what}")


def _described(error: BaseException, hidden: Iterable[str]) -> str:
    """The error and the lines of plugin code it passed, for the log."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    place = " < ".join(reversed(lines[-6:]))
    return redact(f"{type(error).__name__}: {plain_text(error)} at {place}", hidden)


def redacted(error: EngineError, hidden: Iterable[str]) -> EngineError:
    """Take a config's secrets out of an error's sentence."""
    error.detail = redact(plain_text(getattr(error, "detail", error)), hidden)
    error.args = (error.detail,)
    return error
