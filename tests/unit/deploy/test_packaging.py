"""The project's own description: locked dependencies, the command, who may import the worker."""

from __future__ import annotations

import importlib
import re
import tomllib
from importlib.metadata import version

from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LOCK = (REPOSITORY / "requirements.lock").read_text()
# One locked requirement: its name and version, then everything up to the next one.
LOCKED = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)(.*?)(?=^[\w]|\Z)", LOCK, re.M | re.S)


def test_the_lock_names_no_host() -> None:
    """Where files come from is the installer's business; which files is the lock's."""
    assert "://" not in LOCK
    assert not re.search(r"^\s*-", LOCK.replace("    --hash=", ""), re.MULTILINE)


def test_every_locked_requirement_has_hashes() -> None:
    """Nothing unknown can be installed."""
    assert len(LOCKED) > 50
    assert len(LOCKED) == len(re.findall(r"^\w", LOCK, re.MULTILINE))
    for name, _, rest in LOCKED:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", rest), name


def test_every_dependency_is_locked() -> None:
    """What the project, its developers and its build need is locked in a version that fits."""
    locked = {canonicalize_name(name): number for name, number, _ in LOCKED}
    wanted = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
        *PROJECT["build-system"]["requires"],
    ]
    for requirement in map(Requirement, wanted):
        number = locked.get(canonicalize_name(requirement.name))
        assert number is not None, f"{requirement.name} is not locked; `make lock`"
        assert requirement.specifier.contains(number), f"{requirement}, locked {number}"


def test_the_installed_command_is_there() -> None:
    """The package is installed in this version, and its command can be called."""
    assert version("metagov-engine") == PROJECT["project"]["version"]
    module, _, name = PROJECT["project"]["scripts"]["metagov"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_nothing_below_the_command_line_imports_the_worker() -> None:
    """The worker stands on top; import-linter knows packages only, so this is said here."""
    for file in [*REPOSITORY.glob("engine/**/*.py"), *REPOSITORY.glob("api/**/*.py")]:
        assert not re.search(r"^\s*(from|import) worker\b", file.read_text(), re.MULTILINE), file


def test_the_wheel_says_that_it_is_typed() -> None:
    builder = WheelBuilder(str(REPOSITORY))
    with builder.config.set_build_data({"force_include": {}, "artifacts": []}):
        included = {file.distribution_path for file in builder.recurse_included_files()}
    assert "engine/py.typed" in included
