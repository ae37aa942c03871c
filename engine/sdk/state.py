"""State: what a plugin instance or a process remembers, and how its values are kept as text.

Values are JSON in which a list or an object that JSON cannot express is an object with the one key
``$``. A dictionary of the plugin's that has such a key itself is kept as tagged pairs, so that data
which came from outside can never make decoding build an object.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from engine.errors import PluginCodeError

TAG = "$"
MOST_LEVELS = 100
LONGEST_KEY = 255

_MISSING = object()


class StateValueError(PluginCodeError, TypeError):
    """A value that state cannot keep."""

    kind = "state_value"


def encode(value: Any) -> str:
    """Encode a value as text.

    Args:
        value: JSON data, or any data type of the standard library, a dataclass or an Enum member.

    Returns:
        JSON text.

    Raises:
        StateValueError: The value, or something in it, is of a type that state cannot keep.
    """
    return json.dumps(_encode(value, "", 0), separators=(",", ":"), allow_nan=False)


def decode(text: str, allowed: Callable[[str], bool]) -> Any:
    """Decode what ``encode`` made.

    Args:
        text: JSON text.
        allowed: Whether classes of a module may be built.

    Returns:
        The value.

    Raises:
        StateValueError: A class is not there any more, or is none of an allowed module.
    """
    return _decode(json.loads(text), allowed)


@dataclasses.dataclass(frozen=True)
class StateChanges:
    """What one call did to a state, as it is stored.

    Attributes:
        values: Encoded values by key, None where one was removed.
        increments: What is added to numbers, whatever they have become meanwhile.
        expected: Encoded values, None for no value, that keys must still have.
    """

    values: dict[str, str | None]
    increments: dict[str, float]
    expected: dict[str, str | None]

    def __bool__(self) -> bool:
        """Whether there is anything to store."""
        return bool(self.values or self.increments)


class State:
    """Values by key, as one call sees them; what it changed is stored when it has succeeded.

    Calls at the same moment may write different keys without losing a write; of writes to one key
    the last one stays. ``increment`` and ``compare_and_set`` are for those who need more.

    Args:
        initial: Encoded values by key.
        allowed: Whether classes of a module may be built.
    """

    def __init__(self, initial: Mapping[str, str], allowed: Callable[[str], bool]) -> None:
        self._initial = dict(initial)
        self._allowed = allowed
        self._values: dict[str, Any] = {}
        self._set: set[str] = set()
        self._increments: dict[str, float] = {}
        self._expected: dict[str, str | None] = {}

    def get(self, key: str, default: Any = None) -> Any:
        """Read a value.

        Args:
            key: Its key.
            default: What to give if there is none.

        Returns:
            The value; changing it in place changes the state.
        """
        if key not in self._values:
            if key not in self._initial:
                return default
            self._values[key] = decode(self._initial[key], self._allowed)
        value = self._values[key]
        return default if value is _MISSING else value

    def set(self, key: str, value: Any) -> None:
        """Write a value.

        Args:
            key: Its key, 1 to 255 characters.
            value: The value.

        Raises:
            StateValueError: State cannot keep the value.
            ValueError: The key is no such text.
        """
        _check_key(key)
        encode(value)
        self._wrote(key, value)

    def increment(self, key: str, by: float = 1) -> float:
        """Add to a number, so that of increments at the same moment none is lost.

        Args:
            key: Its key; one that has no value counts from 0.
            by: What is added; may be negative.

        Returns:
            The sum as this call sees it; what is stored counts other calls' increments too.

        Raises:
            StateValueError: The key holds no number, or ``by`` is none.
            ValueError: The key is no text of 1 to 255 characters.
        """
        _check_key(key)
        now = self.get(key, 0)
        if not _is_number(now) or not _is_number(by):
            raise StateValueError(f"increment wants numbers: '{key:.80}' is {now!r:.80}, by {by!r}")
        total: float = now + by
        if key not in self._set:
            self._increments[key] = self._increments.get(key, 0) + by
        self._values[key] = total
        return total

    def compare_and_set(self, key: str, expected: Any, new: Any) -> bool:
        """Write a value if the key has the one expected, now and still when it is stored.

        If another call changed the key meanwhile nothing of this call is stored: receivers, tasks,
        a process' methods and actions declared ``idempotent`` are called again, other actions and
        ``start`` end with the error ``state_conflict``.

        Args:
            key: Its key.
            expected: What it must hold; None also for no value.
            new: What it shall hold; None removes it.

        Returns:
            Whether the key had that value when this call began, so that it was set.

        Raises:
            StateValueError: State cannot keep the value.
            ValueError: The key is no text of 1 to 255 characters.
        """
        _check_key(key)
        if self.get(key) != expected:
            return False
        self._expected.setdefault(key, self._initial.get(key))
        if new is None:
            self.remove(key)
        else:
            self.set(key, new)
        return True

    def remove(self, key: str) -> None:
        """Remove a value, if it is there.

        Args:
            key: Its key.
        """
        self._wrote(key, _MISSING)

    def _wrote(self, key: str, value: Any) -> None:
        self._values[key] = value
        self._set.add(key)
        self._increments.pop(key, None)

    def keys(self) -> list[str]:
        """The keys that there are."""
        return list(self)

    def __contains__(self, key: object) -> bool:
        """Whether there is a value."""
        if key in self._values:
            return self._values[str(key)] is not _MISSING
        return key in self._initial

    def __iter__(self) -> Iterator[str]:
        """Go through the keys."""
        every = dict.fromkeys([*self._initial, *self._values])
        return (key for key in every if key in self)

    def changes(self) -> StateChanges:
        """What is to be stored."""
        values = {k: v for k, v in self.written().items() if k not in self._increments}
        return StateChanges(values, dict(self._increments), dict(self._expected))

    def written(self) -> dict[str, str | None]:
        """Encoded values by key as this call leaves them, None where one was removed."""
        changed: dict[str, str | None] = {}
        for key, value in self._values.items():
            now = None if value is _MISSING else encode(value)
            if now != self._initial.get(key):
                changed[key] = now
        return changed


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY or "\x00" in key:
        raise ValueError(f"a key of state is a text of 1 to {LONGEST_KEY} characters")


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _encode(value: Any, path: str, level: int) -> Any:
    if level > MOST_LEVELS:
        raise StateValueError(f"state holds values of at most {MOST_LEVELS} levels, at {path[:80]}")
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: ["float", repr(value)]}
    if kind is list:
        return [_encode(item, f"{path}/{i}", level + 1) for i, item in enumerate(value)]
    if kind is dict:
        if all(type(key) is str for key in value) and TAG not in value:
            return {k: _encode(item, f"{path}/{k}", level + 1) for k, item in value.items()}
        return _tagged("dict", _pairs(value, path, level))
    if isinstance(value, Enum):
        return _tagged("enum", [kind.__module__, kind.__qualname__, value.name])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: _encode(getattr(value, field.name), f"{path}/{field.name}", level + 1)
            for field in dataclasses.fields(value)
        }
        return _tagged("dataclass", [kind.__module__, kind.__qualname__, fields])
    if kind in _COLLECTIONS:
        items = sorted(value, key=repr) if kind in (set, frozenset) else value
        return _tagged(
            _COLLECTIONS[kind],
            [_encode(item, f"{path}/{i}", level + 1) for i, item in enumerate(items)],
        )
    if kind is OrderedDict:
        return _tagged("OrderedDict", _pairs(value, path, level))
    if kind in _SCALARS:
        name, write = _SCALARS[kind]
        return _tagged(name, write(value))
    raise StateValueError(
        f"state cannot keep a {kind.__module__}.{kind.__qualname__}, at {path[:80] or '/'}"
    )


def _tagged(name: str, content: Any) -> dict[str, Any]:
    return {TAG: [name, content]}


def _pairs(value: Mapping[Any, Any], path: str, level: int) -> list[Any]:
    return [
        [_encode(key, path, level + 1), _encode(item, f"{path}/{key}", level + 1)]
        for key, item in value.items()
    ]


def _write_datetime(value: datetime) -> list[Any]:
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    return [value.replace(tzinfo=None).isoformat() if zone else value.isoformat(), zone, value.fold]


def _read_datetime(content: list[Any]) -> datetime:
    text, zone, fold = content
    value = datetime.fromisoformat(text).replace(fold=fold)
    return value.replace(tzinfo=ZoneInfo(zone)) if zone else value


def _seconds(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _write_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


_COLLECTIONS: dict[type, str] = {
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
}
_SCALARS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("bytes", _write_bytes),
    bytearray: ("bytearray", _write_bytes),
    datetime: ("datetime", _write_datetime),
    date: ("date", date.isoformat),
    time: ("time", lambda value: [value.isoformat(), value.fold]),
    timedelta: ("timedelta", _seconds),
    timezone: ("timezone", lambda value: _seconds(value.utcoffset(None))),
    ZoneInfo: ("zone", lambda value: value.key),
    Decimal: ("decimal", str),
    Fraction: ("fraction", str),
    complex: ("complex", lambda value: [repr(value.real), repr(value.imag)]),
    UUID: ("uuid", str),
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "bytes": lambda text: base64.b64decode(text),
    "bytearray": lambda text: bytearray(base64.b64decode(text)),
    "datetime": _read_datetime,
    "date": date.fromisoformat,
    "time": lambda content: time.fromisoformat(content[0]).replace(fold=content[1]),
    "timedelta": lambda content: timedelta(*content),
    "timezone": lambda content: timezone(timedelta(*content)),
    "zone": ZoneInfo,
    "decimal": Decimal,
    "fraction": Fraction,
    "complex": lambda content: complex(float(content[0]), float(content[1])),
    "uuid": UUID,
}
_BUILDERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}


def _decode(value: Any, allowed: Callable[[str], bool]) -> Any:
    if isinstance(value, list):
        return [_decode(item, allowed) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: _decode(item, allowed) for key, item in value.items()}
    name, content = value[TAG]
    if name in _READERS:
        return _READERS[name](content)
    if name in _BUILDERS:
        return _BUILDERS[name](_decode(item, allowed) for item in content)
    if name in ("dict", "OrderedDict"):
        pairs = [(_decode(key, allowed), _decode(item, allowed)) for key, item in content]
        return OrderedDict(pairs) if name == "OrderedDict" else dict(pairs)
    cls = _find_class(content[0], content[1], allowed)
    if name == "enum" and issubclass(cls, Enum):
        return cls[content[2]]
    if name == "dataclass" and dataclasses.is_dataclass(cls):
        return _build(cls, {key: _decode(item, allowed) for key, item in content[2].items()})
    raise StateValueError(f"{content[0]}.{content[1]} is not the kind of class that it was")


def _build(cls: type, values: dict[str, Any]) -> Any:
    """Build a dataclass without running its code, so that what was kept is what comes back."""
    built: Any = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in values:
            object.__setattr__(built, field.name, values[field.name])
        elif field.default is not dataclasses.MISSING:
            object.__setattr__(built, field.name, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            object.__setattr__(built, field.name, field.default_factory())
    return built


def _find_class(module: str, name: str, allowed: Callable[[str], bool]) -> type:
    found: Any = sys.modules.get(module) if allowed(module) else None
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise StateValueError(f"state holds a {module}.{name}, which this plugin has not")
    return found
