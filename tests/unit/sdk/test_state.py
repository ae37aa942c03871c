"""State keeps the standard library's data and a plugin's objects; data from outside builds none."""

from __future__ import annotations

import http
import io
import math
import re
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from fractions import Fraction
from functools import cached_property
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sdk.state import State
from engine.sdk.values import StateValueError, decode, encode


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


class Choice(IntEnum):
    YES = 1
    ALSO_YES = 1


class Right(Flag):
    READ = 1
    WRITE = 2


class Vote(NamedTuple):
    voter: str
    weight: Decimal = Decimal(1)


Pair = namedtuple("Pair", "a b")


class Member:
    """A plain object, with code that must not run when it is read back."""

    ran: list[str] = []

    def __new__(cls, *args: Any) -> Any:
        cls.ran.append("new")
        return super().__new__(cls)

    def __init__(self, name: str, votes: Any = None) -> None:
        self.ran.append("init")
        self.name = name
        self.votes = votes

    def __setattr__(self, name: str, value: Any) -> None:
        self.ran.append("setattr")
        super().__setattr__(name, value)

    def __setstate__(self, state: Any) -> None:
        self.ran.append("setstate")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(self.name)


class Slotted:
    __slots__ = ("__secret", "never_set", "shown")

    def __init__(self, shown: Any) -> None:
        self.shown = shown
        self.__secret = [shown]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and (
            (self.shown, self.__secret) == (other.shown, other.__secret)
        )

    __hash__ = None  # type: ignore[assignment]


class Both(Slotted):
    """Has slots of its base and a ``__dict__``."""

    def __init__(self, shown: Any, more: Any) -> None:
        super().__init__(shown)
        self.more = more

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, Both) and self.more == other.more

    __hash__ = None


class Outer:
    @dataclass(frozen=True, slots=True)
    class Inner:
        n: int


@dataclass
class Computed:
    """Keeps more than its fields."""

    given: InitVar[int]
    double: int = field(init=False)

    def __post_init__(self, given: int) -> None:
        self.double = 2 * given
        self.kept = given


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
    Choice.YES, Choice.ALSO_YES, Right.READ, Outer.Inner(3), Computed(2),
    Vote("ada"), Vote("bob", Decimal("0.5")), Pair([1], {"$": "x"}), {Vote("ada"): Pair(1, 2)},
    Member("ada"), Member("bob", {"$": ["object", [__name__, "Member", {}]]}),
    Slotted({"a"}), Both(1, Slotted(2)), {Outer.Inner(1), Outer.Inner(2)},
    Counter("hello"), Counter({("a", 1): -2}), Counter({"$": 1}), deque([1, 2], maxlen=3),
    defaultdict(int, {"a": 1}), defaultdict(list, {1: [2]}), defaultdict(None, {"$": 3}),
    defaultdict(str), defaultdict(dict), defaultdict(set), defaultdict(float), defaultdict(bool),
    Path("/a/../b"), Path(), PurePath("a/b"), PureWindowsPath("C:/x"), {Path("x"): 1},
    ip_address("10.0.0.1"), ip_address("fe80::1%eth0"), ip_network("10.0.0.0/8"),
    ip_network("2001:db8::/32"), ip_interface("10.0.0.1/8"), ip_interface("::1/128"),
    time(12, tzinfo=ZoneInfo("Europe/Berlin")), time(2, 30, fold=1, tzinfo=UTC),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_round_trip(value: Any) -> None:
    back = decode(encode(value), allowed)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        assert (back.utcoffset(), back.fold) == (value.utcoffset(), value.fold)
    if isinstance(value, time):
        assert (back.tzinfo, back.fold) == (value.tzinfo, value.fold)
    if isinstance(value, defaultdict):
        assert back.default_factory is value.default_factory
    if isinstance(value, deque):
        assert back.maxlen == value.maxlen
    # Read and kept again it is the same text: a poll that changes nothing stores nothing.
    assert encode(back, allowed) == encode(value, allowed)


def test_not_a_number() -> None:
    assert math.isnan(decode(encode(float("nan")), allowed))


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["$", "a", "dataclass"]), inner)
        | st.sampled_from(["dataclass", "object", "namedtuple", "enum"]).map(
            lambda kind: {"$": [kind, [__name__, "Trap", {}]]}
        )
        | st.sampled_from([["path", "/x"], ["Counter", []], ["defaultdict", ["int", []]]]).map(
            lambda tagged: {"$": tagged}
        )
    ),
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.decimals(allow_nan=False) | st.fractions() | st.uuids() | st.dates()
    | st.times() | st.datetimes(timezones=st.none() | st.timezones()) | st.timedeltas()
    | st.ip_addresses() | st.ip_addresses(v=4).map(ip_network) | st.ip_addresses().map(ip_interface)
    | st.text("ab/.", min_size=1).map(Path) | st.sampled_from([*Colour, *Choice, *Right])
)  # fmt: skip
keys = st.text(max_size=5) | st.just("$") | st.integers() | st.booleans() | st.text().map(Vote)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.dictionaries(keys, inner).map(OrderedDict)
        | st.dictionaries(keys, inner).map(lambda d: defaultdict(list, d))
        | st.dictionaries(keys, st.integers()).map(Counter)
        | st.frozensets(scalars)
        | st.builds(deque, st.lists(inner), st.none() | st.integers(0, 5))
        | st.builds(Vote, st.text(), inner)
        | st.builds(Pair, inner, inner)
        | st.builds(Member, st.text(), inner)
        | st.builds(Slotted, inner)
        | st.builds(Both, inner, inner)
        | st.builds(Ballot, inner, inner, st.lists(inner))
    ),
    max_leaves=12,
)


@given(json_data)
def test_data_from_outside_builds_nothing(value: Any) -> None:
    for held in (value, {"$": value}, [value]):
        assert decode(encode(held), allowed) == held
    inside = decode(encode(Member("x", value)), allowed).votes
    assert inside == value
    for counted in (defaultdict(list, {"$": value}), OrderedDict({"$": value})):
        assert decode(encode(counted), allowed) == counted


@given(values)
def test_what_can_be_kept_comes_back(value: Any) -> None:
    text = encode(value, allowed)
    back = decode(text, allowed)
    assert back == value
    assert type(back) is type(value)
    assert encode(back, allowed) == text


def test_decoding_runs_no_code_of_a_class() -> None:
    trap = Trap()
    trap.fired.clear()
    assert decode(encode(trap), allowed).fired == []
    text = encode(Member("ada"))
    Member.ran.clear()
    assert decode(text, allowed).name == "ada"
    assert Member.ran == []


def test_a_class_that_has_changed_since(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return 1

    def changed(name: str, old: Any, new: Any) -> Any:
        new.__module__, new.__qualname__ = __name__, name
        monkeypatch.setitem(globals(), name, new)
        return decode(old, allowed)

    old = encode(Ballot("ada", datetime(2027, 1, 1)))
    more: list[Any] = [
        ("voter", str),
        ("weight", int, field(default=1)),
        ("notes", list, field(default_factory=list)),
        ("code", int, field(default_factory=make)),
    ]
    ballot = changed("Ballot", old, make_dataclass("Ballot", more))
    assert (ballot.voter, ballot.weight, ballot.notes) == ("ada", 1, [])
    assert not made
    old = encode(Vote("ada"))
    vote = changed("Vote", old, namedtuple("Vote", "weight voter more", defaults=[7]))
    assert vote == (1, "ada", 7)
    with pytest.raises(StateValueError, match=r"Vote that is not what the class is now"):
        changed("Vote", old, namedtuple("Vote", "voter needed"))
    with pytest.raises(StateValueError, match=r"Colour that is not what the class is now"):
        changed("Colour", encode(Colour.RED), Enum("Colour", "BLUE"))
    with pytest.raises(StateValueError, match=r"Slotted that is not what the class is now"):
        changed("Slotted", encode(Slotted(1)), type("Slotted", (Exception,), {}))


def test_a_class_that_has_moved_within_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    text = encode(Colour.RED)
    monkeypatch.setattr(Colour, "__module__", f"{__name__}.elsewhere")
    assert decode(text, lambda module: module.startswith(__name__)) is Colour.RED
    with pytest.raises(StateValueError, match="which this plugin has not"):
        decode(text, allowed)


def test_classes_of_other_modules_are_not_built() -> None:
    with pytest.raises(StateValueError, match="which this plugin has not"):
        decode(encode(Colour.RED), lambda module: False)


def made_in_a_function() -> list[Any]:
    class Local(Enum):
        ONE = 1

    @dataclass
    class LocalData:
        n: int

    class LocalObject:
        pass

    class LocalTuple(NamedTuple):
        n: int

    return [Local.ONE, LocalData(1), LocalObject(), LocalTuple(1)]


class Failure(Exception):
    pass


class Names(dict[str, Any]):
    pass


class Vague(tzinfo):
    def utcoffset(self, moment: datetime | None) -> None:
        return None

    def dst(self, moment: datetime | None) -> None:
        return None

    def tzname(self, moment: datetime | None) -> None:
        return None


class Marked(Pair):
    """A namedtuple with a ``__dict__``."""


def marked() -> Marked:
    pair = Marked(1, 2)
    pair.mark = 3  # type: ignore[attr-defined]
    return pair


def strange() -> Member:
    member = Member("ada")
    vars(member)[7] = 1  # type: ignore[index]
    return member


def keyless_zone() -> ZoneInfo:
    found = Path("/usr/share/zoneinfo/Europe/Berlin")
    if found.is_file():
        return ZoneInfo.from_file(io.BytesIO(found.read_bytes()))
    pytest.skip("this machine has no time zones of its own")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "builtins.object"),
        (lambda: None, "builtins.function"),
        (open, "builtins.builtin_function_or_method"),
        (Member, "builtins.type"),
        ({"a": [object()]}, "builtins.object, at /a/0"),
        (http.HTTPStatus.OK, "http.HTTPStatus, at /: it keeps objects of the plugin's own package"),
        ({"a": http.HTTPStatus.OK}, "http.HTTPStatus, at /a"),
        (re.compile("x"), "re.Pattern"),
        (re.I, "re.RegexFlag"),
        (Fraction, "abc.ABCMeta"),
        (Member("x", threading.Lock()), "_thread.lock, at /votes"),
        *((value, "Local") for value in made_in_a_function()),
        (Right.READ | Right.WRITE, "only members that have a name"),
        (Right(0), "only members that have a name"),
        (Failure("x"), "is built upon one that keeps data of its own"),
        (Names(), "is built upon one that keeps data of its own"),
        (marked(), "attributes beside its fields"),
        (strange(), "a name that is no text"),
        (defaultdict(lambda: 1), "its default_factory is none of int, float,"),
        (defaultdict(Member.mro), "its default_factory is none of int, float,"),
        (time(12, tzinfo=Vague()), "has no offset"),
        (10**5000, "integer string conversion"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_cannot_be_kept_is_refused_when_it_is_set(value: Any, words: str) -> None:
    state = State({}, allowed)
    with pytest.raises(StateValueError, match=re.escape(words)) as caught:
        state.set("key", value)
    assert "state cannot keep" in caught.value.detail
    assert "key" not in state
    with pytest.raises(StateValueError):
        encode(value)


def test_objects_of_other_plugins_are_refused_when_they_are_set() -> None:
    for value in (Colour.RED, Member("x"), Vote("x"), Outer.Inner(1)):
        with pytest.raises(StateValueError, match="of the plugin's own package only"):
            State({}, lambda module: module == "another").set("key", value)


def test_a_zone_without_a_key() -> None:
    with pytest.raises(StateValueError, match="no key"):
        encode(keyless_zone())


def test_what_was_put_into_a_kept_object_is_refused_when_it_is_stored() -> None:
    state = State({"member": encode(Member("ada"))}, allowed)
    state.get("member").votes = http.HTTPStatus.OK
    with pytest.raises(StateValueError, match=r"http.HTTPStatus, at /votes"):
        state.changes()


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


def test_increments_are_reported_as_increments() -> None:
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


def test_a_value_is_not_too_large_also_when_it_grew_in_place() -> None:
    state = State({"list": "[1]"}, lambda name: False)
    with pytest.raises(StateValueError, match="allowed are 1000000"):
        state.set("text", "a" * 1_000_000)
    state.get("list").extend(["a" * 500_000] * 2)
    with pytest.raises(StateValueError, match="the value of 'list' is 10000"):
        state.changes()
    large = State({"text": f'"{"a" * 2_000_000}"'}, lambda name: False)
    assert len(large.get("text")) == 2_000_000
    assert large.changes().values == {}
