"""State keeps the standard library's data types; data from outside builds no objects."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sdk.state import State, StateValueError, decode, encode


class Colour(Enum):
    RED = "red"


@dataclass
class Ballot:
    voter: str
    cast: datetime
    choices: list[Colour] = field(default_factory=list)
    built: bool = field(default=False, init=False)


@dataclass
class Trap:
    fired: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fired.append("fired")


def allowed(module: str) -> bool:
    return module == __name__


VALUES: list[Any] = [
    None, True, 0, -(2**80), 1.5, "text ☂", b"\x00\xff", bytearray(b"x"),
    [1, [2]], (1, (2,)), {1, 2}, frozenset({"a"}), {"a": {"b": 1}}, {1: "a", (2, 3): "b"},
    {"$": "mine"}, {"$": ["decimal", "1"]}, deque([1, 2]), OrderedDict([("b", 1), ("a", 2)]),
    datetime(2027, 1, 1, 12), datetime(2027, 1, 1, tzinfo=UTC),
    datetime(2027, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(2027, 10, 31, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    date(2027, 1, 1), time(12, 30), timedelta(days=-1, microseconds=7), UTC,
    Decimal("1.10"), Fraction(1, 3), 1 + 2j, UUID(int=5), float("inf"), ZoneInfo("Asia/Tokyo"),
    Colour.RED, Ballot("ada", datetime(2027, 1, 1), [Colour.RED]),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_round_trip(value: Any) -> None:
    back = decode(encode(value), allowed)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        assert (back.utcoffset(), back.fold) == (value.utcoffset(), value.fold)


def test_not_a_number() -> None:
    assert math.isnan(decode(encode(float("nan")), allowed))


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["$", "a", "dataclass"]), inner)
        | st.just({"$": ["dataclass", [__name__, "Trap", {}]]})
    ),
)


@given(json_data)
def test_data_from_outside_builds_nothing(value: Any) -> None:
    assert decode(encode(value), allowed) == value


def test_decoding_runs_no_code_of_a_class() -> None:
    trap = Trap()
    trap.fired.clear()
    assert decode(encode(trap), allowed).fired == []


def test_classes_of_other_modules_are_not_built() -> None:
    with pytest.raises(StateValueError, match="which this plugin has not"):
        decode(encode(Colour.RED), lambda module: False)


@pytest.mark.parametrize("value", [object(), lambda: None, open, {"a": [object()]}])
def test_what_cannot_be_kept(value: Any) -> None:
    with pytest.raises(StateValueError, match="cannot keep a"):
        encode(value)


def test_too_deep() -> None:
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    with pytest.raises(StateValueError, match="levels"):
        encode(value)


def test_state_tells_its_changes() -> None:
    state = State({"a": "1", "b": encode([1]), "c": "3", "d": "4"}, allowed)
    assert state.get("a") == 1
    assert state.get("nothing", 7) == 7
    state.get("b").append(2)
    state.set("a", {1})
    state.remove("c")
    state.remove("never there")
    state.set("d", 4)
    assert state.changes().values == {"a": encode({1}), "b": "[1,2]", "c": None}
    assert "c" not in state
    assert state.keys() == ["a", "b", "d"]
    assert state.get("c", "gone") == "gone"


@pytest.mark.parametrize("key", ["", "x" * 256, 7, "a\x00"])
def test_bad_keys(key: Any) -> None:
    with pytest.raises(ValueError, match="a key of state"):
        State({}, allowed).set(key, 1)


def test_increments_are_told_as_increments() -> None:
    state = State({"n": "5", "m": "1", "text": '"x"'}, lambda _: False)
    assert state.get("n") == 5
    assert state.increment("n") == 6
    assert state.increment("n", 4) == 10
    assert state.increment("new", 0.5) == 0.5
    assert state.get("n") == 10
    changes = state.changes()
    assert (changes.values, changes.increments) == ({}, {"n": 5, "new": 0.5})
    state.increment("m")
    state.set("m", 7)
    assert state.increment("m") == 8
    assert state.changes().values == {"m": "8"}
    assert "m" not in state.changes().increments
    refused: list[tuple[str, Any]] = [("text", 1), ("n", "1"), ("n", True), ("n", float("nan"))]
    for key, by in refused:
        with pytest.raises(StateValueError):
            state.increment(key, by)
    with pytest.raises(ValueError, match="1 to 255"):
        state.increment("")


def test_compare_and_set_tells_what_it_expects() -> None:
    state = State({"holder": '"alice"'}, lambda _: False)
    assert not state.compare_and_set("holder", None, "bob")
    assert state.compare_and_set("holder", "alice", "bob")
    assert state.compare_and_set("holder", "bob", "carol")
    assert state.compare_and_set("free", None, 1)
    assert not state.changes().increments
    assert state.changes().values == {"holder": '"carol"', "free": "1"}
    assert state.changes().expected == {"holder": '"alice"', "free": None}
    assert state.compare_and_set("holder", "carol", None)
    assert state.changes().values["holder"] is None
