"""Finds plugins: folders beside the SDK's door, installed packages, and folders of one's own."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import engine.plugins
from engine.errors import RegistrationError
from engine.sdk.mistakes import forgotten_modules, misspelt_attributes, undecorated_classes
from engine.sdk.registry import OWN_PLUGINS, Registry

ENTRY_POINT_GROUP = "metagov.plugins"
# A plugin's classes stand in its package itself or in one of these modules of it.
PLUGIN_MODULES = ("models", "plugin")


def load_plugins(plugin_path: Iterable[Path] = (), disabled: Iterable[str] = ()) -> list[str]:
    """Import all plugins there are, so that they register themselves.

    Args:
        plugin_path: Further folders; each package or module in them is a plugin. One that has the
            name of another plugin replaces it.
        disabled: Names of plugins that are left out.

    Returns:
        What an operator should know: what was replaced, and what looks like a mistake.

    Raises:
        RegistrationError: A plugin fails to import; the message names it, the error, its file and
            line. Or ``disabled`` names none.
    """
    left_out = frozenset(disabled)
    modules: dict[str, str] = {}
    for found in pkgutil.iter_modules(engine.plugins.__path__):
        if found.ispkg:
            modules[found.name] = f"engine.plugins.{found.name}"
    modules |= {entry.name: entry.module for entry in entry_points(group=ENTRY_POINT_GROUP)}
    for name, module_name in modules.items():
        if name not in left_out:
            _import_plugin(module_name, name)
    before = dict(Registry.plugins)
    warnings: list[str] = []
    for folder in plugin_path:
        for path in _plugins_of(folder, warnings):
            name = path.name if path.is_dir() else path.stem
            modules[f"{folder}/{name}"] = f"{OWN_PLUGINS}.{name}"
            if name not in left_out:
                _import_file(path, name)
    _leave_out(left_out, {name.rpartition("/")[2] for name in modules})
    replaced = [name for name, plugin in before.items() if Registry.plugins.get(name) is not plugin]
    warnings += [
        f"plugin '{name}' of {_file_of(Registry.plugins[name].cls)} replaces that of "
        f"{before[name].cls.__module__}"
        for name in replaced
        if name in Registry.plugins
    ]
    return warnings + list(_mistakes(modules.values()))


def _leave_out(names: frozenset[str], found: set[str]) -> None:
    known = found | set(Registry.plugins)
    for name in sorted(names):
        if name not in known:
            raise RegistrationError(
                f"METAGOV_DISABLED_PLUGINS names '{name}', which is no plugin; there are: "
                f"{', '.join(sorted(known))}"
            )
        Registry.plugins.pop(name, None)


def _mistakes(module_names: Iterable[str]) -> Iterator[str]:
    loaded = [sys.modules[name] for name in module_names if name in sys.modules]
    for module in loaded:
        yield from undecorated_classes(module.__name__)
        yield from forgotten_modules(module)
    for plugin in Registry.plugins.values():
        yield from misspelt_attributes(plugin.cls)
        for process in plugin.processes.values():
            yield from misspelt_attributes(process.cls)


def _plugins_of(folder: Path, warnings: list[str]) -> Iterator[Path]:
    """The packages and modules of a folder of one's own."""
    if not folder.is_dir():
        raise RegistrationError(f"METAGOV_PLUGIN_PATH names {folder}, which is no folder")
    for item in sorted(folder.iterdir()):
        if item.name.startswith((".", "_")):
            continue
        if item.is_dir() and (item / "__init__.py").is_file():
            yield item
        elif item.is_dir() and any(item.glob("*.py")):
            warnings.append(f"{item} is not loaded: it has no __init__.py")
        elif item.suffix == ".py":
            yield item


def _import_file(path: Path, name: str) -> None:
    """Import a plugin from outside under a name of its own, so that it can hide nothing of ours."""
    module_name = f"{OWN_PLUGINS}.{name}"
    file = path / "__init__.py" if path.is_dir() else path
    if module_name in sys.modules:
        already = getattr(sys.modules[module_name], "__file__", None)
        if already == str(file):
            return
        raise RegistrationError(f"Plugin '{name}' stands in {already} and in {file}: rename one")
    sys.modules.setdefault(OWN_PLUGINS, ModuleType(OWN_PLUGINS))
    spec = importlib.util.spec_from_file_location(
        module_name, file, submodule_search_locations=[str(path)] if path.is_dir() else None
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with _importing(name):
            spec.loader.exec_module(module)
    except RegistrationError:
        del sys.modules[module_name]
        raise
    if path.is_dir():
        _import_submodules(module_name, name)


def _import_plugin(module_name: str, name: str) -> None:
    with _importing(name):
        module = importlib.import_module(module_name)
    if hasattr(module, "__path__"):
        _import_submodules(module_name, name)


def _import_submodules(module_name: str, name: str) -> None:
    for part in PLUGIN_MODULES:
        if importlib.util.find_spec(f"{module_name}.{part}") is not None:
            with _importing(name):
                importlib.import_module(f"{module_name}.{part}")


@contextmanager
def _importing(name: str) -> Iterator[None]:
    """Say of an import that fails which plugin it was, and where."""
    try:
        yield
    except (Exception, SystemExit) as error:
        place = _place(error)
        if isinstance(error, RegistrationError):
            raise RegistrationError(f"{error} ({place})") from None
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RegistrationError(
            f"Plugin '{name}' fails to import: {type(error).__name__}: {what} ({place})"
        ) from error


def _place(error: BaseException) -> str:
    """The last line outside of the engine's SDK and Python's own import that an error passed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    own = (str(Path(engine.plugins.__file__).parent.parent / "sdk"), __file__, "<frozen")
    frames = traceback.extract_tb(error.__traceback__)
    passed = [frame for frame in frames if not frame.filename.startswith(own)]
    return f"{passed[-1].filename}, line {passed[-1].lineno}" if passed else "no file"


def _file_of(cls: type) -> str:
    return str(getattr(sys.modules.get(cls.__module__), "__file__", cls.__module__))
