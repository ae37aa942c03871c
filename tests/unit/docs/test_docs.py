"""The documentation says what the code says."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator

import pytest

import engine.plugins
from cli.plugin_pages import BEGIN, END, render, render_example
from engine.errors import EngineError, InvocationError, RecordedError, RegistrationError
from engine.sdk.parameters import validate
from engine.sdk.registry import Registry
from engine.settings import Settings, SettingsError
from tests.conftest import REPOSITORY

OPERATING = (REPOSITORY / "docs/operating.md").read_text()
PLUGIN_TUTORIAL = (REPOSITORY / "docs/plugin-tutorial.md").read_text()

# Documented elsewhere than in the tutorial, or for type annotations only.
NOT_IN_THE_TUTORIAL = {
    "AuthType",
    "BadWebhookError",
    "Community",
    "Parameters",
    "PluginErrorInternal",
    "RegistrationError",
    "State",
    "Violation",
    "VotingStandard",
    "WebhookRequest",
    "WebhookResponse",
}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    field = Settings.model_fields[name]
    default = "" if field.default in (None, ()) else str(field.default)
    assert f"| `{name.upper()}` | {default} | {field.description} |" in OPERATING


def test_every_documented_variable_is_a_setting() -> None:
    names = {f"METAGOV_{name.upper()}" for name in Settings.model_fields}
    for path in [REPOSITORY / "README.md", *REPOSITORY.glob("docs/**/*.md")]:
        for found in re.findall(r"METAGOV_[A-Z_]+[A-Z]", path.read_text()):
            assert found in names | {"METAGOV_CONTRACTS_DIR"}, (path, found)


@pytest.mark.parametrize("name", sorted(set(engine.plugins.__all__) - NOT_IN_THE_TUTORIAL))
def test_the_tutorial_names_all_of_the_sdk(name: str) -> None:
    assert name in PLUGIN_TUTORIAL


def kinds_of_errors(root: type[EngineError] = EngineError) -> Iterator[type[EngineError]]:
    # What stops a start, and bases that are never raised themselves, reach no driver.
    if root not in (InvocationError, RecordedError, RegistrationError, SettingsError):
        yield root
    for kind in root.__subclasses__():
        if kind.__module__ == "engine.errors":
            yield from kinds_of_errors(kind)


@pytest.mark.parametrize("kind", list(kinds_of_errors()), ids=lambda kind: kind.__name__)
def test_every_error_is_in_the_table(kind: type[EngineError]) -> None:
    row = f"| `{kind.kind}` | {kind.status} | {kind.title} | "
    table = (REPOSITORY / "docs/errors.md").read_text()
    assert row in table
    assert table.partition(row)[2].startswith("**yes** |") == kind.nothing_done


def test_links_lead_somewhere() -> None:
    for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            if "://" not in link:
                assert (path.parent / link).exists(), (path, link)


def test_changelog_and_version_agree() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert versions[0] == project["version"]


def test_every_platform_folder_is_complete() -> None:
    for folder in sorted((REPOSITORY / "engine/plugins").iterdir()):
        if not folder.is_dir() or folder.name == "__pycache__":
            continue
        code = folder / "plugin.py", folder / "models.py"
        assert any(path.exists() for path in code), folder
        for payload in (folder / "payloads").glob("*"):
            assert re.fullmatch(r"[a-z_]+__[a-z0-9_]+\.json", payload.name), payload
            assert (REPOSITORY / f"docs/plugins/{folder.name}.md").exists()


# The tutorial's plugin is described in the tutorial.
@pytest.mark.parametrize("name", ["discourse", "loomio", "opencollective", "randomness", "twitter"])
def test_pages_of_plugins_say_what_the_code_says(name: str, plugins: None) -> None:
    plugin = Registry.plugins[name]
    page = REPOSITORY / f"docs/plugins/{name}.md"
    assert f"{BEGIN}\n{render(plugin)}\n{END}" in page.read_text(), "run: metagov plugin-pages"
    schemas = [action.input_schema or {} for action in plugin.actions.values()]
    schemas += [process.cls.input_schema or {} for process in plugin.processes.values()]
    for schema in schemas:
        example = json.loads(render_example(schema).strip("`"))
        assert not validate(example, schema), example


def test_every_platform_has_a_page_and_every_page_a_platform() -> None:
    folders = {path.parent.name for path in REPOSITORY.glob("engine/plugins/*/plugin.py")}
    assert {page.stem for page in REPOSITORY.glob("docs/plugins/*.md")} == folders
