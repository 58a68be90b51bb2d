"""What happens between two products of a layer: parts added up, residual, RMSNorm.

One program a row. The residual stream is float32, whatever the weights are.
(RMSNorm: Zhang and Sennrich 2019, arXiv 1910.07467.)
"""

import triton
import triton.language as tl

from treedraft.inference.fused.kernels.early import await_last


@triton.jit
def _write_normed(state, weight, normed, row, at, is_real, epsilon, HIDDEN: tl.constexpr):
    mean_square = tl.sum(state * state, 0) / HIDDEN
    scaled = state / tl.sqrt(mean_square + epsilon)
    scaled *= tl.load(weight + at, mask=is_real, other=0.0).to(tl.float32)
    tl.store(normed + row * HIDDEN + at, scaled.to(normed.dtype.element_ty), mask=is_real)


@triton.jit
def embed_norm(
    token_ids,
    embeddings,  # [tokens, HIDDEN]
    states,  # float32 [rows, HIDDEN]
    weight,
    normed,  # [rows, HIDDEN]
    epsilon,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_EARLY: tl.constexpr = False,
):
    """Begin a pass: the embedding of every row, and its norm."""
    await_last(IS_EARLY)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    is_real = at < HIDDEN
    token = tl.load(token_ids + row).to(tl.int64)
    state = tl.load(embeddings + token * HIDDEN + at, mask=is_real, other=0.0).to(tl.float32)
    tl.store(states + row * HIDDEN + at, state, mask=is_real)
    _write_normed(state, weight, normed, row, at, is_real, epsilon, HIDDEN)


@triton.jit
def add_norm(
    states,  # float32 [rows, HIDDEN], added to
    parts,  # float32 [NUM_SPLITS, rows, HIDDEN]
    part_stride,
    weight,
    normed,  # [rows, HIDDEN]
    epsilon,
    NUM_SPLITS: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_EARLY: tl.constexpr = False,
):
    """Add a product to the residual stream and norm what comes out."""
    await_last(IS_EARLY)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    is_real = at < HIDDEN
    state = tl.load(states + row * HIDDEN + at, mask=is_real, other=0.0)
    for split in tl.static_range(NUM_SPLITS):
        state += tl.load(parts + split * part_stride + row * HIDDEN + at, mask=is_real, other=0.0)
    tl.store(states + row * HIDDEN + at, state, mask=is_real)
    _write_normed(state, weight, normed, row, at, is_real, epsilon, HIDDEN)


@triton.jit
def final_norm(
    output_rows,
    states,
    parts,
    part_stride,
    weight,
    normed,  # [output rows, HIDDEN]
    epsilon,
    NUM_SPLITS: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_EARLY: tl.constexpr = False,
):
    """Norm the last states of the rows whose logits are wanted."""
    await_last(IS_EARLY)
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(output_rows + place).to(tl.int64)
    at = tl.arange(0, BLOCK)
    is_real = at < HIDDEN
    state = tl.load(states + row * HIDDEN + at, mask=is_real, other=0.0)
    for split in tl.static_range(NUM_SPLITS):
        state += tl.load(parts + split * part_stride + row * HIDDEN + at, mask=is_real, other=0.0)
    _write_normed(state, weight, normed, place, at, is_real, epsilon, HIDDEN)
