"""An engine without Temporal: a store on SQLite, and plugins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from engine.invocations.heartbeat import CUT_OFF, ENDED, with_heartbeat
from engine.resources import Engine, open_engine
from engine.settings import Settings
from engine.store.communities import Community, PluginInstance
from engine.store.database import utc_now
from engine.store.invocations import Invocation
from engine.store.processes import GovernanceProcess
from tests.conftest import DURABLE_PLUGIN, PLUGINS_UNDER_TEST

COMMUNITY = "people"


@pytest.fixture
async def engine(data_dir: Path, plugins: None) -> AsyncIterator[Engine]:
    """What activities share, on a fresh database; nobody listens where Temporal should be."""
    settings = Settings(
        data_dir=data_dir,
        temporal_address="127.0.0.1:1",
        worker_wait_seconds=0.2,
        invocation_timeout_seconds=3,
        plugin_path=(PLUGINS_UNDER_TEST, DURABLE_PLUGIN),
    )
    async with open_engine(settings, lazy=True) as engine:
        yield engine


@pytest.fixture
async def durable(engine: Engine, tmp_path: Path) -> PluginInstance:
    """An instance of the plugin whose effects are counted on a platform: a folder."""
    platform = tmp_path / "platform"
    config = engine.secrets.encrypt({"platform": str(platform)})
    instance = PluginInstance(
        community=COMMUNITY,
        plugin="durable",
        instance="durable",
        position=0,
        config_encrypted=config,
    )
    async with engine.database.write() as session:
        session.add(Community(name=COMMUNITY, readable_name="People"))
        await session.flush()
        session.add(instance)
    return instance


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """What the platform of the plugin remembers."""
    return tmp_path / "platform"


async def accepted(engine: Engine, instance: PluginInstance, slug: str, **parameters: Any) -> str:
    """An action, as a request leaves it."""
    row = Invocation(
        community=instance.community,
        instance_id=instance.id,
        plugin=instance.plugin,
        target=slug,
        parameters=parameters,
    )
    async with engine.database.write() as session:
        session.add(row)
    return row.id


async def created(
    engine: Engine, instance: PluginInstance, slug: str = "vote", **parameters: Any
) -> str:
    """A process, as a request leaves it."""
    row = GovernanceProcess(
        community=instance.community,
        plugin=instance.plugin,
        instance=instance.instance,
        slug=slug,
        instance_id=instance.id,
        parameters=parameters,
        callback_url=None,
    )
    async with engine.database.write() as session:
        session.add(row)
    return row.id


async def tried(
    work: Callable[[], Coroutine[Any, Any, Any]], attempt: int = 1, *, cut_off: bool = False
) -> Any:
    """Run an activity's work as one try; ``cut_off``: the one before did not come to its end."""
    environment = ActivityEnvironment()
    ended = [ENDED, attempt - 1, {CUT_OFF: cut_off}]
    environment.info = replace(
        environment.info,
        attempt=attempt,
        heartbeat_details=ended if attempt > 1 else [],
        started_time=utc_now(),
        start_to_close_timeout=timedelta(minutes=1),
    )

    async def activity() -> Any:
        return await with_heartbeat(work())

    return await environment.run(activity)
