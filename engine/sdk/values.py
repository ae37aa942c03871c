"""How values of state are kept as text, so that what was kept is what comes back.

Values are JSON in which a list or an object that JSON cannot express is an object with the one key
``$``. A dictionary of the plugin's that has such a key itself is kept as tagged pairs, so that data
which came from outside can never make decoding build an object. Objects are built of what they
held, without their classes' code; a class that will not be found again is refused at once.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
import ipaddress
import json
import math
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import BuiltinFunctionType, MemberDescriptorType, ModuleType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from engine.errors import PluginCodeError

TAG = "$"
MOST_LEVELS = 100

Allowed = Callable[[str], bool]


class StateValueError(PluginCodeError, TypeError):
    """A value that state cannot keep."""

    kind = "state_value"


def _not_pythons_own(module: str) -> bool:
    return module.partition(".")[0] not in sys.stdlib_module_names


def encode(value: Any, allowed: Allowed = _not_pythons_own) -> str:
    """Encode a value as text.

    Args:
        value: JSON data, data types of the standard library, and objects of allowed modules.
        allowed: Whether objects of a module's classes may be kept.

    Returns:
        JSON text.

    Raises:
        StateValueError: The value, or something in it, cannot be kept.
    """
    try:
        return _text(_encode(value, allowed, "", 0))
    except ValueError as error:
        raise StateValueError(f"state cannot keep the value: {error}") from None


def decode(text: str, allowed: Allowed) -> Any:
    """Decode what ``encode`` made.

    Args:
        text: JSON text.
        allowed: Whether objects of a module's classes may be built.

    Returns:
        The value.

    Raises:
        StateValueError: A class is not there any more, or is none of an allowed module.
    """
    return _decode(json.loads(text), allowed)


def _text(encoded: Any) -> str:
    return json.dumps(encoded, separators=(",", ":"), allow_nan=False)


def _encode(value: Any, allowed: Allowed, path: str, level: int) -> Any:
    if level > MOST_LEVELS:
        raise StateValueError(f"state holds values of at most {MOST_LEVELS} levels, at {path[:80]}")
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: ["float", repr(value)]}
    if kind is list:
        return _items(value, allowed, path, level)
    if kind is dict:
        if all(type(key) is str for key in value) and TAG not in value:
            return _named(value, allowed, path, level)
        return _tagged("dict", _pairs(value, allowed, path, level))
    if kind in _SCALARS:
        name, write = _SCALARS[kind]
        return _tagged(name, write(value))
    if kind in _COLLECTIONS:
        return _encode_collection(value, allowed, path, level)
    return _encode_object(value, allowed, path, level)


def _encode_collection(value: Any, allowed: Allowed, path: str, level: int) -> Any:
    kind = type(value)
    name = _COLLECTIONS[kind]
    if kind in (OrderedDict, Counter):
        return _tagged(name, _pairs(value, allowed, path, level))
    if kind is defaultdict:
        factory = next((n for n, f in _FACTORIES.items() if f is value.default_factory), None)
        if factory is None:
            raise _refused(kind, path, f"its default_factory is none of {', '.join(_FACTORIES)}")
        return _tagged(name, [factory, _pairs(value, allowed, path, level)])
    items = _items(value, allowed, path, level)
    if kind is deque and value.maxlen is not None:
        return _tagged("bounded deque", [value.maxlen, items])
    return _tagged(name, sorted(items, key=_text) if kind in (set, frozenset) else items)


def _encode_object(value: Any, allowed: Allowed, path: str, level: int) -> Any:
    kind = type(value)
    place = [kind.__module__, kind.__qualname__]
    if not allowed(kind.__module__):
        raise _refused(kind, path, "it keeps objects of the plugin's own package only")
    if _class_at(*place) is not kind:
        raise _refused(kind, path, "its class does not stand in its module under that name")
    if isinstance(value, Enum):
        if kind._member_map_.get(value._name_) is not value:
            raise _refused(kind, path, "only members that have a name of their own")
        return _tagged("enum", [*place, value._name_])
    attributes = _attributes(value)
    if _is_namedtuple(kind):
        if attributes:
            raise _refused(kind, path, "a namedtuple with attributes beside its fields")
        values = dict(zip(kind._fields, value, strict=True))
        return _tagged("namedtuple", [*place, _named(values, allowed, path, level)])
    if not _is_plain(kind):
        raise _refused(kind, path, "its class is built upon one that keeps data of its own")
    if not all(type(name) is str for name in attributes):
        raise _refused(kind, path, "an attribute has a name that is no text")
    name = "dataclass" if dataclasses.is_dataclass(kind) else "object"
    held = attributes | _defaults(kind, attributes)
    return _tagged(name, [*place, _named(held, allowed, path, level)])


def _refused(kind: type, path: str, why: str) -> StateValueError:
    return StateValueError(
        f"state cannot keep a {kind.__module__}.{kind.__qualname__}, at {path[:80] or '/'}: {why}"
    )


def _tagged(name: str, content: Any) -> dict[str, Any]:
    return {TAG: [name, content]}


def _items(values: Iterable[Any], allowed: Allowed, path: str, level: int) -> list[Any]:
    return [_encode(item, allowed, f"{path}/{i}", level + 1) for i, item in enumerate(values)]


def _named(values: Mapping[str, Any], allowed: Allowed, path: str, level: int) -> dict[str, Any]:
    return {k: _encode(item, allowed, f"{path}/{k}", level + 1) for k, item in values.items()}


def _pairs(value: Mapping[Any, Any], allowed: Allowed, path: str, level: int) -> list[Any]:
    return [
        [_encode(key, allowed, path, level + 1), _encode(item, allowed, f"{path}/{key}", level + 1)]
        for key, item in value.items()
    ]


def _zone_key(zone: ZoneInfo) -> str:
    if zone.key is None:
        raise _refused(ZoneInfo, "", "it has no key to find it by")
    return zone.key


def _zone_of(value: datetime | time) -> str | None:
    return _zone_key(value.tzinfo) if isinstance(value.tzinfo, ZoneInfo) else None


def _write_moment(value: datetime | time) -> list[Any]:
    zone = _zone_of(value)
    if zone is None and value.tzinfo is not None and value.utcoffset() is None:
        raise _refused(type(value.tzinfo), "", "a time of day in it has no offset to keep")
    return [value.replace(tzinfo=None).isoformat() if zone else value.isoformat(), zone, value.fold]


def _read_datetime(content: list[Any]) -> datetime:
    text, zone, fold = content
    value = datetime.fromisoformat(text).replace(fold=fold)
    return value.replace(tzinfo=ZoneInfo(zone)) if zone else value


def _write_time(value: time) -> list[Any]:
    text, zone, fold = _write_moment(value)
    return [text, fold, zone] if zone else [text, fold]


def _read_time(content: list[Any]) -> time:
    text, fold, *zone = content
    value = time.fromisoformat(text).replace(fold=fold)
    return value.replace(tzinfo=ZoneInfo(zone[0])) if zone else value


def _seconds(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _write_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


_FACTORIES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list": list,
    "dict": dict,
    "set": set,
    "None": None,
}
_COLLECTIONS: dict[type, str] = {
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
    OrderedDict: "OrderedDict",
    Counter: "Counter",
    defaultdict: "defaultdict",
}
_ADDRESSES: tuple[type, ...] = (
    ipaddress.IPv4Address,
    ipaddress.IPv4Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Address,
    ipaddress.IPv6Network,
    ipaddress.IPv6Interface,
)
_SCALARS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("bytes", _write_bytes),
    bytearray: ("bytearray", _write_bytes),
    datetime: ("datetime", _write_moment),
    date: ("date", date.isoformat),
    time: ("time", _write_time),
    timedelta: ("timedelta", _seconds),
    timezone: ("timezone", lambda value: _seconds(value.utcoffset(None))),
    ZoneInfo: ("zone", _zone_key),
    Decimal: ("decimal", str),
    Fraction: ("fraction", str),
    complex: ("complex", lambda value: [repr(value.real), repr(value.imag)]),
    UUID: ("uuid", str),
    type(Path()): ("path", str),
    PurePosixPath: ("pure path", str),
    PureWindowsPath: ("windows path", str),
    **{kind: (kind.__name__, str) for kind in _ADDRESSES},
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "bytes": lambda text: base64.b64decode(text),
    "bytearray": lambda text: bytearray(base64.b64decode(text)),
    "datetime": _read_datetime,
    "date": date.fromisoformat,
    "time": _read_time,
    "timedelta": lambda content: timedelta(*content),
    "timezone": lambda content: timezone(timedelta(*content)),
    "zone": ZoneInfo,
    "decimal": Decimal,
    "fraction": Fraction,
    "complex": lambda content: complex(float(content[0]), float(content[1])),
    "uuid": UUID,
    "path": Path,
    "pure path": PurePosixPath,
    "windows path": PureWindowsPath,
    **{kind.__name__: kind for kind in _ADDRESSES},
}
_OF_ITEMS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
_OF_PAIRS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": lambda pairs: Counter(dict(pairs)),
}


def _decode(value: Any, allowed: Allowed) -> Any:
    if isinstance(value, list):
        return [_decode(item, allowed) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: _decode(item, allowed) for key, item in value.items()}
    name, content = value[TAG]
    if name in _READERS:
        return _READERS[name](content)
    if name in _OF_ITEMS:
        return _OF_ITEMS[name](_decode(item, allowed) for item in content)
    if name == "bounded deque":
        return deque(_decode(content[1], allowed), content[0])
    if name in _OF_PAIRS:
        return _OF_PAIRS[name](_decode_pairs(content, allowed))
    if name == "defaultdict":
        return defaultdict(_FACTORIES[content[0]], _decode_pairs(content[1], allowed))
    return _decode_object(name, content, allowed)


def _decode_pairs(content: list[Any], allowed: Allowed) -> list[tuple[Any, Any]]:
    return [(_decode(key, allowed), _decode(item, allowed)) for key, item in content]


def _decode_object(name: str, content: list[Any], allowed: Allowed) -> Any:
    module, qualname, kept = content
    cls = _class_at(module, qualname) if allowed(module) else None
    # A class may have moved within the package.
    if cls is None or not allowed(cls.__module__):
        raise StateValueError(f"state holds a {module}.{qualname}, which this plugin has not")
    if name == "enum" and issubclass(cls, Enum) and kept in cls._member_map_:
        return cls._member_map_[kept]
    if name in ("dataclass", "object") and _is_plain(cls) and not issubclass(cls, Enum):
        return _build(cls, {key: _decode(item, allowed) for key, item in kept.items()})
    if name == "namedtuple" and _is_namedtuple(cls):
        fields = cls._field_defaults | {k: _decode(item, allowed) for k, item in kept.items()}
        if fields.keys() >= set(cls._fields):
            return tuple.__new__(cls, (fields[field] for field in cls._fields))
    raise StateValueError(f"state holds a {module}.{qualname} that is not what the class is now")


def _build(cls: Any, values: dict[str, Any]) -> Any:
    """Build an object without running its class' code, so that what was kept is what comes back."""
    built = object.__new__(cls)
    slots = _slots(cls)
    attributes = _instance_dict(built)
    for name, value in (values | _defaults(cls, values)).items():
        if name in slots:
            slots[name].__set__(built, value)
        elif attributes is not None:
            attributes[name] = value
    return built


def _defaults(cls: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What the fields of a dataclass begin with, for those that have no value."""
    found = {}
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        factory = field.default_factory
        if field.name in values:
            continue
        if any(factory is one for one in (*_FACTORIES.values(), *_COLLECTIONS)):
            found[field.name] = factory()  # type: ignore[operator]
        elif field.default is not dataclasses.MISSING and not isinstance(field.default, property):
            found[field.name] = field.default
    return found


def _attributes(value: Any) -> dict[str, Any]:
    """What an object holds in its ``__dict__`` and its slots, without what it computes anew."""
    cls = type(value)
    found = {
        name: held
        for name, held in (_instance_dict(value) or {}).items()
        if not isinstance(inspect.getattr_static(cls, name, None), cached_property)
    }
    for name, slot in _slots(cls).items():
        try:
            found[name] = slot.__get__(value)
        except AttributeError:
            continue  # Never set.
    return found


def _instance_dict(value: Any) -> dict[str, Any] | None:
    try:
        held: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return held


def _slots(cls: type) -> dict[str, MemberDescriptorType]:
    return {
        name: slot
        for base in reversed(cls.__mro__)
        for name, slot in vars(base).items()
        if isinstance(slot, MemberDescriptorType)
    }


def _is_plain(cls: type) -> bool:
    """Whether all that an object of a class holds is in its slots and its ``__dict__``."""
    makers = (vars(base).get("__new__") for base in cls.__mro__)
    return next(m for m in makers if isinstance(m, BuiltinFunctionType)) is object.__new__


def _is_namedtuple(cls: Any) -> bool:
    fields = getattr(cls, "_fields", None)
    return issubclass(cls, tuple) and isinstance(fields, tuple) and hasattr(cls, "_field_defaults")


def _class_at(module: str, name: str) -> Any:
    """Find a class by its place, without running code of a module or a metaclass."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None
    return found if isinstance(found, type) else None
