"""Trees grown level by level on the device are those grown step by step from outside."""

import numpy as np
import pytest
from tests.unit.inference.fused.fused_models import SCATTERED, fused_runner, small_model
from tests.unit.inference.tiny_segments import chunk, tokens

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.fused.children import choose_children
from treedraft.inference.fused.levels import LevelGrower, Seed
from treedraft.inference.law import LawRow
from treedraft.inference.segment import Segment

GREEDY = SamplingParameters(temperature=0.0)
HOT = SamplingParameters(temperature=0.9, seed=12345678901234)
NUM_CHILDREN, WIDTH = 3, 2


def law(sampling, position):
    return LawRow(sampling, position=position)


def step_by_step(runner, text, slots, sampling, levels, last_position, min_score, barren):
    """Grow one session's tree by passes from outside: [(parent, token, children)]."""
    where = len(text)

    def children_of(segment, positions):
        logits = runner.forward([segment])
        rows = [law(sampling, position + 1) for position in positions]
        return choose_children(logits, rows, NUM_CHILDREN, score_temperature=1.0, column_ids=None)

    first = children_of(chunk(text, slots, 0, where, [where - 1]), [where - 1])[0]
    rows = [(None, None, first)]
    paths, scores = [[]], [0.0]
    open_children = []
    fresh = [0]
    for level in range(levels):
        for row in fresh:
            position = where + len(paths[row])
            for token, gain in rows[row][2]:
                score = scores[row] + gain
                if position <= last_position and score >= min_score and token not in barren:
                    open_children.append((score, row, token))
        open_children.sort(key=lambda entry: -entry[0])
        picked, open_children = open_children[:WIDTH], open_children[WIDTH:]
        fresh = []
        for turn, (score, parent, token) in enumerate(picked):
            slot = int(slots[where + level * WIDTH + turn])
            path = [*paths[parent], slot]
            segment = Segment(
                token_ids=[token],
                positions=[where + len(path) - 1],
                write_slots=[slot],
                context_slots=slots[:where],
                tree_slots=path,
                tree_mask=np.ones((1, len(path)), dtype=np.bool_),
                output_rows=[0],
            )
            own = children_of(segment, [where + len(path) - 1])[0]
            fresh.append(len(rows))
            rows.append((parent, token, own))
            paths.append(path)
            scores.append(score)
    return rows


@pytest.mark.parametrize("sampling", [GREEDY, HOT])
def test_levels_grow_the_tree_of_single_steps(sampling):
    model = small_model("llama")
    texts = [tokens(5, seed=1), tokens(3, seed=2)]
    homes = [SCATTERED[:40], SCATTERED[40:80]]
    limits = [(9, -50.0), (4, -2.5)]  # the second may run two levels, likely nodes only
    runner = fused_runner(model)
    first_token = step_by_step(runner, texts[0], homes[0], sampling, 1, 9, -50.0, ())[1][1]
    barren = (int(first_token),)
    expected = [
        step_by_step(runner, text, home, sampling, 2, *own, barren)
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
            for row, (_, _, children) in zip(rows, wanted, strict=True):
                assert [t for t, _ in row.children] == [t for t, _ in children]
                gains = [gain for _, gain in row.children]
                assert gains == pytest.approx([gain for _, gain in children], abs=1e-3)
