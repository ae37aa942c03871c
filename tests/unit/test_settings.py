"""What settings may be, alone and together."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.resources import check_settings
from engine.settings import Settings, SettingsError, load_settings, unknown_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "99999"),
        ("PORT", "x"),
        ("LOG_FORMAT", "xml"),
        ("DELIVERY_TIMEOUT_SECONDS", "-1"),
        ("RESPONSE_MAX_BYTES", "0"),
        ("RESULT_MAX_BYTES", "1 MB"),
        ("EVENT_MAX_BYTES", "-1"),
    ],
)
def test_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"METAGOV_{name}", value)
    with pytest.raises(SettingsError, match=f"METAGOV_{name}: "):
        load_settings()


def test_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAGOV_PLUGIN_PATH", "/a:/b")
    monkeypatch.setenv("METAGOV_OUTBOUND_ALLOWED_NETWORKS", "10.0.0.0/8, 192.168.0.0/16")
    settings = load_settings()
    assert settings.plugin_path == (Path("/a"), Path("/b"))
    assert settings.outbound_allowed_networks == ("10.0.0.0/8", "192.168.0.0/16")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"PORT": "7233"},
            ["METAGOV_PORT and METAGOV_TEMPORAL_PORT are both 7233"],
        ),
        (
            {"TEMPORAL_UI_PORT": "8000"},
            ["METAGOV_PORT and METAGOV_TEMPORAL_UI_PORT are both 8000"],
        ),
        ({"TEMPORAL_TLS": "true"}, ["METAGOV_TEMPORAL_TLS", "METAGOV_TEMPORAL_ADDRESS"]),
        ({"TEMPORAL_API_KEY": "hush"}, ["METAGOV_TEMPORAL_API_KEY", "METAGOV_TEMPORAL_ADDRESS"]),
        (
            {"DELIVERY_FIRST_RETRY_SECONDS": "60", "DELIVERY_LONGEST_RETRY_SECONDS": "30"},
            ["METAGOV_DELIVERY_FIRST_RETRY_SECONDS (60)", "at most the same is allowed"],
        ),
        (
            {"DATABASE_OUTAGE_SECONDS": "5"},
            ["METAGOV_DATABASE_OUTAGE_SECONDS (5)", "METAGOV_DATABASE_TIMEOUT_SECONDS (20)"],
        ),
        (
            {"INVOCATION_TIMEOUT_SECONDS": "3600", "IDEMPOTENCY_HOURS": "2"},
            ["METAGOV_IDEMPOTENCY_HOURS (2)", "METAGOV_INVOCATION_TIMEOUT_SECONDS (3600)"],
        ),
        (
            {"DATABASE_OUTAGE_SECONDS": "600", "IDEMPOTENCY_HOURS": "0.5"},
            ["METAGOV_IDEMPOTENCY_HOURS (0.5)", "METAGOV_DATABASE_OUTAGE_SECONDS (600)"],
        ),
        (
            {"INVOCATION_RETENTION_DAYS": "0.5"},
            ["METAGOV_INVOCATION_RETENTION_DAYS (0.5)", "METAGOV_IDEMPOTENCY_HOURS (24)"],
        ),
    ],
)
def test_settings_that_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], words: list[str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"METAGOV_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for word in words:
        assert word in caught.value.detail
    assert "hush" not in caught.value.detail
    assert "Value error" not in caught.value.detail


@pytest.mark.parametrize(
    "given",
    [
        {"TEMPORAL_ADDRESS": "temporal:7233", "PORT": "7233", "TEMPORAL_TLS": "true"},
        {"DELIVERY_FIRST_RETRY_SECONDS": "3600"},
        {"DATABASE_OUTAGE_SECONDS": "0"},
        {"DATABASE_OUTAGE_SECONDS": "600"},
        {"INVOCATION_TIMEOUT_SECONDS": "3600"},
        {"INVOCATION_RETENTION_DAYS": "1"},
    ],
)
def test_settings_at_the_edge_of_a_contradiction(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"METAGOV_{name}", value)
    load_settings()


@pytest.mark.parametrize("url", ["ftp://x", "http://192.168.0.1/x", "http://user:pw@example.org"])
def test_an_event_receiver_that_may_not_be_called(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="METAGOV_DRIVER_EVENT_RECEIVER_URL: "):
        check_settings(Settings(data_dir=tmp_path, driver_event_receiver_url=url))


def test_settings_that_are_none_are_named() -> None:
    assert unknown_settings(["METAGOV_FOO", "METAGOV_WEBHOOK_RETENTION_DAY", "METAGOV_PORT"]) == [
        "METAGOV_FOO is no setting",
        "METAGOV_WEBHOOK_RETENTION_DAY is no setting; did you mean METAGOV_WEBHOOK_RETENTION_DAYS?",
    ]


@pytest.mark.parametrize("kind", ["delivery", "webhook", "invocation"])
@pytest.mark.parametrize("days", ["999999", "inf", "nan"])
def test_what_is_kept_for_ever_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str, days: str
) -> None:
    name = f"METAGOV_{kind.upper()}_RETENTION_DAYS"
    monkeypatch.setenv(name, days)
    with pytest.raises(SettingsError, match=name):
        load_settings()
