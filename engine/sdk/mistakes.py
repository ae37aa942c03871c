"""What looks like a mistake of a plugin's author, though it can be imported: warned of at start."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from engine.sdk.plugin import Plugin
from engine.sdk.process import GovernanceProcess
from engine.sdk.registry import MARK, PROCESS_METHODS

_PLUGIN_HOOKS = frozenset({"on_config_change", "on_disable", "verify_webhook", "webhook_key"})
# Names that are more alike than this, out of 1, are taken for the same one misspelt.
_ALIKE = 0.85


def misspelt_attributes(cls: type[Plugin] | type[GovernanceProcess]) -> Iterator[str]:
    """Find attributes of a registered class that are nearly called like one that means something.

    Args:
        cls: The class.

    Yields:
        A sentence for each.
    """
    plugin = issubclass(cls, Plugin)
    base, hooks = (Plugin, _PLUGIN_HOOKS) if plugin else (GovernanceProcess, PROCESS_METHODS)
    known = {name for name in {*vars(base), *base.__annotations__} if not name.startswith("_")}
    known |= hooks
    for name, value in vars(cls).items():
        if name.startswith("_") or name in known or hasattr(value, MARK):
            continue
        alike = difflib.get_close_matches(name, sorted(known), n=1, cutoff=_ALIKE)
        if alike:
            yield (
                f"class {cls.__module__}.{cls.__qualname__}: `{name}` means nothing to the engine; "
                f"did you mean `{alike[0]}`?"
            )


def undecorated_classes(package: str) -> Iterator[str]:
    """Find subclasses of the SDK's bases that were left without their decorator.

    A class that a registered one inherits from needs none.

    Args:
        package: The plugin's package or module.

    Yields:
        A sentence for each.
    """
    for base, decorator in (
        (Plugin, "@Registry.plugin"),
        (GovernanceProcess, "@Registry.governance_process"),
    ):
        for cls in _subclasses(base):
            inside = cls.__module__ == package or cls.__module__.startswith(f"{package}.")
            if inside and not any(MARK in vars(one) for one in (cls, *_subclasses(cls))):
                yield (
                    f"class {cls.__module__}.{cls.__qualname__} is not used: "
                    f"it lacks its decorator {decorator}"
                )


def forgotten_modules(package: ModuleType) -> Iterator[str]:
    """Find modules in a plugin's folder that nothing has imported; tests and scripts aside.

    Args:
        package: The plugin's package.

    Yields:
        A sentence for each.
    """
    if not hasattr(package, "__path__") or package.__file__ is None:
        return
    folder = Path(package.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        aside = any(p.startswith(("test", ".")) for p in parts) or parts[-1] == "conftest"
        if aside or (parts[-1].startswith("__")):
            continue
        if ".".join((package.__name__, *parts)) not in sys.modules:
            yield f"{file} is not loaded: nothing in the plugin imports it"


def _subclasses(base: type) -> Iterator[type]:
    subclasses: list[type] = base.__subclasses__()
    for cls in subclasses:
        yield cls
        yield from _subclasses(cls)
