"""The counting of the fault suite and of the soak finds what it is there to find."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from faults.ballots import CastVote, count_votes
from faults.cluster import Cluster
from faults.driver import Driver
from faults.platform import EffectCounter, effect
from faults.scenarios import Result, Scenario, nothing_more
from faults.soak.count import gaps
from faults.table import Row, write_section
from faults.units import Action, Outcome
from faults.world import World
from sandbox.loomio.state import LoomioTwin

CAST = [CastVote(0, 0.0, 1.0), CastVote(1, 2.0, 3.0), CastVote(2, 4.0, 5.0), CastVote(3, 6.0)]


@pytest.mark.parametrize(
    ("counted", "closed", "missing", "doubled", "disordered"),
    [
        ([0, 1, 2], 9.0, [], [], []),
        ([0, 2], 9.0, [1], [], []),
        ([0, 1, 1, 2], 9.0, [], [1], []),
        ([1, 0, 2], 9.0, [], [], [(1, 0)]),
        # Accepted after the close was asked, and never answered: both may count or not.
        ([0, 1], 4.5, [], [], []),
        ([0, 1, 2, 3], 4.5, [], [], []),
        ([], 9.0, [0, 1, 2], [], []),
    ],
)
def test_votes(
    counted: list[int],
    closed: float,
    missing: list[int],
    doubled: list[int],
    disordered: list[tuple[int, int]],
) -> None:
    count = count_votes(CAST, counted, closed)
    assert (count.missing, count.doubled, count.disordered) == (missing, doubled, disordered)


def test_votes_sent_at_the_same_time_have_no_order() -> None:
    together = [CastVote(0, 0.0, 2.0), CastVote(1, 1.0, 3.0)]
    assert count_votes(together, [1, 0], 9.0).disordered == []


def _item(position: int, community: str = "c", **changed: object) -> dict[str, Any]:
    item = {"id": f"{community}{position}", "community": community, "position": position}
    return {**item, "cursor": str(position), **changed}


def test_a_whole_feed() -> None:
    assert gaps([_item(1), _item(2), _item(1, "d", cursor="3")], {"c1", "c2", "d1"}) == []


@pytest.mark.parametrize(
    ("items", "taken", "found"),
    [
        ([_item(1), _item(3)], {"c1", "c3"}, "missing [2]"),
        ([_item(1), _item(1, cursor="2")], {"c1"}, "c1: 2 times"),
        ([_item(2, cursor="1"), _item(1, cursor="2")], {"c1", "c2"}, "not 1 to 2"),
        ([_item(1), _item(1, "d")], {"c1", "d1"}, "cursor 1: 2 times"),
        ([_item(1)], set(), "c1: in the feed, never taken"),
        ([], {"c1"}, "c1: taken by the driver, not in the feed"),
    ],
)
def test_a_feed_with_a_fault(items: list[dict[str, Any]], taken: set[str], found: str) -> None:
    assert found in "\n".join(gaps(items, taken))


@pytest.mark.parametrize("answer", ["500", "410", "late", "cut"])
def test_what_the_driver_did_not_take_is_lost(tmp_path: Path, answer: str) -> None:
    driver = Driver()
    cluster = Cluster(tmp_path, "sqlite://", driver.url)
    unit = Action(World(cluster, driver, LoomioTwin(), tmp_path / "platform", random.Random(1)))

    def send(delivery_id: str) -> None:
        body = {"event_type": "acted", "data": {"id": unit.name}}
        with suppress(httpx.RemoteProtocolError):
            httpx.post(f"{driver.url}/events", json=body, headers={"webhook-id": delivery_id})

    driver.answer = answer
    send("msg_1")
    assert unit.outcome().lost
    driver.answer = "ok"
    send("msg_1")
    assert unit.outcome() == Outcome(unit.name)
    send("msg_1")
    assert unit.outcome() == Outcome(unit.name, again=1)
    send("msg_2")
    assert unit.outcome().doubled
    driver.down()


@pytest.mark.parametrize(
    "bad", [{"lost": True}, {"doubled": True}, {"wrong": ["500"]}, {"again": 1}, {"unknown": True}]
)
def test_a_row_fails_by_each_of_its_counts(bad: dict[str, Any]) -> None:
    scenario = Scenario("a fault", nothing_more, [], unknown=False)
    assert not Row(scenario, Result([Outcome("u")])).failures
    assert Row(scenario, Result([Outcome("u"), Outcome("v", **bad)])).failures


def test_a_control_fails_unless_all_of_it_is_found() -> None:
    control = Scenario("a control", nothing_more, [], finds="lost")
    assert not Row(control, Result([Outcome("u", lost=True)])).failures
    assert Row(control, Result([Outcome("u", lost=True), Outcome("v")])).failures


def test_a_batch_that_does_not_settle_fails() -> None:
    scenario = Scenario("a fault", nothing_more, [])
    assert Row(scenario, Result([Outcome("u")], settled=False)).failures


def test_effects_are_counted_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "platform"
    counter, config = EffectCounter(path), {"platform": str(path)}
    assert counter.count("a") == 0
    effect(config, "a")
    effect(config, "poll 7:1")
    assert (counter.count("a"), counter.count("poll 7")) == (1, 1)
    with path.open("a") as half:
        half.write("a")
    assert counter.count("a") == 1
    effect(config, "")
    assert counter.count("a") == 2


def test_a_section_is_replaced_where_it_stands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x: written by make faults -->\nold\n<!-- end of x -->\nafter\n")
    write_section("x", ["new"], page)
    write_section("x", ["newer"], page)
    assert page.read_text().splitlines()[2] == "newer"
    assert page.read_text().endswith("after\n")
    with pytest.raises(ValueError, match="no section y"):
        write_section("y", [], page)
