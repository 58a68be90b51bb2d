"""Runs the chaos suite: `python -m tests.chaos.run --seconds 600 --seed 1`.

A toy model is served by real processes while a schedule kills, freezes, cuts and
restarts them; every answer is compared with the undisturbed one. The report goes
to the terminal and, as JSON, to a file. The status is 1 if any answer was not
right; the same seed makes the same schedule.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.drills import run_drills
from tests.chaos.faults import DRAFT, TARGET, Fault, plan_faults
from tests.chaos.fleet import Fleet, FleetPlan
from tests.chaos.load import Load, make_queries
from tests.chaos.report import Report, make_report
from tests.chaos.storm import Storm

from treedraft.inference.toy import make_toy_model, truncate_model

_NUM_QUERIES = 48
_CALM_SECONDS = 3.0


async def run(
    *,
    seconds: float,
    seed: int,
    folder: Path,
    at_once: int = 32,
    faults_per_second: float = 1.2,
    most_at_once: int = 4,
    drilled: Sequence[str] = (DRAFT, TARGET),
    layers: int = 2,
    hidden: int = 64,
) -> Report:
    """Run drills, load and storm for so long, and return what it came to; 0 s are drills alone.

    Drills want a larger model (`layers`, `hidden`): beside steps of half a millisecond what is
    measured is how quickly the proxies and clients of this process come to read.
    """
    target = make_toy_model(folder / "target", layers=layers, hidden=hidden, seed=1)
    # Its first layers: weak, but not always wrong.
    draft = truncate_model(target, folder / "draft", max(1, layers // 4))
    plan = FleetPlan(target_model=str(target), draft_model=str(draft))
    async with Fleet(plan, folder) as fleet:
        load = Load(fleet.endpoints, make_queries(_NUM_QUERIES, seed=seed))
        storm = Storm(fleet)
        try:
            drills = await run_drills(fleet, storm, drilled) if drilled else {}
            if seconds:
                await load.learn(at_once=8)
                faults = plan_faults(
                    seed,
                    seconds,
                    fleet.subjects,
                    per_second=faults_per_second,
                    most_at_once=most_at_once,
                )
                await _rage(load, storm, faults, at_once, seed)
        finally:
            await load.close()
    return make_report(
        load.outcome,
        storm.suffered,
        seed=seed,
        seconds=seconds,
        at_once=at_once,
        drills=drills,
    )


async def _rage(load: Load, storm: Storm, faults: Sequence[Fault], at_once: int, seed: int) -> None:
    """Let all faults happen under load, and the load end in peace."""
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(at_once, is_over, seed=seed))
        await storm.rage(faults)
        await asyncio.sleep(_CALM_SECONDS)
        is_over.set()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=32, help="sessions at once")
    parser.add_argument("--json", type=Path, default=Path("chaos.json"))
    parser.add_argument(
        "--drills",
        nargs="*",
        choices=(DRAFT, TARGET),
        default=(DRAFT, TARGET),
        help="whose single faults to measure before all others",
    )
    parser.add_argument("--no-drills", action="store_true", help="leave out the single faults")
    parser.add_argument("--layers", type=int, default=2, help="of the target")
    parser.add_argument("--hidden", type=int, default=64, help="width of the target")
    parser.add_argument("--logs", type=Path, help="keep the services' logs in this folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="treedraft-chaos-"))
    try:
        report = asyncio.run(
            run(
                seconds=options.seconds,
                seed=options.seed,
                folder=folder,
                at_once=options.sessions,
                drilled=() if options.no_drills else options.drills,
                layers=options.layers,
                hidden=options.hidden,
            )
        )
    finally:
        if options.logs:
            options.logs.mkdir(parents=True, exist_ok=True)
            for log in folder.glob("*.log"):
                shutil.copy(log, options.logs)
        shutil.rmtree(folder, ignore_errors=True)
    print(report.table())
    report.write(options.json)
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
