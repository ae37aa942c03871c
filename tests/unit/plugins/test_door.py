"""The door through which plugins get the SDK."""

from __future__ import annotations

import engine.plugins


def test_the_door_shows_what_it_says() -> None:
    for name in engine.plugins.__all__:
        assert getattr(engine.plugins, name) is not None
    assert engine.plugins.PluginErrorInternal is engine.plugins.PluginError
