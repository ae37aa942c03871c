"""Keys, what they encrypt, and what is shown of it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from engine.settings import Settings, SettingsError
from engine.store.secrets import (
    SecretBox,
    make_secret_box,
    mask,
    open_secret_box,
    redact,
    secret_values,
    unmask,
)


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


def test_a_key_file_that_holds_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret-key").write_bytes(b"\xff\x00")
    with pytest.raises(SettingsError, match=f"{tmp_path / 'secret-key'} is no Fernet key"):
        open_secret_box(Settings(data_dir=tmp_path))


def test_masks() -> None:
    config = {"api_key": "k", "title": "t"}
    assert mask(config, ["api_key"]) == {"api_key": "********", "title": "t"}
    assert unmask(mask(config, ["api_key"]), ["api_key"], config) == config
    assert unmask({"api_key": "********"}, ["api_key"], None) == {}
    hidden = secret_values({"api_key": "long-secret", "pin": "1"}, ["api_key", "pin"])
    assert redact("with long-secret 1", hidden) == "with ******** 1"
