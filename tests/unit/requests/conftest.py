"""As much of an engine as requests need before they are handed over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.fernet import Fernet

from engine.settings import Settings
from engine.store.database import open_database
from engine.store.secrets import SecretBox


@pytest.fixture
async def engine(data_dir: Path) -> AsyncIterator[Any]:
    """A database, settings and a key."""
    settings = Settings(data_dir=data_dir)
    database = open_database(settings)
    secrets = SecretBox([Fernet.generate_key().decode()])
    yield SimpleNamespace(database=database, settings=settings, secrets=secrets)
    await database.close()
