"""What is counted when the soak has settled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from faults.ballots import Ballot
from faults.processes import Process
from faults.soak.load import CommunityChange
from faults.soak.places import log_lines
from faults.units import Outcome, Unit
from faults.world import World

PAGE = 500


async def read_feed(world: World) -> list[dict[str, Any]]:
    """Read all that was to be delivered to drivers, page by page.

    Args:
        world: What surrounds the engine.

    Returns:
        The items, in the order of the feed.
    """
    items: list[dict[str, Any]] = []
    after = "0"
    while True:
        path = f"/api/internal/events?after={after}&limit={PAGE}"
        answer = await world.client.ask("GET", path)
        answer.raise_for_status()
        page = answer.json()
        if not page["events"]:
            return items
        items += page["events"]
        after = page["next_cursor"]


def gaps(items: Sequence[dict[str, Any]], taken: set[str]) -> list[str]:
    """Check the feed against itself and against what the driver has taken.

    Args:
        items: The feed.
        taken: The ids of the deliveries that the driver has answered.

    Returns:
        What is wrong with it, a line for each.
    """
    found: list[str] = []
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for item in items:
        positions[item["community"]].append(item["position"])
    for community, seen in sorted(positions.items()):
        if seen != list(range(1, len(seen) + 1)):
            missing = sorted(set(range(1, max(seen) + 1)) - set(seen))
            found.append(f"{community}: positions are not 1 to {len(seen)}; missing {missing[:10]}")
    ids = Counter(item["id"] for item in items)
    found += [f"{id_}: {count} times in the feed" for id_, count in ids.items() if count > 1]
    cursors = Counter(item["cursor"] for item in items)
    found += [f"cursor {cursor}: {count} times" for cursor, count in cursors.items() if count > 1]
    found += [
        f"{id_}: in the feed, never taken by the driver" for id_ in sorted(ids.keys() - taken)
    ]
    found += [f"{id_}: taken by the driver, not in the feed" for id_ in sorted(taken - ids.keys())]
    return found


def failures(world: World, units: Sequence[Unit], outcomes: Sequence[Outcome]) -> list[str]:
    """What must not be, with what a developer needs to find its cause.

    Args:
        world: What surrounds the engine.
        units: All units.
        outcomes: What became of each.

    Returns:
        Some lines for each unit that has lost or doubled something, or was reported wrongly.
    """
    lines: list[str] = []
    for unit, outcome in zip(units, outcomes, strict=True):
        bad = {
            "lost": outcome.lost,
            "doubled": outcome.doubled,
            "reported wrongly": bool(outcome.wrong),
            "votes left out": outcome.left_out > 0,
        }
        if not any(bad.values()):
            continue
        lines.append(f"{unit.name}: {', '.join(name for name, is_so in bad.items() if is_so)}")
        lines += [f"    {line}" for line in dict.fromkeys([*outcome.wrong, *outcome.notes])]
        words = [unit.name]
        if isinstance(unit, Process) and unit.process_id:
            words.append(unit.process_id)
            lines.append(f"    workflow process/{unit.community}/{unit.path}/{unit.process_id}")
        if isinstance(unit, Ballot):
            lines += [
                f"    vote {vote.number}: sent {vote.sent:.3f}, accepted {vote.accepted or 0:.3f}"
                for vote in unit.cast
            ]
            lines.append(f"    closed {unit.closed:.3f}")
        lines += [f"    {line}" for line in log_lines(world.cluster.folder, words)]
    return lines


def summary(units: Sequence[Unit], outcomes: Sequence[Outcome]) -> list[str]:
    """The rows of a table: what was asked for, and what became of it.

    Args:
        units: All units.
        outcomes: What became of each.

    Returns:
        The table's lines.
    """
    by_kind: defaultdict[str, list[Outcome]] = defaultdict(list)
    for unit, outcome in zip(units, outcomes, strict=True):
        by_kind[_name_of(unit)].append(outcome)
    lines = [
        "| asked for | number | lost | doubled | reported wrongly | reported as unknown "
        "| same id again |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in sorted(by_kind.items()):
        cells = [
            name,
            len(found),
            sum(item.lost for item in found),
            sum(item.doubled for item in found),
            sum(bool(item.wrong) for item in found),
            sum(item.unknown for item in found),
            sum(item.again for item in found),
        ]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return lines


def accepted_votes(units: Sequence[Unit]) -> int:
    """How many votes were answered with 200."""
    ballots = [unit for unit in units if isinstance(unit, Ballot)]
    return sum(vote.accepted is not None for ballot in ballots for vote in ballot.cast)


def _name_of(unit: Unit) -> str:
    if isinstance(unit, Ballot):
        keyed = "keyed" if unit.keyed else "unkeyed"
        ends = {"delete": "DELETE", "time": "its closing time", "webhook": "a webhook"}
        return f"ballots with {keyed} votes, closed by {ends[unit.closing]}"
    if isinstance(unit, CommunityChange):
        return "changes of a community"
    if isinstance(unit, Process):
        return "votes that are polled"
    return "actions" if unit.kind == "action" else "webhooks with an event"
