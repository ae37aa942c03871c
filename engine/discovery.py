"""Finds plugins: folders beside the SDK's door, installed packages, and folders of one's own."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import engine.plugins
from engine.errors import RegistrationError

ENTRY_POINT_GROUP = "metagov.plugins"
# A plugin's classes stand in its package itself or in one of these modules of it.
PLUGIN_MODULES = ("models", "plugin")


def load_plugins(plugin_path: Iterable[Path] = ()) -> None:
    """Import all plugins there are, so that they register themselves.

    Args:
        plugin_path: Further folders; each package or module in them is a plugin.

    Raises:
        RegistrationError: A plugin fails to import; the message names it and the error.
    """
    for found in pkgutil.iter_modules(engine.plugins.__path__):
        if found.ispkg:
            _import_plugin(f"engine.plugins.{found.name}", found.name)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        _import_plugin(entry.module, entry.name)
    for folder in plugin_path:
        _load_folder(folder)


def _load_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise RegistrationError(f"METAGOV_PLUGIN_PATH names {folder}, which is no folder")
    for item in sorted(folder.iterdir()):
        if item.name.startswith((".", "_")):
            continue
        if item.is_dir() and (item / "__init__.py").is_file():
            _import_file(item / "__init__.py", item.name, package=True)
        elif item.suffix == ".py":
            _import_file(item, item.stem, package=False)


def _import_file(path: Path, name: str, *, package: bool) -> None:
    """Import a plugin from outside under a name of its own, so that it can hide nothing of ours."""
    module_name = f"metagov_plugins.{name}"
    if module_name in sys.modules:
        already = getattr(sys.modules[module_name], "__file__", None)
        if already == str(path):
            return
        raise RegistrationError(f"Plugin '{name}' stands in {already} and in {path}: rename one")
    sys.modules.setdefault("metagov_plugins", ModuleType("metagov_plugins"))
    spec = importlib.util.spec_from_file_location(
        module_name, path, submodule_search_locations=[str(path.parent)] if package else None
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except RegistrationError:
        del sys.modules[module_name]
        raise
    except Exception as error:
        del sys.modules[module_name]
        raise _failed(name, error) from error
    if package:
        _import_submodules(module_name, name)


def _import_plugin(module_name: str, name: str) -> None:
    try:
        module = importlib.import_module(module_name)
    except RegistrationError:
        raise
    except Exception as error:
        raise _failed(name, error) from error
    if hasattr(module, "__path__"):
        _import_submodules(module_name, name)


def _import_submodules(module_name: str, name: str) -> None:
    for part in PLUGIN_MODULES:
        if importlib.util.find_spec(f"{module_name}.{part}") is not None:
            try:
                importlib.import_module(f"{module_name}.{part}")
            except RegistrationError:
                raise
            except Exception as error:
                raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> RegistrationError:
    return RegistrationError(f"Plugin '{name}' fails to import: {type(error).__name__}: {error}")
