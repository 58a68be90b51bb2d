"""The rehearsal of short passes: its device plays as it says, its services are the real ones."""

import subprocess
import sys
import time

import numpy as np
import pytest
from scripts.short_passes import played

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.law import LawRow
from treedraft.inference.level_growth import Seed
from treedraft.inference.segment import Segment

_PLACES = [(3 + place % 500, place) for place in range(4000)]


def test_the_drafter_is_right_as_often_as_the_shipped_one():
    ranks = []
    for token_id, position in _PLACES:
        ids = [guess for guess, _ in played.guesses(token_id, position)]
        assert len(set(ids)) == 16
        right = played.next_token(token_id, position)
        ranks.append(ids.index(right) if right in ids else 16)
    for count, share in ((1, 0.75), (4, 0.92), (8, 0.95), (16, 0.97)):
        assert np.mean(np.array(ranks) < count) == pytest.approx(share, abs=0.02)


def test_a_device_does_one_thing_after_another():
    device, started = played.Device(), time.perf_counter()
    device.queue(20.0)
    device.queue(30.0)
    assert time.perf_counter() - started < 0.05
    device.wait()
    assert time.perf_counter() - started >= 0.05


def test_trees_grow_below_what_they_begin_with():
    segment = Segment([7], [40], [0], np.zeros(0, np.int64), [0], np.ones((1, 1), bool), [0])
    law = LawRow(SamplingParameters(temperature=0.0), position=41)
    seed = Seed(segment, [0.0], law, list(range(1, 13)), last_position=99, min_score=-9.0)
    how = {"num_columns": played.VOCAB_SIZE, "max_rows": 32, "worth": None}
    grown = played.PlayedLevels(played.Device(), 0.0).grow(
        [seed], levels=3, width=4, num_children=4, **how
    )
    assert [row.level for row in grown[0]] == [0, *[1] * 4, *[2] * 4, *[3] * 4]
    for index, row in enumerate(grown[0][1:], start=1):
        assert row.parent is not None
        assert row.parent < index
        assert row.token_id in [token for token, _ in grown[0][row.parent].children]
        assert row.children == played.guesses(row.token_id, 40 + _depth(grown[0], index))[:4]


def _depth(rows, index):
    depth = 0
    while rows[index].parent is not None:
        index, depth = rows[index].parent, depth + 1
    return depth


@pytest.mark.parametrize("how", [[], ["--wide"]], ids=["accelerator", "own cores"])
def test_the_services_run_around_it_and_say_what_the_target_would(how):
    command = [sys.executable, "-m", "scripts.short_passes", "--tokens", "24", "--repeats", "1"]
    command += how
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 at once: S " in done.stdout
    assert "speculative: " in done.stdout
