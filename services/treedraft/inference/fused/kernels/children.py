"""The children that a drafter gives a node, chosen where its logits are.

Gumbel-top-K (Kool et al. 2019, arXiv 1903.06059) with the target's own noise: the best
columns of logits over temperature plus noise, and what the law of all columns says of
each. Programs find the best of their part of the columns, then one joins the parts.
"""

import triton
import triton.language as tl

from treedraft.inference.fused.kernels.draw import _noise_of_pairs


@triton.jit
def top_of_parts(
    logits,  # float32 [rows, columns]
    row_stride,
    column_ids,  # int32 [COLUMNS]: the token of each column
    keys,  # int64 [rows, 4], as of `draw_parts`
    temperatures,  # float32 [rows]; 0 adds no noise
    score_temperature,
    best_scores,  # float32 [rows, NUM_PARTS, NUM_CHILDREN]
    best_tokens,  # int32, likewise
    peaks,  # float32 [rows, NUM_PARTS]
    masses,  # float32 [rows, NUM_PARTS]: the sum of weights relative to the peak
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    NUM_CHILDREN: tl.constexpr,
):
    """Find the best columns of one part of a row, the lowest first among equals."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = part * BLOCK + tl.arange(0, BLOCK)
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
    peak = tl.maximum(tl.max(scores, 0), -1e30)
    place = row * NUM_PARTS + part
    tl.store(peaks + place, peak)
    tl.store(masses + place, tl.sum(tl.exp(scores - peak), 0))
    for rank in tl.static_range(NUM_CHILDREN):
        highest = tl.max(scores, 0)
        column = tl.min(tl.where(scores == highest, at, COLUMNS - 1), 0)
        tl.store(best_scores + place * NUM_CHILDREN + rank, highest)
        tl.store(best_tokens + place * NUM_CHILDREN + rank, tl.load(column_ids + column))
        scores = tl.where(at == column, float("-inf"), scores)


@triton.jit
def top_children(
    best_scores,
    best_tokens,
    peaks,
    masses,
    tokens,  # int32 [rows, NUM_CHILDREN]
    gains,  # float32 [rows, NUM_CHILDREN]: log-probabilities, -inf where there is no child
    NUM_PARTS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,
    PADDED_BEST: tl.constexpr,
    NUM_CHILDREN: tl.constexpr,
):
    """Write the best children of a row, best first."""
    row = tl.program_id(0).to(tl.int64)
    parts = tl.arange(0, PADDED_PARTS)
    is_part = parts < NUM_PARTS
    peak = tl.load(peaks + row * NUM_PARTS + parts, mask=is_part, other=-1e30)
    mass = tl.load(masses + row * NUM_PARTS + parts, mask=is_part, other=0.0)
    best = tl.max(peak, 0)
    log_total = best + tl.log(tl.sum(mass * tl.exp(peak - best), 0))
    at = tl.arange(0, PADDED_BEST)
    first = row * NUM_PARTS * NUM_CHILDREN
    is_real = at < NUM_PARTS * NUM_CHILDREN
    scores = tl.load(best_scores + first + at, mask=is_real, other=float("-inf"))
    for rank in tl.static_range(NUM_CHILDREN):
        highest = tl.max(scores, 0)
        chosen = tl.min(tl.where((scores == highest) & is_real, at, PADDED_BEST - 1), 0)
        chosen = tl.minimum(chosen, NUM_PARTS * NUM_CHILDREN - 1)
        tl.store(tokens + row * NUM_CHILDREN + rank, tl.load(best_tokens + first + chosen))
        tl.store(gains + row * NUM_CHILDREN + rank, highest - log_total)
        scores = tl.where(at == chosen, float("-inf"), scores)
