"""Feeds hostile inputs to every reader: `python -m tests.fuzz.run --inputs 1000000`.

A crash is printed with the command that repeats it. Memory is looked at before and
after each target, once it has been warmed up.
"""

import argparse
import asyncio
import collections
import faulthandler
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import structlog
from tests.fuzz.endpoints import fuzz_endpoints
from tests.fuzz.guided import guide, is_installed
from tests.fuzz.openapi import fuzz_openapi
from tests.fuzz.targets import OK, FuzzTarget, all_targets, reason_of

from treedraft.core.errors import TreedraftError

_MAX_CRASHES = 5
_HANG_SECONDS = 20.0
_WARM_UP_SHARE = 0.2
# Caches that fill, a heap that is cut differently: growth beyond this is a leak.
MAX_GROWTH_MB = 24.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 after a crash, a hang or growth in memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="these alone")
    parser.add_argument("--calls", type=int, default=0, help="calls of endpoints besides")
    parser.add_argument("--requests", type=int, default=0, help="over HTTP, besides")
    parser.add_argument("--guided", type=int, default=0, help="inputs by coverage, each target")
    parser.add_argument("--replay", help="an input in hexadecimal digits, for one target")
    parser.add_argument("--json", help="write the counts here")
    chosen = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as folder:
        targets = [
            target
            for target in all_targets(Path(folder))
            if not chosen.target or target.name in chosen.target
        ]
        if chosen.replay is not None:
            print(targets[0].run(bytes.fromhex(chosen.replay)))
            return 0
        results = fuzz(targets, chosen.inputs, chosen.seed)
        calls = fuzz_endpoints(chosen.calls, chosen.seed, Path(folder)) if chosen.calls else None
        endpoints = asyncio.run(calls) if calls else {}
        http = fuzz_openapi(chosen.requests, chosen.seed) if chosen.requests else {}
        guided = _guided([target.name for target in targets], chosen.guided, chosen.seed)
    failed = [name for name, end in guided.items() if end != OK]
    sums = {
        "inputs": sum(result["inputs"] for result in results.values()),
        "crashes": sum(len(result["crashes"]) for result in results.values()),
        "grown": [name for name, result in results.items() if result["grown_mb"] > MAX_GROWTH_MB],
        "targets": results,
        "endpoints": endpoints,
        "http": http,
        "guided": {"inputs": chosen.guided * len(guided), "failed": failed},
    }
    print(json.dumps(sums, indent=1))
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(sums, indent=1) + "\n")
    return 1 if sums["crashes"] or sums["grown"] or failed else 0


def _guided(names: Sequence[str], num_inputs: int, seed: int) -> dict[str, str]:
    if not num_inputs or not is_installed():
        return {}
    found = guide(names, num_inputs, seed, Path())
    for name, end in found.items():
        if end != OK:
            print(f"{name}, by coverage:\n{end}", file=sys.stderr)
    return found


def fuzz(targets: Sequence[FuzzTarget], num_inputs: int, seed: int) -> dict[str, dict]:
    """Return what came of each target, its share of the inputs spent."""
    share = max(1, num_inputs // len(targets))
    return {target.name: fuzz_target(target, share, seed) for target in targets}


def fuzz_target(target: FuzzTarget, num_inputs: int, seed: int) -> dict:
    """Return counts by outcome, crashes, and how much memory was not given back."""
    rng, process = random.Random(f"{seed} {target.name}"), psutil.Process()
    outcomes: collections.Counter[str] = collections.Counter()
    crashes: list[str] = []
    started, before_mb = time.perf_counter(), process.memory_info().rss / 2**20
    for number in range(num_inputs):
        if number == int(num_inputs * _WARM_UP_SHARE):
            before_mb = process.memory_info().rss / 2**20
        if number % 1000 == 0:
            faulthandler.dump_traceback_later(_HANG_SECONDS + 60, exit=True, file=sys.__stderr__)
        data = target.draw(rng)
        began = time.perf_counter()
        outcomes[_outcome(target, data, crashes)] += 1
        if time.perf_counter() - began > _HANG_SECONDS:
            crashes.append(_named(target, data, "it took too long"))
        if len(crashes) >= _MAX_CRASHES:
            break
    faulthandler.cancel_dump_traceback_later()
    return {
        "inputs": sum(outcomes.values()),
        "seconds": round(time.perf_counter() - started, 1),
        "outcomes": dict(outcomes.most_common()),
        "crashes": crashes,
        "grown_mb": round(process.memory_info().rss / 2**20 - before_mb, 1),
    }


def _outcome(target: FuzzTarget, data: bytes, crashes: list[str]) -> str:
    try:
        return target.run(data)
    except TreedraftError as error:
        return reason_of(error)
    except Exception as error:
        crashes.append(_named(target, data, repr(error)))
        return "CRASH"


def _named(target: FuzzTarget, data: bytes, what: str) -> str:
    again = f"python -m tests.fuzz.run --target {target.name} --replay {data.hex()}"
    print(f"{target.name}: {what[:300]}\n  {again[:4000]}", file=sys.stderr)
    return f"{what[:200]}: {again[:400]}"


if __name__ == "__main__":
    raise SystemExit(main())
