"""A whole engine in one process: API over real HTTP, workers on a real Temporal server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from temporalio.client import Client

from api.app import create_app
from engine.activities.deliveries import DeliveryActivities
from engine.activities.restored import notice_restored
from engine.resources import Engine, open_engine
from engine.settings import Settings
from engine.store.database import open_database
from engine.store.schema import migrate
from tests.conftest import DURABLE_PLUGIN, PLUGINS_UNDER_TEST, new_database
from tests.servers import Driver, driver_server, serve
from worker import make_workers

# For tests that take their time and in which the database plays no part.
one_database = pytest.mark.parametrize("running", ["sqlite"], indirect=True)


@dataclass
class RunningEngine:
    """An engine, and the driver that it sends events to."""

    engine: Engine
    http: httpx.AsyncClient
    driver: Driver
    client: Client

    async def community(self, *plugins: dict[str, Any], name: str | None = None) -> str:
        """Make a community that has enabled some plugins."""
        name = name or f"c-{uuid4().hex[:12]}"
        body = {"name": name, "readable_name": "A test", "plugins": list(plugins)}
        answer = await self.http.put(f"/api/internal/community/{name}", json=body)
        assert answer.status_code in (200, 201), answer.text
        return name

    async def act(self, community: str, name: str, **parameters: Any) -> httpx.Response:
        """Perform an action."""
        return await self.http.post(
            f"/api/internal/action/{name}",
            json={"parameters": parameters},
            headers={"X-Metagov-Community": community},
        )

    async def start(self, community: str, name: str, **body: Any) -> httpx.Response:
        """Start a process."""
        return await self.http.post(
            f"/api/internal/process/{name}",
            json=body,
            headers={"X-Metagov-Community": community},
        )

    async def completed(self, location: str, seconds: float = 20) -> dict[str, Any]:
        """Wait for a process to complete."""
        answer = await self.http.get(location, params={"wait": seconds})
        record: dict[str, Any] = answer.json()
        assert record["status"] == "completed", record
        return record


@asynccontextmanager
async def run_engine(
    client: Client, database_url: str, data_dir: Path, **overrides: Any
) -> AsyncIterator[RunningEngine]:
    async with AsyncExitStack() as stack:
        driver = await stack.enter_async_context(driver_server())
        settings = Settings(
            data_dir=data_dir,
            database_url=database_url,
            temporal_address=client.service_client.config.target_host,
            temporal_namespace=client.namespace,
            driver_event_receiver_url=f"{driver.url}/events",
            plugin_path=(PLUGINS_UNDER_TEST, DURABLE_PLUGIN),
            log_level="warning",
            worker_grace_seconds=1,
            **{
                "task_queue": f"test-{uuid4().hex}",
                "invocation_timeout_seconds": 3,
                "delivery_first_retry_seconds": 0.2,
                "poll_interval_seconds": 1,
                **overrides,
            },
        )
        database = open_database(settings)
        await migrate(database)
        await database.close()
        app = create_app(settings, client)
        engine = await stack.enter_async_context(open_engine(settings, lazy=False, client=client))
        await notice_restored(engine, at_once=True)
        deliveries = DeliveryActivities(engine)
        stack.push_async_callback(deliveries.close)
        for worker in make_workers(engine, deliveries):
            await stack.enter_async_context(worker)
        url = await stack.enter_async_context(serve(app))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=70))
        yield RunningEngine(engine, http, driver, client)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
async def running(
    request: pytest.FixtureRequest,
    temporal: Client,
    plugins: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[RunningEngine]:
    """An engine on each of the two databases."""
    folder = tmp_path_factory.mktemp(request.param)
    url = new_database(request.param, folder, request)
    async with run_engine(temporal, url, folder) as running:
        yield running
