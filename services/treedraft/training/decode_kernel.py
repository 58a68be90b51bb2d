"""A kernel for attention of one token a text, which reads no more than it needs.

`masked_attention` reads keys and values up to the longest text that a slot
could hold. In a batch of texts at all stages that is twice of what is there,
and reading is what attention costs here. This kernel, in Triton, reads every
slot as far as it has come: one program for each slot and key head, its query
heads as the rows of a small matrix product, the softmax online (Milakov and
Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135).

Triton comes with torch for CUDA alone, so this module is imported where there
is a CUDA device, and `best_attention` tries the kernel before it trusts it.
"""

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

from treedraft.training.slot_attention import SlotCache

_BLOCK = 64
_SMALLEST_DOT = 16  # rows that a matrix product of the hardware has at least


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _decode(  # type: ignore[no-untyped-def] # noqa: ANN202
    query,  # noqa: ANN001
    keys,  # noqa: ANN001
    values,  # noqa: ANN001
    last_positions,  # noqa: ANN001
    output,  # noqa: ANN001
    scaling,  # noqa: ANN001
    MAX_LENGTH: tl.constexpr,  # noqa: N803
    NUM_KV_HEADS: tl.constexpr,  # noqa: N803
    NUM_ROWS: tl.constexpr,  # noqa: N803
    PADDED_ROWS: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    head = tl.program_id(0).to(tl.int64)  # of all slots: slot * NUM_KV_HEADS + key head
    length = tl.load(last_positions + head // NUM_KV_HEADS).to(tl.int32) + 1
    rows = tl.arange(0, PADDED_ROWS)
    columns = tl.arange(0, BLOCK)
    dims = tl.arange(0, HEAD_DIM)
    row_offsets = (head * NUM_ROWS + rows)[:, None] * HEAD_DIM + dims[None, :]
    queries = tl.load(query + row_offsets, mask=rows[:, None] < NUM_ROWS, other=0.0)
    first_key = head * MAX_LENGTH * HEAD_DIM
    highest = tl.full([PADDED_ROWS], float("-inf"), tl.float32)
    weight_sum = tl.zeros([PADDED_ROWS], tl.float32)
    weighted = tl.zeros([PADDED_ROWS, HEAD_DIM], tl.float32)
    for start in range(0, length, BLOCK):
        is_visible = start + columns < length
        offsets = first_key + (start + columns)[:, None] * HEAD_DIM + dims[None, :]
        key = tl.load(keys + offsets, mask=is_visible[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(key)) * scaling
        scores = tl.where(is_visible[None, :], scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp(scores - new_highest[:, None])
        shrink = tl.exp(highest - new_highest)
        value = tl.load(values + offsets, mask=is_visible[:, None], other=0.0)
        weighted = weighted * shrink[:, None] + tl.dot(weights.to(value.dtype), value)
        weight_sum = weight_sum * shrink + tl.sum(weights, 1)
        highest = new_highest
    result = (weighted / weight_sum[:, None]).to(output.dtype.element_ty)
    tl.store(output + row_offsets, result, mask=rows[:, None] < NUM_ROWS)


def is_supported(head_dim: int, dtype: torch.dtype) -> bool:
    """Return whether the kernel has this shape: head_dim 16 to 256, a power of two."""
    is_power = head_dim & (head_dim - 1) == 0
    return is_power and 16 <= head_dim <= 256 and dtype in (torch.bfloat16, torch.float16)


def decode_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cache: SlotCache,
    scaling: float,
) -> torch.Tensor:
    """Attend as `masked_attention` does, and with its arguments."""
    num_slots, num_kv_heads, num_rows, head_dim = query.shape
    query = query.contiguous()
    output = torch.empty_like(query)
    _decode[(num_slots * num_kv_heads,)](
        query,
        keys,
        values,
        cache.last_positions,
        output,
        scaling,
        MAX_LENGTH=cache.max_length,
        NUM_KV_HEADS=num_kv_heads,
        NUM_ROWS=num_rows,
        PADDED_ROWS=max(_SMALLEST_DOT, triton.next_power_of_2(num_rows)),
        HEAD_DIM=head_dim,
        BLOCK=_BLOCK,
        num_warps=4,
        num_stages=3,
    )
    return output
