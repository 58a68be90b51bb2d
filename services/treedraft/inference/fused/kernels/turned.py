"""The product of queries, keys and values, turned where it is made and put into the pool.

A program holds some numbers of the first half of a head and those that they are turned
with, of all rows of a tile, and goes through all inputs. See `product` for why a row does
not depend on the others, and `turn` for what turning is.
"""

import triton
import triton.language as tl

from treedraft.inference.fused.kernels.early import await_last, fetch


@triton.jit(do_not_specialize_on_alignment=("num_rows",))
def turned_product(
    inputs,  # [rows, INPUTS]
    weight,  # [heads * HEAD_DIM, INPUTS]: queries, keys, values
    bias,  # [heads * HEAD_DIM], not read without HAS_BIAS
    cosines,  # float32 [positions, HEAD_DIM]
    sines,
    positions,
    write_slots,  # -1: nowhere
    queries,  # [rows, NUM_HEADS, HEAD_DIM]
    keys,  # of one layer: [slots, NUM_KV_HEADS, HEAD_DIM]
    values,
    num_rows,
    INPUTS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,  # divides half a head
    BLOCK_K: tl.constexpr,
    EARLY_LINES: tl.constexpr = 0,  # of each row of weights, fetched before inputs are there
    IS_EARLY: tl.constexpr = False,
):
    """Take a piece of one head of a tile of rows where it belongs."""
    HALF: tl.constexpr = HEAD_DIM // 2
    PIECES: tl.constexpr = HALF // BLOCK_N
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    head = tl.program_id(1) // PIECES
    near = tl.program_id(1) % PIECES * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = rows < num_rows
    low = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    high = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    own = (head * HEAD_DIM + near).to(tl.int64)
    fetch(weight + own * INPUTS, EARLY_LINES)
    fetch(weight + (own + HALF) * INPUTS, EARLY_LINES)
    await_last(IS_EARLY)
    low_rows = weight + own[:, None] * INPUTS
    for offset in range(0, INPUTS, BLOCK_K):
        at = offset + tl.arange(0, BLOCK_K)
        in_range = at < INPUTS
        taken = tl.load(
            inputs + rows[None, :] * INPUTS + at[:, None],
            mask=in_range[:, None] & is_row[None, :],
            other=0.0,
        )
        held = tl.load(low_rows + at[None, :], mask=in_range[None, :], other=0.0)
        low = tl.dot(held, taken, low, input_precision="ieee")
        held = tl.load(low_rows + HALF * INPUTS + at[None, :], mask=in_range[None, :], other=0.0)
        high = tl.dot(held, taken, high, input_precision="ieee")
    if HAS_BIAS:
        low += tl.load(bias + own).to(tl.float32)[:, None]
        high += tl.load(bias + own + HALF).to(tl.float32)[:, None]
    if head < NUM_HEADS + NUM_KV_HEADS:
        position = tl.load(positions + rows, mask=is_row, other=0).to(tl.int64)
        turn = position[None, :] * HEAD_DIM + near[:, None]
        turned = low * tl.load(cosines + turn) - high * tl.load(sines + turn)
        high = high * tl.load(cosines + turn + HALF) + low * tl.load(sines + turn + HALF)
        low = turned
    if head < NUM_HEADS:
        place = (rows[None, :].to(tl.int64) * NUM_HEADS + head) * HEAD_DIM + near[:, None]
        tl.store(queries + place, low.to(queries.dtype.element_ty), mask=is_row[None, :])
        tl.store(queries + place + HALF, high.to(queries.dtype.element_ty), mask=is_row[None, :])
    else:
        slot = tl.load(write_slots + rows, mask=is_row, other=-1).to(tl.int64)
        is_kept = slot[None, :] >= 0
        own_head = (head - NUM_HEADS) % NUM_KV_HEADS
        place = (slot[None, :] * NUM_KV_HEADS + own_head) * HEAD_DIM + near[:, None]
        if head < NUM_HEADS + NUM_KV_HEADS:
            tl.store(keys + place, low.to(keys.dtype.element_ty), mask=is_kept)
            tl.store(keys + place + HALF, high.to(keys.dtype.element_ty), mask=is_kept)
        else:
            tl.store(values + place, low.to(values.dtype.element_ty), mask=is_kept)
            tl.store(values + place + HALF, high.to(values.dtype.element_ty), mask=is_kept)
