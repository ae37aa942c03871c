"""Which modules' classes a plugin's state may hold: those of the plugin's own package."""

from __future__ import annotations

import pytest

from engine.invocations.loading import modules_of
from engine.sdk.registry import Registry


@pytest.mark.parametrize(
    ("plugin", "own", "foreign"),
    [
        ("troublesome", ["metagov_plugins.troublesome"], ["metagov_plugins.durable"]),
        ("loomio", ["engine.plugins.loomio.plugin", "engine.plugins.loomio"], ["engine.plugins"]),
        ("loomio", [], ["engine.plugins.loomio_two", "engine.plugins.discourse.plugin"]),
        ("tutorial", ["engine.plugins.tutorial.models"], ["http", "builtins", "engine.sdk.state"]),
    ],
)
def test_own_modules(plugins: None, plugin: str, own: list[str], foreign: list[str]) -> None:
    allowed = modules_of(Registry.plugins[plugin])
    assert [name for name in own if not allowed(name)] == []
    assert [name for name in foreign if allowed(name)] == []
