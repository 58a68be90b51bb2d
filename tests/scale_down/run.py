"""Scale-downs for figures: `python -m tests.scale_down.run`, all at once and one by one.

The report goes to the terminal and, as JSON, to a file. The status is 1 if any answer was
not right, or if a pod did not end by itself.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.kube_api import KubeApi
from tests.scale_down.drill import AT_ONCE, NUM_TARGETS, ONE_BY_ONE, Figures, scale_down
from tests.scale_down.replica_set import ReplicaSet


def _table(name: str, figures: Figures) -> str:
    ends = ", ".join(
        f"{one.name} ({figures.costs[one.name]} sessions) in {one.seconds:.1f} s"
        for one in figures.removals
    )
    return "\n".join(
        (
            f"{NUM_TARGETS} targets to 1, {name}: {figures.sessions} sessions, "
            f"{figures.tokens} tokens",
            f"  {figures.lost} lost, {figures.duplicated} duplicated, {figures.changed} changed; "
            f"{figures.moves} moves, longest stall {figures.longest_stall_seconds:.2f} s",
            f"  ended: {ends}",
            *(f"  {reason}" for reason in figures.reasons),
            *figures.examples,
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("scale-down.json"))
    parser.add_argument("--sessions", type=int, default=24, help="sessions at once")
    options = parser.parse_args()
    found: dict[str, Figures] = {}
    for name, pace in (("at once", AT_ONCE), ("one by one", ONE_BY_ONE)):
        with KubeApi() as kube, tempfile.TemporaryDirectory(prefix="treedraft-") as folder:
            found[name] = asyncio.run(
                scale_down(
                    Path(folder),
                    ReplicaSet(kube),
                    pace=pace,
                    at_once=options.sessions,
                    num_coordinators=2,
                    num_queries=24,
                    lengths=(150, 400),
                    seconds_after=5.0,
                )
            )
        print(_table(name, found[name]))
    figures = {name: one.as_json() for name, one in found.items()}
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all(one.is_good for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
