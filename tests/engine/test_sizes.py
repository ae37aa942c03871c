"""What a platform answers, an action returns and an event holds has a largest size."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from temporalio.client import Client

from tests.engine.conftest import RunningEngine, run_engine
from tests.servers import serve

TROUBLE = {"name": "troublesome", "config": {}}
SIZES = {"response_max_bytes": 3000, "result_max_bytes": 2000, "event_max_bytes": 1500}


@pytest.fixture(scope="module")
async def small(
    temporal: Client, plugins: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningEngine]:
    folder = tmp_path_factory.mktemp("small")
    url = f"sqlite:///{folder / 'small.sqlite'}"
    async with run_engine(temporal, url, folder, **SIZES) as running:
        yield running


async def _in_pieces(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(request.path_params["pieces"]):
            yield b"x" * 1000

    return StreamingResponse(body())


@pytest.fixture
async def platform() -> AsyncIterator[str]:
    async with serve(Starlette(routes=[Route("/{pieces:int}", _in_pieces)])) as url:
        yield url


@pytest.mark.parametrize("action", ["read", "read-async"])
async def test_responses(small: RunningEngine, platform: str, action: str) -> None:
    community = await small.community(TROUBLE)
    refused = await small.act(community, f"troublesome.{action}", url=f"{platform}/4")
    assert refused.status_code == 502
    assert refused.json()["type"] == "urn:metagov:problem:platform_down"
    assert "GET 127.0.0.1/4 answered 200 with more than 3000 bytes" in refused.json()["detail"]
    assert (await small.act(community, "troublesome.fetch", key="how")).json() == {"value": None}
    taken = await small.act(community, f"troublesome.{action}", url=f"{platform}/3")
    assert taken.json() == {"bytes": 3000}


@pytest.mark.parametrize(
    ("action", "fits", "words"),
    [
        ("return-text", 1988, "returned 2001 bytes of JSON; allowed are 2000"),
        ("tell-text", 1477, "the event 'told' is 1501 bytes of JSON; allowed are 1500"),
    ],
)
async def test_results_and_events(small: RunningEngine, action: str, fits: int, words: str) -> None:
    community = await small.community(TROUBLE)
    refused = await small.act(community, f"troublesome.{action}", length=fits + 1)
    assert refused.status_code == 500
    assert refused.json()["type"] == "urn:metagov:problem:plugin_code"
    assert words in refused.json()["detail"]
    assert (await small.act(community, "troublesome.fetch", key="how")).json() == {"value": None}
    page = await small.http.get("/api/internal/events", params={"community": community})
    assert page.json()["events"] == []
    taken = await small.act(community, f"troublesome.{action}", length=fits)
    assert taken.status_code == 200, taken.text
