"""Calls of plugin code at the pace that its platform allows, whichever worker makes them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from engine.errors import RateLimitError
from engine.invocations.heartbeat import again_in, remember, remembered
from engine.invocations.isolation import CallLostError, call_isolated
from engine.invocations.loading import LoadedPlugin
from engine.invocations.lost_calls import count_loss
from engine.invocations.plugin_code import call
from engine.resources import Engine
from engine.store import pacing
from engine.store.database import utc_now

# A call waits so long for its turn; one whose turn is later is retried then.
LONGEST_WAIT = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(days=1)
# For platforms that do not say how long; short enough for a call to wait for its end.
DEFAULT_PAUSE = timedelta(seconds=4)
# Polls that waited for the end of a pause are spread over so much of it again.
SPREAD = 0.5
SLOT = "slot"
AGAIN_SECONDS = 0.2


async def call_in_turn(
    engine: Engine,
    loaded: LoadedPlugin,
    what: str,
    method: Callable[..., Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call a method of plugin code in its turn; RateLimitError if that is too far off."""
    now = utc_now()
    moment = loaded.paused_until
    if moment is None or moment <= now:
        moment = await _reserve(engine, loaded, now, LONGEST_WAIT)
    wait = moment - now
    if wait > LONGEST_WAIT:
        raise RateLimitError(
            f"The platform of '{loaded.declaration.name}' allows the next call in "
            f"{wait.total_seconds():.0f} s",
            retry_after_seconds=wait.total_seconds(),
        )
    await asyncio.sleep(max(0.0, wait.total_seconds()))
    return await call_at_once(engine, loaded, what, method, *args, **kwargs)


async def call_at_once(
    engine: Engine,
    loaded: LoadedPlugin,
    what: str,
    method: Callable[..., Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call a method of plugin code; a rate limit of the platform pauses the whole instance.

    Args:
        engine: What all activities share.
        loaded: The plugin instance.
        what: Name of the call for errors and logs.
        method: The bound method.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        What it returned.

    Raises:
        InvocationError: It failed.
        ApplicationError: It took its process down; it is to be tried again.
    """
    try:
        if not loaded.isolated:
            return await call(loaded, what, method, *args, **kwargs)
        bound = partial(method, *args, **kwargs)
        return await call_isolated(engine.settings, engine.outbound, loaded, what, bound)
    except CallLostError:
        await count_loss(engine, loaded)
        raise again_in(CallLostError.kind, AGAIN_SECONDS) from None
    except RateLimitError as error:
        asked = error.retry_after_seconds
        pause = DEFAULT_PAUSE if asked is None else timedelta(seconds=min(asked, 1e6))
        until = utc_now() + min(pause, LONGEST_PAUSE)
        await engine.database.persist(
            lambda session: pacing.pause(session, loaded.instance_id, until)
        )
        raise


async def wait_for_poll(engine: Engine, loaded: LoadedPlugin) -> timedelta:
    """How long a poll has to wait for its turn, without holding a worker's slot meanwhile.

    A turn that was taken is remembered for the activity's next try.

    Args:
        engine: What all activities share.
        loaded: The plugin instance.

    Returns:
        The time to wait; zero or less if it is the poll's turn.
    """
    now = utc_now()
    if loaded.paused_until is not None and loaded.paused_until > now:
        wait = loaded.paused_until - now
        return wait * random.uniform(1, 1 + SPREAD)  # noqa: S311
    taken = remembered(SLOT)
    if taken is not None:
        moment = datetime.fromisoformat(taken)
    else:
        moment = await _reserve(engine, loaded, now, None)
    # One that is used now is forgotten: the next poll takes another one.
    remember(SLOT, moment.isoformat() if moment > now else None)
    return moment - now


async def _reserve(
    engine: Engine, loaded: LoadedPlugin, now: datetime, longest: timedelta | None
) -> datetime:
    every = loaded.declaration.call_every_seconds
    if every is None:
        return now
    async with engine.database.write() as session:
        return await pacing.reserve(
            session,
            loaded.instance_id,
            every=timedelta(seconds=every),
            now=now,
            longest=longest,
        )
