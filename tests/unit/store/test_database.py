"""Which databases can be named."""

from __future__ import annotations

import pytest

from engine.settings import Settings, SettingsError
from engine.store.database import database_url


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense"])
def test_bad_database_url(url: str) -> None:
    with pytest.raises(SettingsError, match="METAGOV_DATABASE_URL"):
        database_url(Settings(database_url=url))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="METAGOV_DATABASE_URL names no file"):
        database_url(Settings(database_url=url))
