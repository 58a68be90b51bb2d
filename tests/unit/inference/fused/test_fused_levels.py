"""Trees grown level by level on the device are those grown step by step from outside."""

from functools import partial

import pytest
from tests.unit.inference.fused.fused_models import SCATTERED, fused_runner, small_model
from tests.unit.inference.level_steps import NUM_CHILDREN, WIDTH, law, step_by_step
from tests.unit.inference.tiny_segments import chunk, tokens

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.fused.children import choose_children
from treedraft.inference.fused.levels import LevelGrower
from treedraft.inference.level_growth import Seed

GREEDY = SamplingParameters(temperature=0.0)
HOT = SamplingParameters(temperature=0.9, seed=12345678901234)
CHOOSE = partial(choose_children, score_temperature=1.0, column_ids=None)


def lowest_level(rows, row):
    """Return the first level at which a row could have been run."""
    return 0 if row.parent is None else 1 + rows[row.parent].level


@pytest.mark.parametrize("sampling", [GREEDY, HOT])
def test_levels_grow_the_tree_of_single_steps(sampling):
    model = small_model("llama")
    texts = [tokens(5, seed=1), tokens(3, seed=2)]
    homes = [SCATTERED[:40], SCATTERED[40:80]]
    limits = [(9, -50.0), (4, -2.5)]  # the second may run two levels, likely nodes only
    runner = fused_runner(model)
    first_token = step_by_step(runner, texts[0], homes[0], sampling, 1, 9, -50.0, (), CHOOSE)[1][1]
    barren = (int(first_token),)
    expected = [
        step_by_step(runner, text, home, sampling, 2, *own, barren, CHOOSE)
        for text, home, own in zip(texts, homes, limits, strict=True)
    ]
    other = fused_runner(model)
    grower = LevelGrower(
        other.model.native, other.pool, column_ids=None, barren=barren, score_temperature=1.0
    )
    seeds = [
        Seed(
            chunk(text, home, 0, len(text), [len(text) - 1]),
            [0.0],
            law(sampling, len(text)),
            home[len(text) : len(text) + 2 * WIDTH].tolist(),
            *own,
        )
        for text, home, own in zip(texts, homes, limits, strict=True)
    ]
    for _ in range(2):  # the second time over what the first one left behind
        grown = grower.grow(
            seeds,
            levels=2,
            width=WIDTH,
            num_children=NUM_CHILDREN,
            num_columns=model.vocab_size,
        )
        for rows, wanted in zip(grown, expected, strict=True):
            assert [(row.parent, row.token_id) for row in rows] == [w[:2] for w in wanted]
            assert len(grower.level_ms) == 3
            assert min(grower.level_ms) > 0.0
            for row, (_, _, children) in zip(rows, wanted, strict=True):
                assert [t for t, _ in row.children] == [t for t, _ in children]
                assert lowest_level(rows, row) <= row.level <= 2
                gains = [gain for _, gain in row.children]
                assert gains == pytest.approx([gain for _, gain in children], abs=1e-3)


def test_a_step_that_reads_a_prompt_is_no_measure_of_passes():
    model = small_model("llama")
    runner = fused_runner(model)
    grower = LevelGrower(
        runner.model.native, runner.pool, column_ids=None, barren=(), score_temperature=1.0
    )
    text = tokens(17, seed=1)
    seed = Seed(
        chunk(text, SCATTERED, 0, 17, [16]),
        [0.0],
        law(GREEDY, 17),
        SCATTERED[17:18].tolist(),
        40,
        -50.0,
    )
    shape = {"levels": 1, "width": 1, "num_children": 2, "num_columns": model.vocab_size}
    assert len(grower.grow([seed], **shape)[0]) == 2
    assert not grower.level_ms
