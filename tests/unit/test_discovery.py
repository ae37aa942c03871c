"""Finding plugins: folders of one's own, what replaces what, and what looks like a mistake."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.discovery import load_plugins
from engine.errors import RegistrationError
from engine.plugins import Registry

PLUGIN = """from engine.plugins import GovernanceProcess, Plugin, Registry

@Registry.plugin
class Found(Plugin):
    name = "{name}"
{body}
"""


@pytest.fixture(autouse=True)
def as_before(plugins: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test loads is gone after it."""
    modules = set(sys.modules)
    monkeypatch.setattr(Registry, "plugins", dict(Registry.plugins))
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("metagov_plugins."):
            del sys.modules[name]


def write(folder: Path, file: str, name: str = "found", body: str = "") -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PLUGIN.format(name=name, body=body))
    return path


def package(folder: Path, name: str, body: str = "") -> Path:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")
    write(folder, f"{name}/models.py", name.replace("_", "-"), body)
    return folder / name


def test_plugins_of_a_folder_of_ones_own(tmp_path: Path) -> None:
    package(tmp_path, "from_a_folder")
    assert load_plugins([tmp_path]) == []
    assert Registry.plugins["from-a-folder"].cls.__module__.endswith("from_a_folder.models")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("1/0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
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


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("import json\n\n1/0\n", 3),
        ("import json\nif json:\nprint(1)\n", 3),
        ("def act():\n    raise ValueError('no')\n\nact()\n", 2),
        ("from engine.plugins import *\n\n@Registry.plugin\nclass X(Plugin): pass\n", 3),
    ],
)
def test_its_file_and_line_are_reported(tmp_path: Path, content: str, line: int) -> None:
    (tmp_path / "broken.py").write_text(content)
    with pytest.raises(RegistrationError) as caught:
        load_plugins([tmp_path])
    assert f"({tmp_path / 'broken.py'}, line {line})" in str(caught.value)


def test_a_plugin_of_ones_own_replaces_one_of_its_name(tmp_path: Path) -> None:
    body = """
@Registry.governance_process
class Poll(GovernanceProcess):
    name = "poll"
    plugin_name = "tutorial"

    def start(self, parameters):
        ...
"""
    file = write(tmp_path, "mine.py", "tutorial", body)
    warnings = load_plugins([tmp_path])
    assert len(warnings) == 1
    assert warnings[0].startswith(f"plugin 'tutorial' of {file} replaces that of engine.plugins.")
    assert Registry.plugins["tutorial"].cls.__module__ == "metagov_plugins.mine"
    assert list(Registry.plugins["tutorial"].processes) == ["poll"]


def test_two_of_ones_own_cannot_have_one_name(tmp_path: Path) -> None:
    write(tmp_path, "one.py", "tutorial")
    write(tmp_path, "two.py", "tutorial")
    with pytest.raises(RegistrationError, match="already registered"):
        load_plugins([tmp_path])


def test_plugins_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1/0")
    write(tmp_path, "found.py", "by-its-name")
    assert load_plugins([tmp_path], ["broken", "by-its-name", "loomio"]) == []
    assert {"by-its-name", "loomio"}.isdisjoint(Registry.plugins)
    with pytest.raises(RegistrationError) as caught:
        load_plugins([], ["lomio"])
    assert "METAGOV_DISABLED_PLUGINS names 'lomio', which is no plugin" in str(caught.value)
    assert "discourse" in str(caught.value)


MISTAKES = """
    config_shema = {}

    def intialize(self):
        ...

    @Registry.action(slug="updates")
    def on_disabled(self):
        ...

class Shared(GovernanceProcess):
    def start(self, parameters):
        ...

@Registry.governance_process
class Poll(Shared):
    name = "poll"
    plugin_name = "mistaken"

    def recieve_webhook(self, request):
        ...

class Lonely(GovernanceProcess):
    name = "lonely"
    plugin_name = "mistaken"

class Idle(Plugin):
    name = "idle"
"""


def test_what_looks_like_a_mistake_is_reported(tmp_path: Path) -> None:
    folder = package(tmp_path, "mistaken", MISTAKES)
    (folder / "more.py").write_text("")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_it.py").write_text("")
    (folder / "conftest.py").write_text("")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "models.py").write_text("")
    (tmp_path / "data").mkdir()
    place = "class metagov_plugins.mistaken.models"
    assert load_plugins([tmp_path]) == [
        f"{tmp_path / 'bare'} is not loaded: it has no __init__.py",
        f"{place}.Idle is not used: it lacks its decorator @Registry.plugin",
        f"{place}.Lonely is not used: it lacks its decorator @Registry.governance_process",
        f"{folder / 'more.py'} is not loaded: nothing in the plugin imports it",
        f"{place}.Found: `config_shema` means nothing to the engine; did you mean `config_schema`?",
        f"{place}.Found: `intialize` means nothing to the engine; did you mean `initialize`?",
        f"{place}.Poll: `recieve_webhook` means nothing to the engine; "
        "did you mean `receive_webhook`?",
    ]


def test_the_plugins_that_come_with_it_look_right() -> None:
    assert load_plugins() == []
