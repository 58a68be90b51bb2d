"""Queries and keys turned by their positions, keys and values put into the pool.

One program for each head of each row; it adds up the parts of the product before
it. A row without a slot, such as padding, writes nothing to the pool.
(Rotary embedding: Su et al. 2021, arXiv 2104.09864.)
"""

import triton
import triton.language as tl

from treedraft.inference.fused.kernels.early import await_last


@triton.jit
def _load_half(parts, part_stride, bias, place, column, NUM_SPLITS: tl.constexpr, HAS_BIAS):
    total = tl.load(parts + place)
    for split in tl.static_range(1, NUM_SPLITS):
        total += tl.load(parts + split * part_stride + place)
    if HAS_BIAS:
        total += tl.load(bias + column).to(tl.float32)
    return total


@triton.jit
def turn_and_store(
    parts,  # float32 [NUM_SPLITS, rows, heads * HEAD_DIM]: queries, keys, values
    part_stride,
    bias,  # [heads * HEAD_DIM], not read without HAS_BIAS
    cosines,  # float32 [positions, HEAD_DIM]
    sines,
    positions,
    write_slots,  # -1: nowhere
    queries,  # [rows, NUM_HEADS, HEAD_DIM]
    keys,  # of one layer: [slots, NUM_KV_HEADS, HEAD_DIM]
    values,
    NUM_SPLITS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_EARLY: tl.constexpr = False,
):
    """Take one head of one row where it belongs."""
    await_last(IS_EARLY)
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    HALF: tl.constexpr = HEAD_DIM // 2
    near = tl.arange(0, HALF)
    far = near + HALF
    first = head * HEAD_DIM
    base = row * ((NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM) + first
    low = _load_half(parts, part_stride, bias, base + near, first + near, NUM_SPLITS, HAS_BIAS)
    high = _load_half(parts, part_stride, bias, base + far, first + far, NUM_SPLITS, HAS_BIAS)
    if head < NUM_HEADS + NUM_KV_HEADS:
        turn = tl.load(positions + row).to(tl.int64) * HEAD_DIM
        turned_low = low * tl.load(cosines + turn + near) - high * tl.load(sines + turn + near)
        high = high * tl.load(cosines + turn + far) + low * tl.load(sines + turn + far)
        low = turned_low
    if head < NUM_HEADS:
        place = (row * NUM_HEADS + head) * HEAD_DIM
        tl.store(queries + place + near, low.to(queries.dtype.element_ty))
        tl.store(queries + place + far, high.to(queries.dtype.element_ty))
    else:
        slot = tl.load(write_slots + row).to(tl.int64)
        is_kept = slot >= 0
        own = (head - NUM_HEADS) % NUM_KV_HEADS
        place = (slot * NUM_KV_HEADS + own) * HEAD_DIM
        if head < NUM_HEADS + NUM_KV_HEADS:
            tl.store(keys + place + near, low.to(keys.dtype.element_ty), mask=is_kept)
            tl.store(keys + place + far, high.to(keys.dtype.element_ty), mask=is_kept)
        else:
            tl.store(values + place + near, low.to(values.dtype.element_ty), mask=is_kept)
            tl.store(values + place + far, high.to(values.dtype.element_ty), mask=is_kept)
