"""Parameters, schemas, defaults, secrets, plain JSON."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy
from datetime import datetime
from enum import Enum
from typing import Any

import pytest

from engine.plugins import Parameters, VotingStandard
from engine.sdk.arguments import arguments_for
from engine.sdk.parameters import (
    NotJsonError,
    check_schema,
    compile_schema,
    fill_defaults,
    json_safe,
    secret_properties,
    validate,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "count": {"type": "integer", "default": 3},
        "deep": {"type": "object", "properties": {"x": {"default": 1}}},
        "many": {"type": "array", "items": {"properties": {"y": {"default": []}}}},
        "api_key": {"type": "string", "maxLength": 3},
    },
    "required": ["title"],
    "additionalProperties": False,
}


def test_items_and_attributes() -> None:
    parameters = Parameters({"title": "t"}, SCHEMA)
    assert parameters["title"] == parameters.title == "t"
    assert parameters.count == 3
    assert parameters.deep is None
    with pytest.raises(KeyError):
        parameters["deep"]
    with pytest.raises(AttributeError, match="there are: api_key, count"):
        _ = parameters.colour
    assert parameters == {"title": "t", "count": 3}
    assert "t'" not in repr(parameters)
    with pytest.raises(ValueError, match="/title: is required"):
        Parameters({}, SCHEMA)


def test_defaults_go_deep_and_change_nothing_that_was_given() -> None:
    given = {"title": "t", "deep": {}, "many": [{}, {"y": 1}]}
    filled = fill_defaults(given, SCHEMA)
    assert filled == {
        "title": "t",
        "deep": {"x": 1},
        "many": [{"y": []}, {"y": 1}],
        "count": 3,
    }
    assert given == {"title": "t", "deep": {}, "many": [{}, {"y": 1}]}
    filled["many"][0]["y"].append(1)
    assert fill_defaults({"title": "t", "many": [{}]}, SCHEMA)["many"][0]["y"] == []


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ({}, "/title", "required"),
        ({"title": 1}, "/title", "not of type"),
        ({"title": "t", "colour/": 1}, "/colour~1", "unknown; allowed are: api_key"),
        ({"title": "t", "deep": []}, "/deep", "not of type"),
        ({"title": "t", "api_key": "secret"}, "/api_key", "does not fit maxLength: 3"),
        ([], "", "not of type"),
    ],
)
def test_violations(value: Any, path: str, words: str) -> None:
    violation = validate(value, SCHEMA)[0]
    assert violation.path == path
    assert words in violation.message
    assert "secret" not in violation.message


def test_long_values_are_not_echoed() -> None:
    violation = validate({"title": ["x" * 500]}, SCHEMA)[0]
    assert "xxx" not in violation.message


def test_schemas_are_compiled_once_and_checked() -> None:
    assert compile_schema(SCHEMA) is compile_schema(dict(SCHEMA))
    with pytest.raises(ValueError, match="/type"):
        check_schema({"type": "nothing"})
    with pytest.raises(ValueError, match="JSON cannot"):
        check_schema({"default": datetime(2027, 1, 1)})


def test_formats_are_checked() -> None:
    schema = {"properties": {"closing_at": {"type": "string", "format": "date"}}}
    assert validate({"closing_at": "2027-02-30"}, schema)
    assert not validate({"closing_at": "2027-02-28"}, schema)


def test_a_schema_never_makes_the_engine_fetch_another() -> None:
    with pytest.raises(Exception, match=r"(?i)unresolvable"):
        validate({}, {"$ref": "http://127.0.0.1:9/schema"})


def test_secrets() -> None:
    properties = {
        "api_key": {}, "webhook_secret": {}, "bot_token": {}, "password": {}, "title": {},
        "marked": {"writeOnly": True}, "formatted": {"format": "password"},
        "access_token": {"writeOnly": False},
    }  # fmt: skip
    assert secret_properties({"properties": properties}) == {
        "api_key", "webhook_secret", "bot_token", "password", "marked", "formatted",
    }  # fmt: skip


class Size(Enum):
    BIG = "big"


def test_json_safe() -> None:
    plain = json_safe({"a": (1, Size.BIG), "p": Parameters({"x": 1}), "n": None})
    assert plain == {"a": [1, "big"], "p": {"x": 1}, "n": None}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"when": datetime(2027, 1, 1)}, "datetime at /when"),
        ([1, {2}], "set at /1"),
        ({1: 2}, "key of type int"),
        (float("nan"), "float nan at /"),
        ({"a": "\ud800"}, "surrogate"),
    ],
)
def test_not_json(value: Any, words: str) -> None:
    with pytest.raises(NotJsonError, match=words):
        json_safe(value)


def test_cycles_end() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(NotJsonError, match="levels"):
        json_safe(cycle)


def test_they_are_a_dictionary() -> None:
    parameters = Parameters({"title": "t", "count": 1}, SCHEMA)
    assert json.loads(json.dumps(parameters)) == dict(parameters)
    parameters["title"] = "other"
    assert parameters.title == "other"
    assert parameters.pop("title") == "other"
    assert "title" not in parameters
    assert deepcopy(parameters) == pickle.loads(pickle.dumps(parameters)) == parameters
    assert pickle.loads(pickle.dumps(parameters)).title is None


def test_parameters_may_be_called_like_methods() -> None:
    schema: dict[str, Any] = {"properties": {"update": {}, "copy": {}}}
    called: Any = Parameters({"update": "daily"}, schema)
    assert (called.update, called.copy) == ("daily", None)
    parameters = Parameters({})
    parameters.update(title="t")
    assert parameters.copy() == {"title": "t"}


def test_argument_styles() -> None:
    schema: dict[str, Any] = {"properties": {"value": {}, "big-one": {}}}
    parameters = Parameters({"value": 1, "big-one": 2}, schema)

    def whole(parameters: Any) -> Any:
        return parameters

    def other_name(given: Any) -> Any:
        return given

    def one(value: Any) -> Any:
        return value

    def named(value: Any, big_one: Any = None) -> Any:
        return [value, big_one]

    def rest(**anything: Any) -> Any:
        return anything

    def whole_and_more(parameters: Any, dry: bool = False) -> Any:
        return parameters, dry

    def nothing() -> Any:
        return "nothing"

    expected: list[tuple[Any, Any]] = [
        (whole, parameters),
        (other_name, parameters),
        (one, 1),
        (named, [1, 2]),
        (whole_and_more, (parameters, False)),
        (rest, {"value": 1, "big_one": 2}),
        (nothing, "nothing"),
    ]
    for method, result in expected:
        args, kwargs = arguments_for(method, parameters, schema)
        assert method(*args, **kwargs) == result


def test_voting_standard() -> None:
    schema = VotingStandard.create_input_schema(
        exclude=["details"], extra_properties={"x": {"type": "integer"}}, required=["title", "no"]
    )
    assert set(schema["properties"]) == {"title", "options", "closing_at", "x"}
    assert schema["required"] == ["title"]
    assert "details" in VotingStandard.INPUT_PARAMETERS
    assert set(VotingStandard.create_input_schema(include=["title"])["properties"]) == {"title"}


def test_alternatives_are_named_and_never_echo_a_secret() -> None:
    one = {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert [v.message for v in validate({}, one)] == ["needs exactly one of a or b"]
    some = {"anyOf": [{"required": ["a"]}, {"required": ["b", "c"]}]}
    assert [v.message for v in validate({}, some)] == ["needs at least one of a or b, c"]
    moment = {"anyOf": [{"format": "date-time"}, {"format": "date"}]}
    assert [v.message for v in validate("soon", moment)] == ["must be date-time or date"]
    secret = {"properties": {"api_key": {"type": "string"}}, "not": {"required": ["api_key"]}}
    (violation,) = validate({"api_key": "s3cr3t"}, secret)
    assert "s3cr3t" not in violation.message


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        ("iri", "https://example.org/gemüse?käse=1#ö", True),
        ("iri", "https://例え.jp/", True),
        ("iri", "gemüse", False),
        ("iri", "https://example.org/a b", False),
        ("iri-reference", "gemüse/käse", True),
        ("iri-reference", "a\\b", False),
        ("uri", "https://example.org/gemüse", False),
        ("email", "nobody", False),
        ("date-time", "2026-11-27", False),
        ("hostname", "a..b", False),
        ("duration", "a day", False),
        ("color", "nothing", True),
    ],
)
def test_each_format_is_checked(kind: str, value: str, fits: bool) -> None:
    assert (not validate(value, {"type": "string", "format": kind})) == fits
