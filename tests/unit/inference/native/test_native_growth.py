"""Trees that the library grows by levels are those grown by passes one at a time."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.unit.inference.level_steps import NUM_CHILDREN, WIDTH, law, step_by_step
from tests.unit.inference.tiny_models import SIZES, build, tiny_model
from tests.unit.inference.tiny_segments import chunk, tokens
from transformers import LlamaConfig, LlamaForCausalLM

from treedraft.core.sampling import SamplingParameters
from treedraft.draft.calibration import LogOddsPool
from treedraft.inference.draft_sampler import draft_children
from treedraft.inference.level_growth import Seed, WaitingNode, Worth
from treedraft.inference.native.compiler import find_compiler, native_library
from treedraft.inference.native.decoder import WeightStorage, go_native
from treedraft.inference.native.growth import NativeLevelGrower
from treedraft.inference.runner import Runner
from treedraft.inference.segment import Segment

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")

NUM_SLOTS = 256
SCATTERED = np.random.default_rng(3).permutation(NUM_SLOTS)
GREEDY = SamplingParameters(temperature=0.0)
HOT = SamplingParameters(temperature=0.9, seed=12345678901234)
TEXTS = [tokens(5, seed=1), tokens(3, seed=2)]
HOMES = [SCATTERED[:40], SCATTERED[40:80]]
FAR = (100, -50.0)


def runner_of(model):
    module = copy.deepcopy(model.module)
    decoder = go_native(module, native_library(), WeightStorage.FLOAT32)
    return Runner(replace(model, module=module, native=decoder), model.pool(NUM_SLOTS))


def grower_of(model, *, column_ids=None, barren=()):
    runner = runner_of(model)
    return NativeLevelGrower(
        runner.model.native,
        runner.pool,
        column_ids=column_ids,
        barren=barren,
        score_temperature=1.0,
    )


def seed_of(text, home, sampling, *limits, levels=2, choice=0, **fields):
    slots = home[len(text) : len(text) + levels * WIDTH].tolist()
    segment = chunk(text, home, 0, len(text), [len(text) - 1])
    own = replace(law(sampling, len(text)), choice=choice)
    return Seed(segment, [0.0], own, slots, *limits, **fields)


def grow(grower, seeds, *, levels=2, num_columns=97, max_rows=32, worth=None):
    return grower.grow(
        seeds,
        levels=levels,
        width=WIDTH,
        num_children=NUM_CHILDREN,
        num_columns=num_columns,
        max_rows=max_rows,
        worth=worth,
    )


def assert_grown(rows, wanted):
    assert [(row.parent, row.token_id) for row in rows] == [w[:2] for w in wanted]
    for row, (_, _, children) in zip(rows, wanted, strict=True):
        assert [t for t, _ in row.children] == [t for t, _ in children]
        gains = [gain for _, gain in row.children]
        assert gains == pytest.approx([gain for _, gain in children], abs=1e-3)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
def test_levels_grow_the_tree_of_single_passes(sampling, num_threads):
    model = tiny_model()
    limits = [(9, -50.0), (4, -2.5)]  # the second may run two levels, likely nodes only
    runner = runner_of(model)
    first = step_by_step(runner, TEXTS[0], HOMES[0], sampling, 1, 9, -50.0, ())
    barren = (int(first[1][1]),)
    expected = [
        step_by_step(runner, text, home, sampling, 2, *own, barren)
        for text, home, own in zip(TEXTS, HOMES, limits, strict=True)
    ]
    grower = grower_of(model, barren=barren)
    seeds = [
        seed_of(text, home, sampling, *own)
        for text, home, own in zip(TEXTS, HOMES, limits, strict=True)
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for _ in range(2):  # the second time over what the first one left behind
            for rows, wanted in zip(grow(grower, seeds), expected, strict=True):
                assert_grown(rows, wanted)
                assert [row.slot for row in rows[:1]] == [None]
            assert len(grower.level_ms) == 3
            assert min(grower.level_ms) > 0.0
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
def test_a_large_head_with_columns_of_its_own_is_chosen_from_as_in_python(sampling):
    config = LlamaConfig(**SIZES | {"vocab_size": 3000})
    model = replace(build(config, LlamaForCausalLM, torch.float32), vocab_size=3000)
    # As a head has it that drafts some of 6,000 ids, of which 5,000 are in use; level after
    # level is compared at the root, since tokens drafted have no embedding here.
    column_ids = np.arange(3000) * 2 + 1
    num_columns = int(np.searchsorted(column_ids, 5000))
    grower = grower_of(model, column_ids=column_ids, barren=list(range(6000)))
    choose = partial(draft_children, column_ids=column_ids[:num_columns])
    text = TEXTS[0]
    logits = runner_of(model).forward([chunk(text, HOMES[0], 0, 5, [4])])[:, :num_columns]
    for choice in range(20):
        row = replace(law(sampling, 5), choice=choice)
        (rows,) = grow(
            grower,
            [seed_of(text, HOMES[0], sampling, *FAR, choice=choice)],
            num_columns=num_columns,
        )
        assert_grown(rows, [(None, None, choose(logits, [row], NUM_CHILDREN)[0])])


def test_of_many_sessions_the_best_rows_fill_a_pass():
    grower = grower_of(tiny_model())
    seeds = [seed_of(t, h, GREEDY, *FAR) for t, h in zip(TEXTS, HOMES, strict=True)]
    free = grow(grower, seeds)
    tight = grow(grower, seeds, max_rows=1)
    assert [len(rows) for rows in free] == [5, 5]
    assert sum(len(rows) for rows in tight) == 2 + 2
    best = max(rows[0].children[0][1] for rows in free)
    (first,) = [row for rows in tight for row in rows if row.level == 1]
    assert best == next(r[0].children[0][1] for r in tight if first in r)


def test_a_tree_that_has_gained_its_room_is_not_grown_on():
    grower = grower_of(tiny_model())
    for room, num_rows in [(3, 1), (4, 3), (10, 5)]:
        (rows,) = grow(grower, [seed_of(TEXTS[0], HOMES[0], GREEDY, *FAR, room=room)])
        assert len(rows) == num_rows


def test_a_pass_is_run_for_as_many_rows_as_are_worth_it():
    grower = grower_of(tiny_model())
    seeds = [seed_of(TEXTS[0], HOMES[0], GREEDY, *FAR)]
    (rows,) = grow(grower, seeds)
    likely, second = (np.exp(gain) for _, gain in rows[0].children[:2])
    profile = (0.5, 0.25)

    def num_rows(costs, price=0.0):
        worth = Worth(costs, profile, price)
        return len(grow(grower, seeds, levels=1, worth=worth)[0])

    seeds = [seed_of(TEXTS[0], HOMES[0], GREEDY, *FAR, levels=1)]
    one, both = 0.75 * likely, 0.75 * (likely + second)
    assert num_rows((one * 0.9, both * 2)) == 2
    assert num_rows((one * 1.1, both * 1.1)) == 1
    assert num_rows((both * 0.9,)) == 3  # the last cost is that of more rows
    # What the target would pay for a row comes off each child.
    assert num_rows((one * 0.9, both * 2), price=0.25 * likely) == 1


def test_a_node_that_waits_is_run_before_children_that_are_less_likely():
    model = tiny_model()
    text, home = TEXTS[0], HOMES[0]
    grower = grower_of(model)
    runner = Runner(replace(model, native=grower._decoder), grower._pool)
    runner.forward([chunk(text, home, 0, 5)])
    # Under the root hangs a node that was run, under it one that waits.
    above, waits = int(home[20]), (7, 11)
    runner.forward([path_segment(text, home, [waits[0]], [above])])
    node = WaitingNode(token_id=waits[1], position=6, score=-1e-6, ancestor_slots=[above])
    fresh = path_segment(text, home, [30], [int(home[21])])
    seed = seed_of(text, home, GREEDY, *FAR, levels=1, waiting=(node,))
    (rows,) = grow(grower, [replace(seed, segment=fresh, scores=[-3.0])], levels=1)
    assert [(row.parent, row.waited, row.level) for row in rows[:2]] == [
        (None, None, 0),
        (None, 0, 1),
    ]
    assert rows[1].slot == home[5]
    expected = draft_children(
        model.causal_logits([*text, *waits])[-1:], [law(GREEDY, 7)], NUM_CHILDREN
    )[0]
    assert [token for token, _ in rows[1].children] == [token for token, _ in expected]
    assert rows[2].parent == 0  # a child of the row that was asked for


def path_segment(text, home, path, slots):
    """Return the last node of a path below a text."""
    where = len(text)
    return Segment(
        token_ids=[path[-1]],
        positions=[where + len(path) - 1],
        write_slots=[slots[-1]],
        context_slots=home[:where],
        tree_slots=slots,
        tree_mask=np.ones((1, len(path)), dtype=np.bool_),
        output_rows=[0],
    )


def test_scores_are_what_the_models_word_is_worth():
    grower = grower_of(tiny_model())
    (rows,) = grow(grower, [seed_of(TEXTS[0], HOMES[0], GREEDY, *FAR)])
    best = rows[0].children[0][1]
    pool = LogOddsPool(-1.0, (0.5,))
    believed = np.log(pool.probability([np.exp(best)]))
    for least, num_rows in [(believed - 1e-3, 2), (believed + 1e-3, 1)]:
        seed = seed_of(TEXTS[0], HOMES[0], GREEDY, 100, least, levels=1, belief=pool.line)
        (rows,) = grow(grower, [seed], levels=1)
        assert min(len(rows), 2) == num_rows
