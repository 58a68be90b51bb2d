"""The children that a drafter gives a node, chosen where its logits are.

Gumbel-top-K (Kool et al. 2019, arXiv 1903.06059) with the target's own noise: the best
columns of logits over temperature plus noise, and what the law of all columns says of each.
One program a row, all columns at once.
"""

import triton
import triton.language as tl

from treedraft.inference.fused.kernels.draw import _noise_of_pairs


@triton.jit
def top_children(
    logits,  # float32 [rows, columns]
    row_stride,
    column_ids,  # int32 [COLUMNS]: the token of each column
    keys,  # int64 [rows, 4], as of `draw_parts`
    temperatures,  # float32 [rows]; 0 adds no noise
    score_temperature,
    tokens,  # int32 [rows, NUM_CHILDREN]
    gains,  # float32 [rows, NUM_CHILDREN]: log-probabilities
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_CHILDREN: tl.constexpr,
):
    """Write the best children of a row, best first, the lowest column first among equals."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    is_real = at < COLUMNS
    scores = tl.load(logits + row * row_stride + at, mask=is_real, other=float("-inf"))
    temperature = tl.load(temperatures + row)
    if temperature > 0:
        ids = tl.load(column_ids + at, mask=is_real, other=0).to(tl.int64)
        even, odd = _noise_of_pairs(
            ids >> 1,
            tl.load(keys + row * 4),
            tl.load(keys + row * 4 + 1),
            tl.load(keys + row * 4 + 2),
            tl.load(keys + row * 4 + 3),
        )
        scores = scores / temperature + tl.where((ids & 1) == 0, even, odd).to(tl.float32)
    scores = scores / score_temperature
    best = tl.max(scores, 0)
    log_total = tl.log(tl.sum(tl.exp(scores - best), 0))
    for rank in tl.static_range(NUM_CHILDREN):
        highest = tl.max(scores, 0)
        column = tl.min(tl.where(scores == highest, at, BLOCK), 0)
        column = tl.minimum(column, COLUMNS - 1)
        tl.store(tokens + row * NUM_CHILDREN + rank, tl.load(column_ids + column))
        tl.store(gains + row * NUM_CHILDREN + rank, highest - best - log_total)
        scores = tl.where(at == column, float("-inf"), scores)
