"""Signatures: the platforms' published vectors, and what must never verify."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine.plugins import BadWebhookError, Ed25519Signature, HmacSignature, WebhookRequest

NOW = datetime.fromtimestamp(1531420618, UTC)
SLACK = HmacSignature(
    header="X-Slack-Signature",
    secret="signing_secret",
    prefix="v0=",
    signed="v0:{timestamp}:{body}",
    timestamp_header="X-Slack-Request-Timestamp",
)


@pytest.fixture
def vectors(contracts: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((contracts / "signature-vectors.json").read_text())
    return found


@pytest.mark.parametrize("platform", ["discourse", "github"])
def test_hex_of_the_body(vectors: dict[str, Any], platform: str) -> None:
    vector = vectors[platform]
    scheme = HmacSignature(header=vector["header"], secret="webhook_secret", prefix="sha256=")
    request = WebhookRequest(vector["body"].encode(), {vector["header"].lower(): vector["value"]})
    assert scheme.verify(request, {"webhook_secret": vector["secret"]}, NOW)
    assert not scheme.verify(request, {"webhook_secret": vector["secret"] + "x"}, NOW)


def test_base64(vectors: dict[str, Any]) -> None:
    vector = vectors["x_post"]
    scheme = HmacSignature(header=vector["header"], secret="s", prefix="sha256=", encoding="base64")
    request = WebhookRequest(vector["body"].encode(), {vector["header"]: vector["value"]})
    assert scheme.verify(request, {"s": vector["consumer_secret"]}, NOW)


def test_timestamp_and_its_tolerance(vectors: dict[str, Any]) -> None:
    vector = vectors["slack"]
    config = {"signing_secret": vector["secret"]}
    headers = {
        vector["header"]: vector["value"],
        "X-Slack-Request-Timestamp": vector["timestamp"],
    }
    request = WebhookRequest(vector["body"].encode(), headers)
    assert SLACK.verify(request, config, NOW)
    for seconds in (-301, 301):
        later = datetime.fromtimestamp(NOW.timestamp() + seconds, UTC)
        assert not SLACK.verify(request, config, later)
    del headers["X-Slack-Request-Timestamp"]
    assert not SLACK.verify(WebhookRequest(request.body, headers), config, NOW)


def test_ed25519(vectors: dict[str, Any]) -> None:
    vector = vectors["discord"]
    scheme = Ed25519Signature(
        header="X-Signature-Ed25519",
        public_key="public_key",
        timestamp_header="X-Signature-Timestamp",
    )
    config = {"public_key": vector["public_key_hex"]}
    request = WebhookRequest(vector["body"].encode(), vector["headers"])
    assert scheme.verify(request, config, NOW)
    assert not scheme.verify(WebhookRequest(b"{}", vector["headers"]), config, NOW)
    for wrong in ({}, {"public_key": ""}, {"public_key": "zz"}, {"public_key": "00" * 31}):
        assert not scheme.verify(request, wrong, NOW)


@pytest.mark.parametrize("secret", ["", None, 7])
def test_no_secret_never_verifies(secret: Any) -> None:
    scheme = HmacSignature(header="S", secret="s")
    import hashlib
    import hmac

    forged = hmac.new(b"", b"body", hashlib.sha256).hexdigest()
    assert not scheme.verify(WebhookRequest(b"body", {"S": forged}), {"s": secret}, NOW)


@pytest.mark.parametrize("value", ["", "é", "sha256=", "x" * 100_000, "v0=ü\udcff"])
def test_garbage_is_refused_without_an_exception(value: str) -> None:
    scheme = HmacSignature(header="S", secret="s", prefix="v0=")
    request = WebhookRequest(b"body", {})
    request.headers = {"S": value}
    assert not scheme.verify(request, {"s": "secret"}, NOW)
    headers = {"X-Slack-Request-Timestamp": "soon", "X-Slack-Signature": "v0="}
    assert not SLACK.verify(WebhookRequest(b"", headers), {"signing_secret": "s"}, NOW)


def test_request_is_read_without_trust() -> None:
    request = WebhookRequest(
        b'{"a": {"b": [{"c": "x"}]}, "n": true}', {"Content-Type": "Application/JSON; charset=x"}
    )
    assert request.headers["content-TYPE"]
    assert request.content_type == "application/json"
    assert request.read("a.b.0.c", str) == "x"
    assert request.read("a.z", str, "default") == "default"
    for path, kind in (("a.z", str), ("a.b", dict), ("n", int), ("a.b.7", dict)):
        with pytest.raises(BadWebhookError, match=path.replace(".", r"\.")):
            request.read(path, kind)
    with pytest.raises(BadWebhookError):
        WebhookRequest(b"no", {}).json()
    assert WebhookRequest(b"a=1&a=2&b=", {}).form() == {"a": "2", "b": ""}
