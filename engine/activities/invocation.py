"""The unit of work: load, run plugin code, store all that it did at once, hand out.

Every call of plugin code goes through here, whichever way it came. A method that raises leaves
nothing behind; one that returns has its state changes, events, and changes of its process stored in
one transaction with the mark that it is done.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio.exceptions import ApplicationError

from engine.activities.threads import run_in_loop, run_in_thread
from engine.errors import (
    BadWebhookError,
    EngineError,
    InvocationError,
    PluginCodeError,
    PluginPausedError,
    PluginTimeoutError,
    UnavailableError,
    plain_text,
)
from engine.resources import Engine, webhook_path
from engine.sdk.http import as_plugin_error
from engine.sdk.parameters import secret_properties
from engine.sdk.plugin import Community, InvocationContext, Plugin
from engine.sdk.process import GovernanceProcess as ProcessObject
from engine.sdk.registry import PluginDeclaration, Registry
from engine.sdk.state import State
from engine.store import communities, outbox
from engine.store.communities import EnabledInstance
from engine.store.database import is_outage, utc_now
from engine.store.processes import GovernanceProcess
from engine.store.secrets import redact, secret_values

log = structlog.get_logger()

_TELLINGS = UUID("0f6f1a3e-5a1c-4d0e-9a57-3b1f0c2d7e64")


@dataclass
class LoadedPlugin:
    """A plugin instance, ready for one call.

    Attributes:
        instance_id: The instance's id.
        declaration: What the plugin declares.
        plugin: The object that stands for the instance during the call.
        context: What the call is given, and what it did.
        hidden: The config's secrets, to be kept out of every text.
        paused_until: Until when its platform wants no calls, if it said so.
        processes: The objects that stand for governance processes in the call.
        isolated: Whether it is called in a process of its own, for it may take this one down.
        lost_as: What is counted if the call is lost with its worker.
    """

    instance_id: str
    declaration: PluginDeclaration
    plugin: Plugin
    context: InvocationContext
    hidden: tuple[str, ...]
    paused_until: datetime | None = None
    processes: list[ProcessObject] = field(default_factory=list)
    isolated: bool = False
    lost_as: str = ""

    @property
    def community(self) -> str:
        """The community's name."""
        return self.context.community.name


async def load_plugin(
    engine: Engine, session: AsyncSession, enabled: EnabledInstance, key: str
) -> LoadedPlugin:
    """Load a plugin instance with config and state.

    Args:
        engine: What all activities share.
        session: An open session.
        enabled: The instance, just read.
        key: The idempotency key of the call.

    Returns:
        The instance, ready for one call.

    Raises:
        PluginPausedError: Its calls took workers down; it is not called for a while.
        PluginCodeError: The plugin is not installed in this worker.
    """
    if enabled.stopped_until is not None and enabled.stopped_until > utc_now():
        raise PluginPausedError(
            f"The plugin '{enabled.plugin}' is paused for community '{enabled.community}' until "
            f"{enabled.stopped_until.isoformat()}: its calls took workers down",
            (enabled.stopped_until - utc_now()).total_seconds(),
        )
    loaded = build_plugin(
        engine,
        instance_id=enabled.id,
        plugin=enabled.plugin,
        community=Community(enabled.community, enabled.readable_name),
        config=engine.secrets.decrypt(enabled.config_encrypted),
        state=await communities.load_state(session, enabled.id) if enabled.has_state else {},
        key=key,
    )
    loaded.paused_until = enabled.paused_until
    loaded.isolated = enabled.alone_until is not None and enabled.alone_until > utc_now()
    loaded.lost_as = key.partition("#")[0]
    return loaded


def build_plugin(
    engine: Engine,
    *,
    instance_id: str,
    plugin: str,
    community: Community,
    config: dict[str, Any],
    state: dict[str, str],
    key: str,
) -> LoadedPlugin:
    """Make the object that stands for a plugin instance during one call.

    Args:
        engine: What all activities share.
        instance_id: The instance's id.
        plugin: The plugin's name.
        community: The community.
        config: The config, opened.
        state: Encoded state by key.
        key: The idempotency key of the call.

    Returns:
        The instance, ready for one call.

    Raises:
        PluginCodeError: The plugin is not installed in this worker.
    """
    declaration = Registry.plugins.get(plugin)
    if declaration is None:
        raise PluginCodeError(f"The plugin '{plugin}' is not installed in this worker")
    context = InvocationContext(
        community=community,
        config=config,
        state=State(state, modules_of(declaration)),
        idempotency_key=key,
        webhook_url=engine.settings.base_url
        + webhook_path(community.name, plugin, config.get("webhook_slug")),
        connections=engine.connections,
        timeout_seconds=engine.settings.invocation_timeout_seconds,
        response_max_bytes=engine.settings.response_max_bytes,
        event_max_bytes=engine.settings.event_max_bytes,
        log=log.bind(community=community.name, plugin=plugin, invocation=key),
    )
    return LoadedPlugin(
        instance_id=instance_id,
        declaration=declaration,
        plugin=declaration.cls(context),
        context=context,
        hidden=secret_values(config, secret_properties(declaration.config_schema)),
    )


def modules_of(declaration: PluginDeclaration) -> Callable[[str], bool]:
    """Which modules' classes a plugin's state may hold.

    Args:
        declaration: The plugin.

    Returns:
        A function that is true for the modules of the plugin's own package.
    """
    module = declaration.cls.__module__
    around = module.rpartition(".")[0]
    # A module of its own in a folder of plugins shares no package with its neighbours.
    package = around if _is_package(around) and not _is_package(module) else module

    def allowed(name: str) -> bool:
        return name == package or name.startswith(f"{package}.")

    return allowed


def _is_package(name: str) -> bool:
    return hasattr(sys.modules.get(name), "__path__")


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
    """Log an error that nobody foresaw, and tell it: a second try would know nothing of it.

    Args:
        loaded: The plugin instance.
        what: Name of the call for errors and logs.

    Raises:
        EngineError: Instead of any error that is neither one nor tells that the database is out.
    """
    try:
        yield
    except (EngineError, ApplicationError):
        raise
    except Exception as error:
        if is_outage(error):
            raise
        reason = _described(error, loaded.hidden)
        loaded.context.log.error("engine failed beside plugin code", call=what, reason=reason)
        raise EngineError(f"The engine failed in {what}; its log tells more") from None


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
    """Take a config's secrets out of an error's sentence.

    Args:
        error: The error.
        hidden: The secrets' values.

    Returns:
        The same error.
    """
    error.detail = redact(plain_text(getattr(error, "detail", error)), hidden)
    error.args = (error.detail,)
    return error


async def store_effects(engine: Engine, session: AsyncSession, loaded: LoadedPlugin) -> list[str]:
    """Store what a call did to its plugin instance: state changes and events.

    Args:
        engine: What all activities share.
        session: A session in the transaction that marks the call as done.
        loaded: The plugin instance after the call.

    Returns:
        Ids of the outbox items that are to be delivered.

    Raises:
        StateConflictError: Another call changed what this one relied on.
    """
    changes = loaded.context.state.changes()
    await communities.store_state(
        session, loaded.instance_id, changes.values, changes.increments, changes.expected
    )
    receiver = engine.settings.driver_event_receiver_url
    items = []
    for event in loaded.context.events:
        item = await outbox.append(
            session,
            community=loaded.community,
            kind=outbox.EVENT,
            body={
                "community": loaded.community,
                "source": loaded.declaration.name,
                "event_type": event.event_type,
                "timestamp": event.timestamp,
                "data": event.data,
                "initiator": event.initiator,
            },
            url=receiver,
        )
        items.append(item)
    return [item.id for item in items if item.url]


async def tell_of_process(session: AsyncSession, process: GovernanceProcess) -> list[str]:
    """Put a process' record into the outbox, for its callback URL.

    Args:
        session: A session in the transaction that changes the process.
        process: The process after the change.

    Returns:
        Ids of the outbox items that are to be delivered.
    """
    item = await outbox.append(
        session,
        community=process.community,
        kind=outbox.PROCESS,
        body=asdict(process.record()),
        url=process.callback_url,
        item_id=telling_id(process.id, process.updated_at),
    )
    return [item.id] if item.url else []


def telling_id(process_id: str, updated_at: datetime) -> str:
    """The id under which a change of a process is told, also by a database that was restored.

    Args:
        process_id: The process.
        updated_at: When it changed.

    Returns:
        The same id for the same change.
    """
    return f"msg_{uuid5(_TELLINGS, f'{process_id} {updated_at.isoformat()}')}"


async def hand_out(engine: Engine, community: str, items: Iterable[str]) -> None:
    """Have stored items delivered: now, or as soon as Temporal answers.

    Args:
        engine: What all activities share.
        community: The community's name.
        items: Ids of outbox items.
    """
    try:
        for item in items:
            await engine.temporal.background.deliver(community, item)
    except UnavailableError:
        # The call is marked as done, so no further try of it would come here.
        engine.schedules.reconcile_when_reachable()
