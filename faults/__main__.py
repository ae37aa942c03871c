"""``make faults``: throws every fault at a running engine and writes the table."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence

from faults.controls import CONTROLS
from faults.lanes import run_lanes
from faults.scenarios import Scenario
from faults.soak import command as soak
from faults.suite import LANES
from faults.table import HEAD, PAGE, Row, machine, write_section


def main(arguments: Sequence[str]) -> int:
    """Run the suite, or the soak.

    Args:
        arguments: The command line's.

    Returns:
        The exit status: 1 if anything was lost, doubled or reported wrongly.
    """
    if arguments[:1] == ["soak"]:
        return soak.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="make faults",
        description=__doc__,
        epilog="`soak` as the first argument kills at random for a while: `soak --help`.",
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--runs", type=int, help="most runs of each fault")
    parser.add_argument("--only", default="", help="faults whose title holds this text")
    parser.add_argument("--ci", action="store_true", help="the faults that CI has time for")
    parser.add_argument("--list", action="store_true", help="print the titles, run nothing")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE}")
    given = parser.parse_args(arguments)
    lanes = [
        [item for item in lane if given.only in item.title and (not given.ci or "ci" in item.tags)]
        for lane in [[*LANES[0], *CONTROLS], *LANES[1:]]
    ]
    chosen = [item for lane in lanes for item in lane]
    if given.list:
        print("\n".join(item.title for item in chosen))
        return 0
    if not chosen:
        parser.error(f"no fault's title holds '{given.only}'; --list prints them")
    print(f"seed {given.seed}; {len(chosen)} faults\n{HEAD}", flush=True)
    started = time.monotonic()
    rows = asyncio.run(run_lanes(lanes, given.seed, given.runs))
    total = sum(len(row.result.outcomes) for row in rows if not row.scenario.finds)
    print(f"{total} runs in {time.monotonic() - started:.0f} s, seed {given.seed}")
    if given.write:
        _write(rows, total, given.seed)
    failed = [row.scenario.title for row in rows if row.failures]
    if failed:
        print(f"FAILED: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _write(rows: list[Row], total: int, seed: int) -> None:
    controls = [row.scenario for row in rows if row.scenario.finds and not row.failures]
    lines = [
        f"{machine()}; {total} runs, seed {seed}.",
        "",
        HEAD,
        *(row.text() for row in rows if not row.scenario.finds),
    ]
    if controls:
        lines += ["", f"What was done on purpose, and found: {_found(controls)}."]
    write_section("results", lines)


def _found(controls: list[Scenario]) -> str:
    return "; ".join(f"{control.title} ({control.finds})" for control in controls)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
