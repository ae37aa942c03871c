"""Secrets: encryption at rest, and masking of what is shown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from engine.settings import Settings, SettingsError

MASK = "********"
SHORTEST_REDACTED = 4


class SecretBox:
    """Encrypts plugin configs at rest.

    Args:
        keys: Fernet keys; the first one encrypts, all of them decrypt.
        source: Where they are from, for the sentence that says that they are none.

    Raises:
        SettingsError: A key is no Fernet key.
    """

    def __init__(self, keys: Iterable[str], source: str = "METAGOV_SECRET_KEY") -> None:
        try:
            self._fernet = MultiFernet([Fernet(key.strip()) for key in keys])
        except ValueError:
            raise SettingsError(
                f"{source} is no Fernet key (32 random bytes in URL-safe base64); `metagov "
                "secret-key` makes one, but only the one used until now opens what is encrypted"
            ) from None

    def opens(self, text: str) -> bool:
        """Whether these keys open a text."""
        try:
            self._fernet.decrypt(text)
        except InvalidToken:
            return False
        return True

    def encrypt(self, value: Any) -> str:
        """Encrypt JSON data.

        Args:
            value: The data.

        Returns:
            A text that only these keys open.
        """
        return self._fernet.encrypt(json.dumps(value).encode()).decode()

    def decrypt(self, text: str) -> Any:
        """Open what ``encrypt`` made.

        Args:
            text: The text.

        Returns:
            The data.

        Raises:
            SettingsError: It was encrypted with another key.
        """
        try:
            return json.loads(self._fernet.decrypt(text))
        except InvalidToken:
            raise SettingsError(
                "A plugin's config was encrypted with another key: METAGOV_SECRET_KEY (or the "
                "key in the data folder) must be, or include, the one used then"
            ) from None


def open_secret_box(settings: Settings) -> SecretBox | None:
    """Make the box with the key of the settings, or the one in the data folder.

    Args:
        settings: The settings.

    Returns:
        The box; None if there is no key yet.

    Raises:
        SettingsError: A key is no Fernet key, or its file cannot be read.
    """
    if settings.secret_key is not None:
        return SecretBox(settings.secret_key.get_secret_value().split(","))
    path = secret_key_path(settings)
    key = _read_secret(path)
    return SecretBox([key], f"The key in {path}") if key is not None else None


def make_secret_box(settings: Settings) -> SecretBox:
    """Make the box with a key in the data folder, a new one only where nothing is encrypted yet."""
    path = secret_key_path(settings)
    return SecretBox([kept_secret(path, Fernet.generate_key().decode())], f"The key in {path}")


def secret_key_path(settings: Settings) -> Path:
    """The file that holds the key if the settings name none."""
    return settings.data_dir.resolve() / "secret-key"


def kept_secret(path: Path, fresh: str) -> str:
    """Read a generated secret from its file, or write it there the first time.

    Args:
        path: The file; it is made with mode 0600.
        fresh: The value for a first time.

    Returns:
        The secret that the file holds.

    Raises:
        SettingsError: The file cannot be read or written.
    """
    kept = _read_secret(path)
    if kept is not None:
        return kept
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(fresh)
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link fails if another process was first, and never shows a half-written file.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written ({error.strerror}); METAGOV_DATA_DIR must be a folder that "
            "this user may write to"
        ) from None


def _read_secret(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}); it must be a file that this user may read"
        ) from None


def mask(config: Mapping[str, Any], secrets: Iterable[str]) -> dict[str, Any]:
    """Hide the secrets of a config.

    Args:
        config: The config.
        secrets: Names of its secret properties.

    Returns:
        A copy that may be shown.
    """
    hidden = set(secrets)
    return {key: MASK if key in hidden else value for key, value in config.items()}


def unmask(
    config: Mapping[str, Any], secrets: Iterable[str], stored: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Put stored secrets back where a config was sent with their masks.

    Args:
        config: The config as it was sent.
        secrets: Names of its secret properties.
        stored: The config in use now, if any.

    Returns:
        A copy with the stored values; a mask that stands for nothing is left out.
    """
    known = stored or {}
    result = dict(config)
    for key in secrets:
        if result.get(key) == MASK:
            if key in known:
                result[key] = known[key]
            else:
                del result[key]
    return result


def secret_values(config: Mapping[str, Any], secrets: Iterable[str]) -> tuple[str, ...]:
    """The texts that must appear nowhere.

    Args:
        config: The config.
        secrets: Names of its secret properties.

    Returns:
        Their values, longest first; values too short to distinguish from other text are left out.
    """
    values = {str(config[key]) for key in secrets if config.get(key)}
    return tuple(sorted((v for v in values if len(v) >= SHORTEST_REDACTED), key=len, reverse=True))


def redact(text: str, values: Iterable[str]) -> str:
    """Take secrets out of a text.

    Args:
        text: The text.
        values: The secrets' values.

    Returns:
        The text with a mask for each.
    """
    for value in values:
        text = text.replace(value, MASK)
    return text
