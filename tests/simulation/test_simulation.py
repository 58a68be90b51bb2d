"""A short run of the simulation, and proof that it finds what is broken.

`make simulate SEEDS=5000` is the long one. Both run in a process of their own, with
string hashing fixed, so that the command printed for a failing seed replays it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.simulation.mutations import MUTATIONS

_ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> tuple[int, dict, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.run", *arguments],
        cwd=_ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout[done.stdout.index("{") :]), done.stderr


def test_some_seeds_hold():
    code, sums, said = _run("--first", "100", "--seeds", "40")
    assert code == 0, said
    assert sums["seeds"] == 40
    # What passes because nothing happens proves nothing.
    assert sums["tokens"] > 2000
    assert sums["faults"] > 100
    assert sums["resumed"] > 10


def test_a_seed_replays():
    _, first, _ = _run("--seed", "6")
    _, second, _ = _run("--seed", "6")
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["digest"]


def test_broken_parts_are_found():
    arguments = [word for name in MUTATIONS for word in ("--mutation", name)]
    _, sums, _ = _run("--seeds", "80", *arguments)
    assert sums["missed"] == []
    assert set(sums["found"]) == set(MUTATIONS)
