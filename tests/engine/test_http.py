"""The HTTP door: every refusal is a clear problem, and the documents are there offline."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from typing import Any
from uuid import uuid4

import pytest

from tests.engine.conftest import RunningEngine
from tests.servers import eventually

TUTORIAL = {"name": "tutorial", "config": {"api_key": "x"}}
JSON = {"Content-Type": "application/json"}


def assert_problem(answer: Any, status: int) -> dict[str, Any]:
    """Every error has one shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail"} <= problem.keys()
    assert problem["status"] == status
    assert isinstance(problem["detail"], str)
    assert problem["detail"]
    return problem


async def test_action_contract(running: RunningEngine) -> None:
    community = await running.community(TUTORIAL)
    url = "/api/internal/action/tutorial.times-two"
    header = {"X-Metagov-Community": community}
    body = {"parameters": {"value": 5}}
    assert (await running.http.post(url, json=body, headers=header)).json() == {"result": 10}
    missing = assert_problem(await running.http.post(url, json=body), 400)
    assert missing["detail"] == "Missing required header 'X-Metagov-Community'"
    nobody = {"X-Metagov-Community": "nobody"}
    unknown = assert_problem(await running.http.post(url, json=body, headers=nobody), 400)
    assert unknown["detail"] == "Community 'nobody' not found"
    off = "/api/internal/action/randomness.random-int"
    disabled = assert_problem(await running.http.post(off, headers=header), 400)
    assert disabled["detail"] == f"Plugin 'randomness' not enabled for community '{community}'"
    for name in ("tutorial.nope", "nope.times-two", "tutorial"):
        answer = await running.http.post(f"/api/internal/action/{name}", headers=header)
        assert_problem(answer, 404)
    wrong = {"parameters": {"value": "five"}}
    invalid = assert_problem(await running.http.post(url, json=wrong, headers=header), 400)
    assert invalid["errors"][0]["path"] == "/parameters/value"
    extra = {"parameters": {"value": 5}, "params": {}}
    unknown_field = assert_problem(await running.http.post(url, json=extra, headers=header), 400)
    assert unknown_field["errors"][0]["path"] == "/params"


async def test_only_public_actions_are_public(running: RunningEngine) -> None:
    community = await running.community(TUTORIAL, {"name": "troublesome", "config": {}})
    header = {"X-Metagov-Community": community}
    body = {"parameters": {"how": "well"}}
    public = await running.http.post("/api/action/troublesome.misbehave", json=body, headers=header)
    assert public.status_code == 200
    private = await running.http.post("/api/action/tutorial.times-two", json={}, headers=header)
    assert_problem(private, 404)


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b"{", JSON, 400, "no JSON"),
        (b"[]", JSON, 400, "JSON object"),
        (b'{"a": NaN}', JSON, 400, "no JSON"),
        (b'"\xff"', JSON, 400, ""),
        (b'{"name": "\\ud800"}', JSON, 400, "surrogate"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", JSON, 400, "deeply"),
        (b"[" * 100_000, JSON, 400, ""),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        (b"{}", {"Content-Type": ""}, 415, "application/json"),
        (b'{"a": "' + b"x" * 1_100_000 + b'"}', JSON, 413, "1048576"),
    ],
)
async def test_bad_bodies(
    running: RunningEngine, content: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    for method, url in (
        ("PUT", "/api/internal/community/bodies"),
        ("POST", "/api/internal/action/tutorial.times-two"),
        ("POST", "/api/internal/process/tutorial.show-of-hands"),
    ):
        answer = await running.http.request(method, url, content=content, headers=headers)
        assert words in assert_problem(answer, status)["detail"]


async def test_body_over_the_limit_without_a_length(running: RunningEngine) -> None:
    async def endless() -> Any:
        for _ in range(40):
            yield b"x" * 65536

    answer = await running.http.put("/api/internal/community/c", content=endless(), headers=JSON)
    assert_problem(answer, 413)


async def test_unknown_addresses_and_methods(running: RunningEngine) -> None:
    assert_problem(await running.http.get("/nothing/here"), 404)
    assert_problem(await running.http.patch("/api/internal/plugins"), 405)


async def test_request_id(running: RunningEngine) -> None:
    given = await running.http.get("/healthz", headers={"X-Request-ID": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    made = await running.http.get("/nothing")
    assert len(made.headers["x-request-id"]) >= 16


async def test_health(running: RunningEngine) -> None:
    assert (await running.http.get("/healthz")).status_code == 200
    assert (await running.http.get("/readyz")).json()["status"] == "ready"


async def test_openapi_has_an_operation_for_each_action_and_process(
    running: RunningEngine,
) -> None:
    document = (await running.http.get("/openapi.json")).json()
    paths = document["paths"]
    times_two = paths["/api/internal/action/tutorial.times-two"]["post"]
    content = times_two["requestBody"]["content"]["application/json"]
    assert content["schema"]["properties"]["parameters"]["required"] == ["value"]
    assert content["example"] == {"parameters": {"value": 5}}
    start = paths["/api/internal/process/loomio.poll"]["post"]
    schema = start["requestBody"]["content"]["application/json"]["schema"]
    assert {"title", "closing_at", "callback_url"} <= schema["properties"].keys()
    assert {"get", "delete"} == paths["/api/internal/process/loomio.poll/{id}"].keys()
    assert "/api/action/troublesome.misbehave" in paths
    assert "/api/action/tutorial.times-two" not in paths
    for name, path in paths.items():
        for operation in path.values():
            assert operation.get("summary"), name
            assert operation.get("operationId"), name


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_pages_work_without_internet(running: RunningEngine, page: str) -> None:
    answer = await running.http.get(page)
    assert answer.status_code == 200
    linked = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assets = [link for link in linked if link.endswith((".js", ".css", ".png"))]
    assert assets
    for asset in assets:
        assert asset.startswith("/"), f"{asset} is not served by us"
        assert (await running.http.get(asset)).status_code == 200


async def test_signed_webhooks(running: RunningEngine) -> None:
    config = {"signing_secret": "sh-sh-sh"}
    community = await running.community({"name": "troublesome", "config": config})
    callback = f"{running.driver.url}/{community}"
    await running.start(community, "troublesome.fragile", callback_url=callback)
    hook = f"/api/hooks/{community}/troublesome"
    right = "sha256=" + hmac.new(b"sh-sh-sh", b"hello", hashlib.sha256).hexdigest()
    for wrong in ({}, {"X-Signature": "garbage"}, {"X-Signature": right[:-1] + "x"}):
        assert_problem(await running.http.post(hook, content=b"hello", headers=wrong), 401)
    tampered = await running.http.post(hook, content=b"hell0", headers={"X-Signature": right})
    assert_problem(tampered, 401)
    taken = await running.http.post(hook, content=b"hello", headers={"X-Signature": right})
    assert taken.status_code == 200
    delivered = await eventually(lambda: running.driver.to(community))
    assert [t["outcome"] for t in delivered] == [{"heard": ["hello"]}]


async def test_webhook_that_is_answered_at_once(running: RunningEngine) -> None:
    community = await running.community({"name": "troublesome", "config": {}})
    answer = await running.http.post(f"/api/hooks/{community}/troublesome", content=b"ping")
    assert answer.json() == {"pong": True}


async def test_webhook_over_the_limit(running: RunningEngine) -> None:
    community = await running.community({"name": "troublesome", "config": {}})
    hook = f"/api/hooks/{community}/troublesome"
    assert_problem(await running.http.post(hook, content=b"x" * 1_048_577), 413)


def test_problem_is_json() -> None:
    from api.problems import problem
    from engine.errors import RateLimitError, describe

    answer = problem(describe(RateLimitError("later", 1.2)))
    assert answer.headers["retry-after"] == "2"
    assert json.loads(bytes(answer.body))["type"] == "urn:metagov:problem:rate_limit"


async def test_webhooks_verified_by_a_method_of_the_plugins_own(running: RunningEngine) -> None:
    config = {"team": uuid4().hex, "password": "open sesame"}
    community = await running.community({"name": "guarded", "config": config})
    hook = f"/api/hooks/{community}/guarded"
    body = {"team": config["team"]}
    for wrong in ("", "close sesame", "raise", "truthy"):
        refused = await running.http.post(hook, json=body, headers={"X-Password": wrong})
        assert_problem(refused, 401)
    right = {"X-Password": "open sesame"}
    assert (await running.http.post(hook, json=body, headers=right)).status_code == 200
    await eventually(
        lambda: [e for e in running.driver.to("events") if e["community"] == community]
    )


async def test_one_url_for_a_whole_platform(running: RunningEngine) -> None:
    team = uuid4().hex
    plugin = {"name": "guarded", "config": {"team": team, "password": "p"}}
    both = [await running.community(plugin), await running.community(plugin)]
    other = {"name": "guarded", "config": {"team": "other", "password": "p"}}
    await running.community(other)
    headers = {"X-Password": "p"}
    taken = await running.http.post("/api/hooks/guarded", json={"team": team}, headers=headers)
    assert taken.status_code == 200
    heard = await eventually(
        lambda: (
            (found := [e for e in running.driver.to("events") if e["data"] == {"team": team}])
            and len(found) == 2
            and found
        )
    )
    assert sorted(event["community"] for event in heard) == sorted(both)
    for body in ({"team": uuid4().hex}, {}, {"team": 7}):
        unknown = await running.http.post("/api/hooks/guarded", json=body, headers=headers)
        assert_problem(unknown, 404)
    assert_problem(await running.http.post("/api/hooks/tutorial", json={}), 404)
