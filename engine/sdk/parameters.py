"""Parameters: JSON documents, their schemas, defaults and checks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from enum import Enum
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote

import jsonschema
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from referencing import Registry as SchemaRegistry
from rfc3986_validator import validate_rfc3986

from engine.errors import PluginCodeError, Violation

MOST_LEVELS = 100
# Values in one document: a list that holds another one twice, and so on, has 2^60 of them.
MOST_VALUES = 500_000
LONGEST_MESSAGE = 300

_SECRET_NAMES = frozenset({"api_key", "access_token", "password"})
_SECRET_ENDINGS = ("_secret", "_token")


class NotJsonError(PluginCodeError):
    """A value that JSON cannot hold."""

    kind = "not_json"


# What a dictionary has and a parameter may be called: the parameter is meant.
_GIVE_WAY = frozenset({"clear", "copy", "fromkeys", "pop", "popitem", "setdefault", "update"})


class Parameters(dict[str, Any]):
    """Parameters of an action or a process: a dictionary whose items are attributes too.

    A property of the schema that was not sent is None as an attribute. Of the attributes ``keys``,
    ``items``, ``values`` and ``get`` only the methods can be read.

    Args:
        values: The values.
        schema: JSON Schema; values are checked against it and its defaults filled in.

    Raises:
        ValueError: The values do not fit the schema.
    """

    def __init__(
        self, values: Mapping[str, Any] | None = None, schema: Mapping[str, Any] | None = None
    ) -> None:
        filled = fill_defaults(dict(values or {}), schema or {})
        violations = validate(filled, schema) if schema else []
        if violations:
            raise ValueError("; ".join(f"{v.path or '/'}: {v.message}" for v in violations))
        super().__init__(filled)
        self._properties = frozenset((schema or {}).get("properties", {}))

    @classmethod
    def stored(cls, values: dict[str, Any], schema: Mapping[str, Any] | None) -> Parameters:
        """Make parameters of values that were checked when they were accepted.

        Args:
            values: The values, defaults filled in; they become the parameters' own.
            schema: JSON Schema, for the names of what was not sent.

        Returns:
            The parameters.
        """
        parameters = cls.__new__(cls)
        dict.__init__(parameters, values)
        parameters._properties = frozenset((schema or {}).get("properties", ()))
        return parameters

    def __getattribute__(self, name: str) -> Any:
        """Read a value as an attribute, also one that is called like a method."""
        if name in _GIVE_WAY and (name in self or name in self._properties):
            return self.get(name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        """Read a value as an attribute."""
        if name.startswith("__") or name == "_properties":
            raise AttributeError(name)
        if name in self:
            return self[name]
        if name in self._properties:
            return None
        known = ", ".join(sorted({*self, *self._properties})) or "none"
        raise AttributeError(f"no parameter {name!r}; there are: {known}")

    def __repr__(self) -> str:
        """Show the names; values may be secrets."""
        return f"Parameters({', '.join(self)})"


def _is_iri(rule: str, value: object) -> bool:
    """Whether a text is an IRI: one whose characters beyond ASCII, escaped, leave a URI.

    The mapping is that of RFC 3987, section 3.1. The library that jsonschema would ask takes longer
    to import than all the rest of a worker.
    """
    if not isinstance(value, str):
        return True
    escaped = re.sub(r"[^\x00-\x7f]+", lambda found: quote(found[0]), value)
    return bool(validate_rfc3986(escaped, rule=rule))


for _draft in (
    jsonschema.Draft7Validator,
    jsonschema.Draft201909Validator,
    jsonschema.Draft202012Validator,
):
    _draft.FORMAT_CHECKER.checks("iri")(partial(_is_iri, "URI"))
    _draft.FORMAT_CHECKER.checks("iri-reference")(partial(_is_iri, "URI_reference"))


@lru_cache(maxsize=1024)
def _compiled(text: str) -> Validator:
    schema = json.loads(text)
    cls = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    # An empty registry: a schema never makes the engine fetch another one.
    return cls(schema, registry=SchemaRegistry(), format_checker=cls.FORMAT_CHECKER)


def compile_schema(schema: Mapping[str, Any]) -> Validator:
    """Make a schema's validator; each schema is compiled once.

    Args:
        schema: JSON Schema, draft 2020-12 unless it names another.

    Returns:
        The validator.
    """
    return _compiled(json.dumps(schema, sort_keys=True))


def check_schema(schema: Mapping[str, Any]) -> None:
    """Check that a schema is one.

    Args:
        schema: The schema.

    Raises:
        ValueError: It is not; the message says where.
    """
    try:
        validator = compile_schema(schema)
        validator.check_schema(dict(schema))
    except SchemaError as error:
        raise ValueError(f"{_pointer(error.absolute_path) or '/'}: {error.message}") from None
    except TypeError as error:
        raise ValueError(f"it holds what JSON cannot: {error}") from None


def validate(value: Any, schema: Mapping[str, Any]) -> list[Violation]:
    """Check a document against a schema.

    Args:
        value: The document, plain JSON data.
        schema: The schema.

    Returns:
        What is wrong, in the document's order; no secret is echoed.
    """
    found: list[Violation] = []
    try:
        errors = sorted(
            compile_schema(schema).iter_errors(value), key=lambda e: [str(p) for p in e.path]
        )
    except RecursionError:
        return [Violation("", "is nested too deeply")]
    hidden = secret_properties(schema)
    for error in errors:
        found.extend(_violations(error, hidden))
    return found


def _violations(error: ValidationError, hidden: frozenset[str]) -> Iterator[Violation]:
    path = _pointer(error.absolute_path)
    expected: Any = error.validator_value
    instance: Any = error.instance
    if error.validator == "required":
        for name in expected:
            if name not in instance and repr(name) in error.message:
                yield Violation(f"{path}/{_escape(name)}", "is required")
        return
    schema: Any = error.schema
    if error.validator == "additionalProperties" and not schema.get("patternProperties"):
        allowed = sorted(schema.get("properties", {}))
        for name in instance:
            if name not in allowed:
                known = ", ".join(allowed) or "none"
                yield Violation(f"{path}/{_escape(name)}", f"is unknown; allowed are: {known}")
        return
    choice = _choice(expected) if error.validator in ("oneOf", "anyOf") else None
    whole = not error.absolute_path and isinstance(instance, dict)
    secret = bool(hidden) if whole else bool(hidden & {str(p) for p in [*error.absolute_path][:1]})
    shown = json.dumps(instance, default=str)
    if choice is not None:
        exactly = "exactly one" if error.validator == "oneOf" else "at least one"
        message = f"must be {choice}" if "format" in expected[0] else f"needs {exactly} of {choice}"
    elif secret or len(shown) > 80:
        # The message would echo the value.
        message = f"does not fit {error.validator}: {json.dumps(expected)}"
    else:
        message = error.message
    yield Violation(path, message[:LONGEST_MESSAGE])


def _choice(alternatives: list[Any]) -> str | None:
    """Name alternatives that only differ in the format, or in the one property that they want."""
    for key in ("format", "required"):
        if all(isinstance(one, dict) and set(one) == {key} for one in alternatives):
            names = [one[key] if key == "format" else ", ".join(one[key]) for one in alternatives]
            return " or ".join(names)
    return None


def _pointer(path: Any) -> str:
    return "".join(f"/{_escape(part)}" for part in path)


def _escape(part: Any) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")[:128]


def fill_defaults(values: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults that a schema names.

    Args:
        values: A document; it is not changed.
        schema: Its schema.

    Returns:
        A copy with defaults, also inside of objects and arrays that are there.
    """
    filled: dict[str, Any] = _filled(deepcopy(dict(values)), schema)
    return filled


def _filled(value: Any, schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, dict):
        for name, part in (schema.get("properties") or {}).items():
            if not isinstance(part, Mapping):
                continue
            if name not in value and "default" in part:
                value[name] = deepcopy(part["default"])
            if name in value:
                value[name] = _filled(value[name], part)
    elif isinstance(value, list):
        return [_filled(item, schema.get("items")) for item in value]
    return value


def secret_properties(schema: Mapping[str, Any]) -> frozenset[str]:
    """The properties of a config that are secrets.

    Args:
        schema: The config's schema.

    Returns:
        Names marked ``writeOnly`` or ``format: password``, and those that are secrets by their
        name unless marked ``writeOnly: false``.
    """
    found = set()
    for name, part in (schema.get("properties") or {}).items():
        marks = part if isinstance(part, Mapping) else {}
        by_name = name in _SECRET_NAMES or name.endswith(_SECRET_ENDINGS)
        if marks.get("writeOnly", by_name) or marks.get("format") == "password":
            found.add(name)
    return frozenset(found)


# Python refuses to write longer ones (sys.get_int_max_str_digits: 4300 digits).
MOST_BITS = 14_000


def json_safe(value: Any) -> Any:
    """Make plain JSON data of a value.

    Args:
        value: JSON data, in which tuples, Enum members and Parameters may stand.

    Returns:
        The same as dictionaries, lists, texts, numbers, booleans and None.

    Raises:
        NotJsonError: JSON cannot hold it; the message names the type and the place.
    """
    return _plain(value, "", 0, iter(range(MOST_VALUES)))


def _plain(value: Any, path: str, level: int, left: Iterator[int]) -> Any:
    place = path[:80] or "/"
    if next(left, None) is None:
        raise NotJsonError(f"more than {MOST_VALUES} values")
    if level > MOST_LEVELS:
        raise NotJsonError(f"more than {MOST_LEVELS} levels, at {place}")
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > MOST_BITS:
            raise NotJsonError(f"an integer of more than {MOST_BITS} bits, at {place}")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotJsonError(f"float {value} at {place}")
        return float(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotJsonError(f"str with half a surrogate pair at {place}") from None
        return str(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise NotJsonError(f"a key of type {type(key).__name__} at {place}")
        return {
            str(k): _plain(v, f"{path}/{_escape(k)}", level + 1, left) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}/{i}", level + 1, left) for i, item in enumerate(value)]
    raise NotJsonError(f"{type(value).__name__} at {place}")
