"""Two API processes on one database: what one of them has read before is never taken for true."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.app import create_app
from tests.engine.conftest import RunningEngine
from tests.servers import serve


@pytest.fixture
async def other(running: RunningEngine) -> AsyncIterator[httpx.AsyncClient]:
    """A second API of the same engine."""
    async with (
        serve(create_app(running.engine.settings, running.client)) as url,
        httpx.AsyncClient(base_url=url, timeout=70) as http,
    ):
        yield http


def guarded(password: str, team: str) -> dict[str, Any]:
    return {"name": "guarded", "config": {"team": team, "password": password}}


async def change(http: httpx.AsyncClient, community: str, *plugins: dict[str, Any]) -> None:
    body = {"name": community, "readable_name": "A test", "plugins": list(plugins)}
    answer = await http.put(f"/api/internal/community/{community}", json=body)
    assert answer.status_code == 200, answer.text


async def knock(running: RunningEngine, community: str, password: str) -> int:
    answer = await running.http.post(
        f"/api/hooks/{community}/guarded",
        json={"team": community},
        headers={"X-Password": password},
    )
    return answer.status_code


async def test_secret_changed_at_another_api(
    running: RunningEngine, other: httpx.AsyncClient
) -> None:
    community = await running.community(guarded("old", "t"))
    assert await knock(running, community, "old") == 200
    await change(other, community, guarded("new", "t"))
    # The known secret verifies, but what it leads to is not stored.
    assert await knock(running, community, "old") == 401
    await change(other, community, guarded("newer", "t"))
    assert await knock(running, community, "newer") == 200
    journal = await running.http.get("/api/internal/webhooks", params={"community": community})
    assert len(journal.json()["webhooks"]) == 2


async def test_slug_changed_at_another_api(
    running: RunningEngine, other: httpx.AsyncClient
) -> None:
    def reader(slug: str) -> dict[str, Any]:
        return {"name": "reader", "config": {"api_key": "x", "webhook_slug": slug}}

    async def post(slug: str) -> int:
        path = f"/api/hooks/{community}/reader/{slug}"
        return (await running.http.post(path, json={"data": {}, "account": "a"})).status_code

    community = await running.community(reader("first"))
    assert await post("first") == 200
    await change(other, community, reader("second"))
    assert await post("first") == 404
    await change(other, community, reader("third"))
    assert await post("third") == 200


async def test_disabled_at_another_api(running: RunningEngine, other: httpx.AsyncClient) -> None:
    tutorial = {"name": "tutorial", "config": {"api_key": "x"}}
    community = await running.community({"name": "randomness", "config": {}}, tutorial)
    assert (await running.act(community, "randomness.random-int")).status_code == 200
    started = await running.start(community, "tutorial.show-of-hands")
    assert started.status_code == 202
    await change(other, community)
    answer = await running.act(community, "randomness.random-int")
    assert answer.status_code == 400
    assert "not enabled" in answer.json()["detail"]
    again = await running.start(community, "tutorial.show-of-hands")
    assert again.status_code == 400
    hook = await running.http.post(f"/api/hooks/{community}/tutorial", json={})
    assert hook.status_code == 404


async def test_enabled_anew_at_another_api(
    running: RunningEngine, other: httpx.AsyncClient
) -> None:
    plugin = {"name": "randomness", "config": {}}
    community = await running.community(plugin)
    assert (await running.act(community, "randomness.random-int")).status_code == 200
    await change(other, community)
    await change(other, community, plugin)
    keyed = await running.http.post(
        "/api/internal/action/randomness.random-int",
        headers={"X-Metagov-Community": community, "Idempotency-Key": uuid4().hex},
    )
    assert keyed.status_code == 200
    assert (await running.act(community, "randomness.random-int")).status_code == 200


async def test_a_start_that_no_worker_takes_up_is_reported_in_time(running: RunningEngine) -> None:
    """An API whose task queue has no worker: an update that is waited for in vain."""
    settings = running.engine.settings.model_copy(
        update={
            "task_queue": f"nobody-{uuid4().hex}",
            "worker_wait_seconds": 0.5,
            "invocation_timeout_seconds": 0.5,
        }
    )
    community = await running.community({"name": "tutorial", "config": {"api_key": "x"}})
    async with (
        serve(create_app(settings, running.client)) as url,
        httpx.AsyncClient(base_url=url, timeout=70) as http,
    ):
        answer = await http.post(
            "/api/internal/process/tutorial.show-of-hands",
            json={},
            headers={"X-Metagov-Community": community},
        )
    assert answer.status_code == 504
    assert answer.json()["type"] == "urn:metagov:problem:plugin_timeout"
