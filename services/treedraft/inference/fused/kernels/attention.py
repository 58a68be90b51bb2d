"""Attention of the rows of a tree over a pool of keys and values.

What a row sees is a list of slots in the order of its text: a stretch that it shares
with others of its session, the *line*, then the ancestors that only its own branch
has, the *path*. A row of a tree and the row of plain decoding after the same text
have the same list but for the numbers of the slots, so they sum up the same numbers
in the same order.

The list is cut into blocks, and these are dealt to NUM_PARTS parts in turn, each
with a softmax of its own (Milakov and Gimelshein 2018, arXiv 1805.02867); `combine`
joins the parts (split keys: Dao et al. 2023, "Flash-Decoding"). Which block belongs
to which part depends on nothing but its number. Query heads that share a key head
are the rows of one small matrix product.
"""

import triton
import triton.language as tl

from treedraft.inference.fused.kernels.early import await_last


@triton.jit
def attend(
    queries,  # [rows, NUM_KV_HEADS * GROUP, HEAD_DIM]
    keys,  # of one layer: [slots, NUM_KV_HEADS, HEAD_DIM]
    values,
    key_slots,
    line_starts,  # over rows, as the next three
    line_lengths,
    path_starts,
    path_lengths,
    sums,  # float32 [rows, NUM_KV_HEADS, NUM_PARTS, GROUP, HEAD_DIM]
    peaks,  # float32 [rows, NUM_KV_HEADS, NUM_PARTS, GROUP]: the highest score
    masses,  # likewise: the sum of weights relative to it
    scaling,  # of the scores, times log2(e)
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PADDED_GROUP: tl.constexpr,  # what a matrix product has at least
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    IS_EARLY: tl.constexpr = False,
):
    """Attend to every NUM_PARTS-th block of a row's keys, for the heads of one key head."""
    await_last(IS_EARLY)
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    part = tl.program_id(2)
    line_length = tl.load(line_lengths + row)
    length = line_length + tl.load(path_lengths + row)
    if part * BLOCK < length:
        line_start = tl.load(line_starts + row)
        path_start = tl.load(path_starts + row) - line_length
        members = tl.arange(0, PADDED_GROUP)
        dims = tl.arange(0, HEAD_DIM)
        columns = tl.arange(0, BLOCK)
        is_real = members < GROUP
        heads = (row * NUM_KV_HEADS + head) * GROUP + members
        asked = tl.load(
            queries + heads[:, None] * HEAD_DIM + dims[None, :], mask=is_real[:, None], other=0.0
        )
        peak = tl.full([PADDED_GROUP], float("-inf"), tl.float32)
        mass = tl.zeros([PADDED_GROUP], tl.float32)
        total = tl.zeros([PADDED_GROUP, HEAD_DIM], tl.float32)
        for start in range(part * BLOCK, length, NUM_PARTS * BLOCK):
            at = start + columns
            is_seen = at < length
            where = tl.where(at < line_length, line_start, path_start) + at
            slots = tl.load(key_slots + where, mask=is_seen, other=0).to(tl.int64)
            places = (slots * NUM_KV_HEADS + head) * HEAD_DIM
            mask = is_seen[:, None]
            key = tl.load(keys + places[:, None] + dims[None, :], mask=mask, other=0.0)
            value = tl.load(values + places[:, None] + dims[None, :], mask=mask, other=0.0)
            scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * scaling
            scores = tl.where(is_seen[None, :], scores, float("-inf"))
            higher = tl.maximum(peak, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(peak - higher)
            added = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
            total = total * shrink[:, None] + added
            mass = mass * shrink + tl.sum(weights, 1)
            peak = higher
        first = ((row * NUM_KV_HEADS + head) * NUM_PARTS + part) * GROUP + members
        tl.store(peaks + first, peak, mask=is_real)
        tl.store(masses + first, mass, mask=is_real)
        tl.store(sums + first[:, None] * HEAD_DIM + dims[None, :], total, mask=is_real[:, None])


@triton.jit
def combine(
    sums,
    peaks,
    masses,
    line_lengths,
    path_lengths,
    outputs,  # [rows, NUM_KV_HEADS * GROUP, HEAD_DIM]
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    IS_EARLY: tl.constexpr = False,
):
    """Join the parts of one head of one row; a row that sees nothing gets zeros."""
    await_last(IS_EARLY)
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    length = tl.load(line_lengths + row) + tl.load(path_lengths + row)
    parts = tl.arange(0, NUM_PARTS)
    dims = tl.arange(0, HEAD_DIM)
    is_there = parts * BLOCK < length
    kv_head = row * NUM_KV_HEADS + head // GROUP
    places = (kv_head * NUM_PARTS + parts) * GROUP + head % GROUP
    peak = tl.load(peaks + places, mask=is_there, other=float("-inf"))
    highest = tl.maximum(tl.max(peak, 0), -1e30)  # finite also for a row that sees nothing
    factors = tl.where(is_there, tl.exp2(peak - highest), 0.0)
    mass = tl.sum(tl.load(masses + places, mask=is_there, other=0.0) * factors, 0)
    total = tl.load(
        sums + places[:, None] * HEAD_DIM + dims[None, :], mask=is_there[:, None], other=0.0
    )
    joined = tl.sum(total * factors[:, None], 0) / tl.where(length > 0, mass, 1.0)
    place = (row * NUM_KV_HEADS * GROUP + head) * HEAD_DIM
    tl.store(outputs + place + dims, joined.to(outputs.dtype.element_ty))
