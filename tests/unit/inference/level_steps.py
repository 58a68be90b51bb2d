"""Trees grown by passes one at a time: what growing by levels must come to."""

import numpy as np
from tests.unit.inference.tiny_segments import chunk

from treedraft.inference.draft_sampler import draft_children
from treedraft.inference.law import LawRow
from treedraft.inference.segment import Segment

NUM_CHILDREN, WIDTH = 3, 2


def law(sampling, position):
    return LawRow(sampling, position=position)


def step_by_step(
    runner,
    text,
    slots,
    sampling,
    levels,
    last_position,
    min_score,
    barren,
    choose=draft_children,
):
    """Grow one session's tree by passes from outside: [(parent, token, children)]."""
    where = len(text)

    def children_of(segment, positions):
        logits = runner.forward([segment])
        rows = [law(sampling, position + 1) for position in positions]
        return choose(logits, rows, NUM_CHILDREN)

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
