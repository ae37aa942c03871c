"""Votes of a week, in seconds: a real server that skips time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.client import Client
from temporalio.testing import TimeSkipper, TimeSkippingConfig

from sandbox.opencollective.api import create_app
from sandbox.opencollective.models import EMOJI, SLUG
from sandbox.opencollective.state import API_KEY, OpenCollectiveTwin
from tests.conftest import new_database
from tests.engine.conftest import RunningEngine, run_engine
from tests.server_processes import temporal_server
from tests.servers import eventually, serve

WEEK = 7 * 24 * 60


@pytest.fixture(scope="module")
async def skipping(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server whose time runs ahead as soon as nothing is left to do."""
    config = TimeSkippingConfig(enabled=True, max_session_skip_count=100_000)
    async with temporal_server(tmp_path_factory.mktemp("temporal")) as client:
        yield TimeSkipper(client, config=config).client


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
async def running(
    request: pytest.FixtureRequest,
    skipping: Client,
    plugins: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[RunningEngine]:
    folder = tmp_path_factory.mktemp("skipping")
    url = new_database(request.param, folder, request)
    async with run_engine(skipping, url, folder) as running:
        yield running


async def test_a_vote_of_seven_days(running: RunningEngine) -> None:
    community = await running.community({"name": "randomness", "config": {}})
    callback = f"{running.driver.url}/{community}"
    started = await running.start(
        community,
        "randomness.delayed-stochastic-vote",
        title="A week",
        options=["a", "b"],
        delay=WEEK,
        callback_url=callback,
    )
    record = await running.completed(started.headers["location"], seconds=30)
    assert record["outcome"]["winner"] in ("a", "b")
    assert await eventually(lambda: running.driver.to(community)) == [record]
    handle = running.client.get_workflow_handle(
        f"process/{community}/randomness.delayed-stochastic-vote/{record['id']}"
    )
    description = await handle.describe()
    assert description.close_time is not None
    assert description.start_time is not None
    took = description.close_time - description.start_time
    assert timedelta(days=7) <= took < timedelta(days=7, minutes=5)


async def test_polls_over_days_add_nothing_to_the_history(running: RunningEngine) -> None:
    community = await running.community({"name": "reader", "config": {"api_key": "x"}})
    started = await running.start(community, "reader.polled", after=5)
    record = await running.completed(started.headers["location"], seconds=60)
    assert record["outcome"] == {"seen": 5}


async def test_a_vote_goes_on_after_a_platform_that_failed_for_ten_minutes(
    running: RunningEngine,
) -> None:
    twin = OpenCollectiveTwin()
    async with serve(create_app(twin)) as url:
        config = {
            "access_token": API_KEY,
            "collective_slug": SLUG,
            "api_url": url,
            "register_webhook": False,
        }
        community = await running.community({"name": "opencollective", "config": config})
        started = await running.start(
            community, "opencollective.vote", title="Camp?", threshold_votes=1
        )
        assert started.status_code == 202, started.text
        twin.failures = [500] * 3
        (conversation,) = twin.conversations.values()
        twin.react("ada", conversation.body, EMOJI[0])
        record = await running.completed(started.headers["location"], seconds=60)
        assert record["outcome"]["closed_by"] == "decided"
        assert twin.failures == []
        workflow_id = f"process/{community}/opencollective.vote/{record['id']}"
        description = await running.client.get_workflow_handle(workflow_id).describe()
        assert description.close_time is not None
        assert description.start_time is not None
        took = description.close_time - description.start_time
        assert timedelta(minutes=10) <= took < timedelta(hours=2)
        await running.community(name=community)
