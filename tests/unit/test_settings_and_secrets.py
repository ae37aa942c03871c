"""Settings, keys, encryption at rest, migrations, discovery, the shape of the project."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from engine.discovery import load_plugins
from engine.errors import RegistrationError
from engine.settings import Settings, SettingsError, load_settings
from engine.store.database import database_url, open_database
from engine.store.schema import current_revision, differences, migrate, newest_revision
from engine.store.secrets import SecretBox, mask, open_secret_box, redact, secret_values, unmask


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "99999"), ("PORT", "x"), ("LOG_FORMAT", "xml"), ("DELIVERY_TIMEOUT_SECONDS", "-1")],
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
    sealed = open_secret_box(settings).encrypt({"a": "☂"})
    assert open_secret_box(settings).decrypt(sealed) == {"a": "☂"}
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


def test_plugins_of_a_folder_of_ones_own(tmp_path: Path) -> None:
    package = tmp_path / "from_a_folder"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(
        "from engine.plugins import Plugin, Registry\n"
        "@Registry.plugin\nclass Folder(Plugin):\n    name = 'from-a-folder'\n"
    )
    load_plugins([tmp_path])
    from engine.plugins import Registry

    assert Registry.plugins.pop("from-a-folder").cls.__module__.endswith("from_a_folder.models")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("1/0", "ZeroDivisionError"),
        ("from engine.plugins import *\n@Registry.plugin\nclass X(Plugin): pass", "no `name`"),
    ],
)
def test_plugin_that_fails_to_import_stops_the_start(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "broken.py").write_text(content)
    with pytest.raises(RegistrationError, match=words) as caught:
        load_plugins([tmp_path])
    assert "broken" in str(caught.value)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RegistrationError, match="METAGOV_PLUGIN_PATH"):
        load_plugins([tmp_path / "nowhere"])


def test_the_door_shows_what_it_says() -> None:
    import engine.plugins

    for name in engine.plugins.__all__:
        assert getattr(engine.plugins, name) is not None
    assert engine.plugins.PluginErrorInternal is engine.plugins.PluginError
