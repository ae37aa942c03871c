"""Settings, keys, encryption at rest, migrations, discovery, the shape of the project."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from cryptography.fernet import Fernet

from engine.resources import check_settings
from engine.settings import Settings, SettingsError, load_settings, unknown_settings
from engine.store.database import database_url, open_database
from engine.store.schema import (
    current_revision,
    differences,
    known_revisions,
    migrate,
    newest_revision,
)
from engine.store.secrets import (
    SecretBox,
    make_secret_box,
    mask,
    open_secret_box,
    redact,
    secret_values,
    unmask,
)
from tests.conftest import REPOSITORY


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


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense"])
def test_bad_database_url(url: str) -> None:
    with pytest.raises(SettingsError, match="METAGOV_DATABASE_URL"):
        database_url(Settings(database_url=url))


def test_key_is_made_once_and_only_for_us(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert open_secret_box(settings) is None
    sealed = make_secret_box(settings).encrypt({"a": "☂"})
    for box in (make_secret_box(settings), open_secret_box(settings)):
        assert box is not None
        assert box.decrypt(sealed) == {"a": "☂"}
    key = tmp_path / "secret-key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret-key"]


def test_keys_can_be_rotated() -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    sealed = SecretBox([old]).encrypt(1)
    assert SecretBox([new, old]).decrypt(sealed) == 1
    with pytest.raises(SettingsError, match="another key"):
        SecretBox([new]).decrypt(sealed)
    with pytest.raises(SettingsError, match="no Fernet key"):
        SecretBox(["short"])


def test_masks() -> None:
    config = {"api_key": "k", "title": "t"}
    assert mask(config, ["api_key"]) == {"api_key": "********", "title": "t"}
    assert unmask(mask(config, ["api_key"]), ["api_key"], config) == config
    assert unmask({"api_key": "********"}, ["api_key"], None) == {}
    hidden = secret_values({"api_key": "long-secret", "pin": "1"}, ["api_key", "pin"])
    assert redact("with long-secret 1", hidden) == "with ******** 1"


async def test_migrations_make_the_tables_that_the_code_has(database_url: str) -> None:
    database = open_database(Settings(database_url=database_url))
    assert await current_revision(database) is None
    assert await migrate(database) == newest_revision()
    assert await migrate(database) == newest_revision()
    assert await current_revision(database) == newest_revision()
    assert await differences(database) == []
    await database.close()


def test_revisions_are_those_that_alembic_finds() -> None:
    config = Config()
    config.set_main_option("script_location", str(REPOSITORY / "engine/store/migrations"))
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    assert known_revisions() == tuple(script.revision for script in scripts)


def test_the_door_shows_what_it_says() -> None:
    import engine.plugins

    for name in engine.plugins.__all__:
        assert getattr(engine.plugins, name) is not None
    assert engine.plugins.PluginErrorInternal is engine.plugins.PluginError


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


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="METAGOV_DATABASE_URL names no file"):
        database_url(Settings(database_url=url))


@pytest.mark.parametrize("url", ["ftp://x", "http://192.168.0.1/x", "http://user:pw@example.org"])
def test_an_event_receiver_that_may_not_be_called(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="METAGOV_DRIVER_EVENT_RECEIVER_URL: "):
        check_settings(Settings(data_dir=tmp_path, driver_event_receiver_url=url))


def test_a_key_file_that_holds_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret-key").write_bytes(b"\xff\x00")
    with pytest.raises(SettingsError, match=f"{tmp_path / 'secret-key'} is no Fernet key"):
        open_secret_box(Settings(data_dir=tmp_path))


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
