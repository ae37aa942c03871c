"""Processes that start processes, and wait for their ends."""

from __future__ import annotations

from typing import Any

from faults.processes import Process
from faults.units import Outcome
from faults.world import World

UNKNOWN = "start_outcome_unknown"


class Composed(Process):
    """A process that starts two others, and ends when both have.

    Args:
        world: What surrounds the engine.
        where: The method in which it starts them: ``start`` is not repeated, ``update`` is.
    """

    kind = "composed"
    path = "composing.parent"

    def __init__(self, world: World, where: str = "start") -> None:
        super().__init__(world)
        self.where = where
        self.parts = [f"{self.name}-{number}" for number in range(2)]

    def body(self) -> dict[str, Any]:
        """What it starts, where, and how long its calls take."""
        parts = [
            {"name": "composing.part", "parameters": {"id": part, "kind": part}}
            for part in self.parts
        ]
        return {
            "id": self.name,
            "children": parts,
            "where": self.where,
            "wanted": len(parts),
            "after": self.seconds,
            "handling": self.seconds / 2,
        }

    async def end(self) -> None:
        """End what it has started, on the platform."""
        for part in self.parts:
            self.world.note(f"end {part}")

    def effects(self) -> int:
        """How often one of its parts was begun on the platform."""
        return max(self.world.made(f"part {part}") for part in self.parts)

    @property
    def unknown(self) -> bool:
        """Whether its own start is, or that of one that it started."""
        return super().unknown or any(one["code"] == UNKNOWN for one in self._handled())

    def outcome(self) -> Outcome:
        """Each end must have been handled once."""
        found = super().outcome()
        handled = self._handled()
        if any(not item.body["errors"] for item in self.deliveries()):
            ended = [one["outcome"]["kind"] for one in handled if one["code"] is None]
            found.lost = found.lost or len(handled) < len(self.parts)
            found.doubled = found.doubled or len(ended) > len(set(ended))
            found.doubled = found.doubled or len(handled) > len(self.parts)
        codes = {one["code"] for one in handled} - {None, UNKNOWN}
        found.wrong += [f"one that it started ended with {code}" for code in codes]
        found.notes.append(f"{len(handled)} ends handled, {self.effects()} of each part begun")
        return found

    def _handled(self) -> list[dict[str, Any]]:
        """The ends that its outcome holds."""
        return [
            one for item in self.deliveries()[:1] for one in item.body["outcome"].get("ended", [])
        ]
