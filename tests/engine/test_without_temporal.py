"""An API whose Temporal server does not answer: what it promises with 503, and with 200."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from temporalio.client import Client

from api.app import create_app
from engine.settings import Settings
from engine.store.database import open_database
from engine.store.schema import migrate
from sandbox.ports import free_ports
from tests.conftest import PLUGINS_UNDER_TEST
from tests.engine.conftest import RunningEngine, run_engine
from tests.servers import eventually, serve


@pytest.fixture
async def running(temporal: Client, plugins: None, tmp_path: Path) -> AsyncIterator[RunningEngine]:
    """An engine that works; the other API has the same database."""
    async with run_engine(temporal, f"sqlite:///{tmp_path / 'x.sqlite'}", tmp_path) as running:
        yield running


@pytest.fixture
async def cut_off(running: RunningEngine, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An API process that cannot reach Temporal."""
    settings = Settings(
        data_dir=tmp_path,
        database_url=f"sqlite:///{tmp_path / 'x.sqlite'}",
        temporal_address=f"127.0.0.1:{free_ports(1)[0]}",
        plugin_path=(PLUGINS_UNDER_TEST,),
        log_level="error",
        worker_wait_seconds=0.5,
    )
    database = open_database(settings)
    await migrate(database)
    await database.close()
    async with (
        serve(create_app(settings)) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as http,
    ):
        yield http


async def test_a_503_was_withdrawn_and_its_key_is_free(
    running: RunningEngine, cut_off: httpx.AsyncClient
) -> None:
    """What was answered with 503 never happens, whatever Temporal learns of it later."""
    community = await running.community({"name": "troublesome", "config": {}})
    key, number = uuid4().hex, uuid4().hex
    headers = {"X-Metagov-Community": community, "Idempotency-Key": key}
    requests = [
        ("/api/internal/action/troublesome.counted", {"parameters": {"id": number}}),
        ("/api/internal/process/troublesome.fragile", {}),
    ]
    for path, body in requests:
        refused = await cut_off.post(path, json=body, headers=headers)
        assert refused.status_code == 503, refused.text
        assert refused.headers["retry-after"]
    listed = await cut_off.get("/api/internal/process", params={"community": community})
    assert [item["status"] for item in listed.json()["processes"]] == ["completed"]
    for path, body in requests:
        taken = await running.http.post(path, json=body, headers=headers)
        assert taken.status_code in (200, 202), taken.text
    again = await running.http.post(requests[0][0], json=requests[0][1], headers=headers)
    assert again.json() == {"tries": 1}


async def test_a_change_of_a_community_is_withdrawn(
    running: RunningEngine, cut_off: httpx.AsyncClient
) -> None:
    name = f"c-{uuid4().hex[:12]}"
    path, body, headers = (
        f"/api/internal/community/{name}",
        {"name": name},
        {"Idempotency-Key": "k"},
    )
    assert (await cut_off.put(path, json=body, headers=headers)).status_code == 503
    assert (await cut_off.get(path)).status_code == 404
    assert (await running.http.put(path, json=body, headers=headers)).status_code == 201


async def test_a_webhook_is_stored_and_answered_with_200(
    running: RunningEngine, cut_off: httpx.AsyncClient
) -> None:
    """It is handled as soon as an engine that reaches Temporal compares the two."""
    community = await running.community({"name": "tutorial", "config": {"api_key": "k"}})
    body = {"account": "alice", "data": {"n": 1}}
    answer = await cut_off.post(f"/api/hooks/{community}/tutorial", json=body)
    assert answer.status_code == 200
    await running.engine.schedules.start_reconciliation()
    delivered = await eventually(lambda: running.driver.to("events"))
    assert [event["data"] for event in delivered] == [{"n": 1}]


async def test_it_is_not_ready_and_says_why(cut_off: httpx.AsyncClient) -> None:
    answer = await cut_off.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "Not ready: the Temporal server does not answer"
