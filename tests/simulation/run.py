"""Runs seeds: `python -m tests.simulation.run --seeds 5000`, or one again: `--seed 17`.

A seed fails by itself or not at all: the interpreter's hashing of strings is fixed
too, so the same command replays it turn by turn.
"""

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict

import structlog

_HASH_SEED = "0"


def main() -> int:
    """Run the seeds that the command line names; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one alone and say what happens")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--mutation", action="append", help="break this part: is it found?")
    parser.add_argument("--json", help="write the sums here")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != _HASH_SEED:
        os.environ["PYTHONHASHSEED"] = _HASH_SEED
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation.run", *sys.argv[1:]])
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    if arguments.seed is not None:
        seeds = range(arguments.seed, arguments.seed + 1)
    _be_quiet(is_one=arguments.seed is not None)
    if arguments.mutation:
        sums = _hunt(arguments.mutation, seeds)
    else:
        sums = _run_all(seeds, arguments.jobs)
    print(json.dumps(sums, indent=2))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(sums, file, indent=2)
    return 1 if sums.get("failed_seeds") or sums.get("missed") else 0


def _be_quiet(*, is_one: bool) -> None:
    level = logging.WARNING if is_one else logging.CRITICAL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    logging.disable(logging.CRITICAL)


def run_seed(seed: int) -> dict[str, object]:
    """Run one seed and return what came of it."""
    import torch
    from tests.simulation.world import World

    torch.set_num_threads(1)
    return asdict(World(seed).run())


def _hunt(names: Iterable[str], seeds: Iterable[int]) -> dict[str, object]:
    """Return which broken parts the seeds found, and by which seed and violation."""
    from tests.simulation.mutations import FINDERS, MUTATIONS

    seeds = sorted(seeds, key=lambda seed: (seed not in FINDERS, seed))
    found, missed = {}, []
    for name in names:
        with MUTATIONS[name]():
            outcomes = map(run_seed, seeds)
            failed = next((outcome for outcome in outcomes if outcome["violations"]), None)
        if failed is None:
            missed.append(name)
        else:
            found[name] = {"seed": failed["seed"], "violation": failed["violations"][0]}
    return {"found": found, "missed": missed}


def _run_all(seeds: Iterable[int], jobs: int) -> dict[str, object]:
    started = time.perf_counter()
    failed, digest = [], 0
    sums = dict.fromkeys(("seeds", "sessions", "tokens", "faults", "turns", "resumed", "left"), 0)
    for outcome in _outcomes(seeds, jobs):
        sums["seeds"] += 1
        digest ^= outcome["digest"]
        for name in ("sessions", "tokens", "faults", "turns", "resumed", "left"):
            sums[name] += outcome[f"num_{name}"]
        if outcome["violations"]:
            failed.append(outcome["seed"])
            print(f"seed {outcome['seed']} failed:", file=sys.stderr)
            for violation in outcome["violations"]:
                print(f"  {violation}", file=sys.stderr)
            print(
                f"  again: python -m tests.simulation.run --seed {outcome['seed']}", file=sys.stderr
            )
    seconds = round(time.perf_counter() - started, 1)
    return {**sums, "digest": digest, "seconds": seconds, "failed_seeds": failed}


def _outcomes(seeds: Iterable[int], jobs: int) -> Iterable[dict[str, object]]:
    if jobs == 1:
        yield from map(run_seed, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_quiet_worker) as pool:
        yield from pool.imap_unordered(run_seed, seeds, chunksize=4)


def _quiet_worker() -> None:
    _be_quiet(is_one=False)


if __name__ == "__main__":
    raise SystemExit(main())
