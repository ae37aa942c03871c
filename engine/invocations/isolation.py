"""Calls in a process of their own: what takes that one down leaves the worker alone.

The worker sends the call by the process' standard input and reads what it did from its standard
output. Both ends run the same code of the engine and of the plugin, so both may unpickle.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakValueDictionary

from engine.connections import Connections
from engine.errors import EngineError, InvocationError, PluginCodeError, UnavailableError
from engine.invocations.loading import LoadedPlugin, modules_of
from engine.invocations.plugin_code import call
from engine.outbound import OutboundPolicy
from engine.sdk.plugin import Event, InvocationContext
from engine.sdk.process import GovernanceProcess
from engine.sdk.registry import PluginDeclaration, Registry
from engine.sdk.state import State
from engine.settings import Settings

# How long a process may take to start, beside the call itself, and to end after its own time-out.
START_SECONDS = 20.0
END_SECONDS = 5.0
# Each takes a second of a processor and 100 MB: others wait, for a while.
MOST_AT_ONCE = 3
MOST_OF_ONE_INSTANCE = 2
LONGEST_WAIT_SECONDS = 10.0
READY, GO = b"ready", b"go"
SIZE_BYTES = 8
# What the engine reads off a process after a call; anything else of it ends with the call.
READ_OFF = frozenset(
    (
        "status",
        "outcome",
        "errors",
        "url",
        "title",
        "correlation_key",
        "closing_at",
        "poll_every",
        "poll_again_in",
        "_children",
    )
)
DIES_WITH_PARENT = 1


_places = asyncio.Semaphore(MOST_AT_ONCE)
_instances: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()


class CallLostError(InvocationError):
    """The process that made a call ended without an answer."""

    kind = "call_lost"
    title = "The plugin took its process down"


@dataclass(frozen=True)
class _Start:
    """What the other process needs before it can read a call."""

    settings: Settings
    outbound: OutboundPolicy
    parent: int


@dataclass(frozen=True)
class _Call:
    """A call of a method of a plugin instance, or of one of its processes."""

    plugin: str
    instance_id: str
    hidden: tuple[str, ...]
    context: InvocationContext
    what: str
    method: Callable[[], Any]
    processes: Sequence[GovernanceProcess]


@dataclass(frozen=True)
class _Answer:
    """What a call gave and did."""

    result: Any
    error: EngineError | None
    events: list[Event]
    state: dict[str, Any]
    processes: list[tuple[dict[str, Any], dict[str, Any]]]


async def call_isolated(
    settings: Settings,
    outbound: OutboundPolicy,
    loaded: LoadedPlugin,
    what: str,
    method: Callable[[], Any],
) -> Any:
    """Call a method of plugin code in a process of its own; CallLostError if that process dies."""
    asked = _Call(
        plugin=loaded.declaration.name,
        instance_id=loaded.instance_id,
        hidden=loaded.hidden,
        context=loaded.context,
        what=what,
        method=method,
        processes=loaded.processes,
    )
    try:
        given = pickle.dumps(_Start(settings, outbound, os.getpid())) + _pickled(asked)
    except Exception as error:
        raise _not_sent(loaded, what, error) from None
    async with _place(loaded.instance_id):
        text = await _exchange(loaded, what, given)
    try:
        answer: _Answer = pickle.loads(text)  # noqa: S301
    except Exception as error:
        raise _not_sent(loaded, what, error) from None
    loaded.context.events.extend(answer.events)
    loaded.context.state.take_over(answer.state)
    for process, (attributes, state) in zip(loaded.processes, answer.processes, strict=True):
        process.__dict__.update(attributes)
        process.state.take_over(state)
    if answer.error is not None:
        raise answer.error
    return answer.result


@asynccontextmanager
async def _place(instance_id: str) -> AsyncIterator[None]:
    """Wait for one of the places; no instance takes all of them."""
    own = _instances.setdefault(instance_id, asyncio.Semaphore(MOST_OF_ONE_INSTANCE))
    async with AsyncExitStack() as held:
        try:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                await held.enter_async_context(own)
                await held.enter_async_context(_places)
        except TimeoutError:
            raise UnavailableError("Too many calls are made in processes of their own") from None
        yield


async def _exchange(loaded: LoadedPlugin, what: str, given: bytes) -> bytes:
    """Give a call to a new process; gives its answer."""
    plugin = loaded.declaration.name
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"from {__name__} import main; main()",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("METAGOV_")},
        # Processes that plugin code leaves behind go with it, and a Ctrl-C is the worker's.
        start_new_session=True,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        try:
            async with asyncio.timeout(START_SECONDS):
                child.stdin.write(given)
                await child.stdin.drain()
                await child.stdout.readexactly(len(READY))
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            # That is not the call's fault, and without leave it is not made.
            raise UnavailableError("A process for the call did not start in time") from None
        try:
            async with asyncio.timeout(loaded.context.timeout_seconds + END_SECONDS):
                child.stdin.write(GO)
                size = int.from_bytes(await child.stdout.readexactly(SIZE_BYTES))
                return await child.stdout.readexactly(size)
        except TimeoutError:
            # Its own time-out would have come first: it holds the interpreter.
            raise CallLostError(f"The plugin '{plugin}' holds its process in {what}") from None
        except (OSError, asyncio.IncompleteReadError):
            raise CallLostError(f"The plugin '{plugin}' took its process down in {what}") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            # One that left its group may hold the pipe, for which asyncio would wait.
            async with asyncio.timeout(1):
                await child.wait()


def _not_sent(loaded: LoadedPlugin, what: str, error: Exception) -> PluginCodeError:
    """The error for plugin objects that cannot be sent to another process, such as locks."""
    loaded.context.log.error("call cannot be isolated", call=what, reason=type(error).__name__)
    return PluginCodeError(
        f"{what} took its worker down before, and cannot be made in a process of its own"
    )


class _Pickler(pickle.Pickler):
    """Leaves out what belongs to a process: connections, loggers, clocks."""

    def __init__(self, file: io.BytesIO, plugin: str) -> None:
        super().__init__(file)
        self._plugin = plugin

    def reducer_override(self, value: Any) -> Any:
        """How a value is made again in the other process."""
        if isinstance(value, InvocationContext):
            kept = {
                field.name: getattr(value, field.name)
                for field in fields(value)
                if field.name not in ("connections", "log", "clock", "sync_http", "async_http")
            }
            # Those that it has sent already stay here.
            return _context, (kept | {"events": []},)
        if isinstance(value, State):
            return _state, (value.kept(), self._plugin)
        return NotImplemented


def _pickled(asked: _Call) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, asked.plugin).dump(asked)
    return buffer.getvalue()


_outbound: OutboundPolicy


def _context(kept: dict[str, Any]) -> InvocationContext:
    return InvocationContext(**kept, connections=Connections(_outbound))


def _state(kept: dict[str, Any], plugin: str) -> State:
    state = State({}, modules_of(_declared(plugin)))
    state.take_over(kept)
    return state


def _declared(plugin: str) -> PluginDeclaration:
    return Registry.plugins[plugin]


def main() -> None:
    """Make the call that standard input holds, and write what it did to standard output."""
    from engine.discovery import load_plugins
    from engine.logs import configure_logs

    global _outbound
    # What plugin code prints must not get into the answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    start: _Start = pickle.load(sys.stdin.buffer)  # noqa: S301
    _die_with(start.parent)
    configure_logs(start.settings)
    load_plugins(start.settings.plugin_path, start.settings.disabled_plugins)
    _outbound = start.outbound
    asked: _Call = pickle.load(sys.stdin.buffer)  # noqa: S301
    answers.write(READY)
    answers.flush()
    if sys.stdin.buffer.read(len(GO)) != GO:
        os._exit(1)
    answer = _answer(asked)
    answers.write(len(answer).to_bytes(SIZE_BYTES) + answer)
    answers.close()
    # Threads that plugin code left behind are not waited for.
    os._exit(0)


def _die_with(parent: int) -> None:
    """End with the worker: its next try must not find this one still running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _answer(asked: _Call) -> bytes:
    declaration = _declared(asked.plugin)
    plugin = LoadedPlugin(
        instance_id=asked.instance_id,
        declaration=declaration,
        plugin=declaration.cls(asked.context),
        context=asked.context,
        hidden=asked.hidden,
    )
    result, error = None, None
    try:
        result = asyncio.run(call(plugin, asked.what, asked.method))
    except EngineError as raised:
        error = _plain(raised)
    try:
        return pickle.dumps(
            _Answer(
                result=result,
                error=error,
                events=asked.context.events,
                state=asked.context.state.kept(),
                processes=[
                    (
                        {k: v for k, v in process.__dict__.items() if k in READ_OFF},
                        process.state.kept(),
                    )
                    for process in asked.processes
                ],
            )
        )
    except Exception as failure:
        reason = f"The {asked.what} left what cannot be kept: {type(failure).__name__}"
        unchanged = [(dict[str, Any](), dict[str, Any]()) for _ in asked.processes]
        return pickle.dumps(_Answer(None, PluginCodeError(reason), [], {}, unchanged))


def _plain(error: EngineError) -> EngineError:
    """The error, as one of the engine's own classes if a plugin's own cannot be sent."""
    error = error.with_traceback(None)
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))  # noqa: S301
        return error
    kind = next(cls for cls in type(error).__mro__ if cls.__module__ == InvocationError.__module__)
    plain: EngineError = kind(error.detail)
    plain.__dict__.update({k: v for k, v in error.__dict__.items() if k in plain.__dict__})
    return plain
