"""Attention over a KV pool with a tree mask, as transformers' attention function.

Importing this module registers `ATTENTION_NAME` with transformers. A model
loaded with that name calls `attend` in every layer with the queries, keys and
values of all rows of a pass, packed into a batch of one. What each row may see
is in the `AttentionPlan` that the runner hands through the model's keyword
arguments: it is made once for a pass, on the device, and every layer only
follows it.

Rows are attended to in groups of segments of similar shape, padded to a
rectangle, one kernel call per group; `group_shapes` weighs padding against
calls. Query heads that share a key head are folded into rows of that head, so
that no kernel needs the keys repeated.

Invariants: a row sees the keys its mask names, those of the same pass
included, and nothing else; padding reads only slots of its own segment, so not
even a NaN passes from one session to another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.kv_pool import KVPool

ATTENTION_NAME = "treedraft"
NO_KEYWORD_ARGUMENTS = "the model does not hand keyword arguments to its attention function"

# In units of one row attending to one key: what it costs to read a key, and
# what a kernel call costs besides. Measured on a CPU; an accelerator does far
# more work in the time of a call.
_KEY_COST = 4
_CPU_CALL_COST = 4096
_ACCELERATOR_CALL_COST = 2**20

# Consecutive slots are a slice, which reads in place; others an int64 index.
SlotIndex = slice | torch.Tensor


@dataclass(frozen=True, slots=True)
class GatheredKeys:
    """Keys that do not lie in a row and are copied together for the kernel.

    `index` [num_segments * num_kv_heads * num_keys] numbers the heads of all
    slots of a layer, head `h` of slot `s` being `s * num_kv_heads + h`, in the
    order that kernels read fastest. `scratch` [2, len(index), head_dim]
    receives keys and values; all layers and groups use the same memory, since
    fresh pages for every layer cost more than the copy.
    """

    index: torch.Tensor
    scratch: torch.Tensor


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Segments that share one kernel call, padded to `num_rows` by `num_keys`.

    `rows` is their part of the packed rows, segment after segment. Where
    segments differ in rows, `padded_rows` [num_segments * num_rows] picks the
    rectangle out of that part and `real_rows` [rows] picks the part out of the
    flattened rectangle. `keys` says where to find the keys. `mask`
    [num_segments, 1, num_query_groups * num_rows, num_keys] is added to the
    scores, 0 or -inf; None hides nothing.
    """

    num_segments: int
    rows: slice
    padded_rows: torch.Tensor | None
    real_rows: torch.Tensor | None
    keys: slice | GatheredKeys
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What all layers of one pass do.

    `write_slots` [total_rows] receive the keys and values of the packed rows
    before any row attends; the groups cover the packed rows in order;
    `max_position` is the highest position of a row.
    """

    pool: KVPool
    write_slots: SlotIndex
    groups: tuple[AttentionGroup, ...]
    max_position: int


def group_shapes(shapes: Sequence[tuple[int, int]], *, is_on_cpu: bool = True) -> list[list[int]]:
    """Return which segments to attend to in one padded call each.

    Neighbours in size are merged as long as the padding costs less than the
    call that it saves.

    Args:
        shapes: (rows, keys) of each segment.
        is_on_cpu: whether calls are cheap against work.
    """
    call_cost = _CPU_CALL_COST if is_on_cpu else _ACCELERATOR_CALL_COST

    def cost(count: int, num_rows: int, num_keys: int) -> int:
        return count * num_keys * (num_rows + _KEY_COST) + call_cost

    groups: list[list[int]] = []
    max_rows = max_keys = 0
    for index in sorted(range(len(shapes)), key=lambda i: (shapes[i][0].bit_length(), shapes[i])):
        num_rows, num_keys = shapes[index]
        if groups:
            count = len(groups[-1])
            joint = max(max_rows, num_rows), max(max_keys, num_keys)
            apart = cost(count, max_rows, max_keys) + cost(1, num_rows, num_keys)
            if cost(count + 1, *joint) <= apart:
                groups[-1].append(index)
                max_rows, max_keys = joint
                continue
        groups.append([index])
        max_rows, max_keys = num_rows, num_keys
    return groups


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    tree_plan: AttentionPlan | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Store keys and values of the rows and attend by the plan.

    Args:
        module: the attention layer; its `layer_idx` says which.
        query: [1, num_heads, total_rows, head_dim].
        key: [1, num_kv_heads, total_rows, head_dim].
        value: as `key`.
        attention_mask: not used; the plan has the masks.
        scaling: of the scores.
        tree_plan: made by the runner.
        options: what else the layer asks for; refused if it would change scores.

    Returns:
        [1, total_rows, num_heads, head_dim] and None for the weights.

    Raises:
        UnsupportedModelError: the layer wants what the plan cannot do.
    """
    plan = _check_layer(tree_plan, options)
    layer: int = module.layer_idx  # type: ignore[assignment]
    rows = key[0].transpose(0, 1), value[0].transpose(0, 1)
    return attend_rows(plan, layer, query[0], *rows, scaling=scaling).unsqueeze(0), None


def attend_rows(
    plan: AttentionPlan,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float,
) -> torch.Tensor:
    """Store keys and values of all rows of a pass in one layer and attend by the plan.

    Args:
        plan: of the pass.
        layer: number of the layer.
        query: [num_heads, total_rows, head_dim].
        key: [total_rows, num_kv_heads, head_dim].
        value: as `key`.
        scaling: of the scores.

    Returns:
        [total_rows, num_heads, head_dim].
    """
    keys, values = plan.pool.key_layers[layer], plan.pool.value_layers[layer]
    _write(keys, plan.write_slots, key)
    _write(values, plan.write_slots, value)
    outputs = [_attend_group(group, query, keys, values, scaling) for group in plan.groups]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def check_attention_options(options: Mapping[str, Any], *, num_positions: int) -> None:
    """Raise UnsupportedModelError for what would make attention more than causal.

    Args:
        options: what transformers hands to an attention function beside its tensors.
        num_positions: of the longest text.
    """
    window = options.get("sliding_window")
    if window is not None and num_positions > window:
        raise unsupported_attention(
            f"position {num_positions - 1} lies beyond a sliding window of {window}"
        )
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise unsupported_attention(f"attention with {name} is not supported")


def unsupported_attention(message: str) -> UnsupportedModelError:
    """Return the error of a model whose attention cannot be done."""
    return UnsupportedModelError(message, reason="UNSUPPORTED_ATTENTION")


def _check_layer(plan: AttentionPlan | None, options: Mapping[str, Any]) -> AttentionPlan:
    if plan is None:
        raise unsupported_attention(NO_KEYWORD_ARGUMENTS)
    check_attention_options(options, num_positions=plan.max_position + 1)
    return plan


def _write(stored: torch.Tensor, slots: SlotIndex, rows: torch.Tensor) -> None:
    # stored: [num_slots, num_kv_heads, head_dim]; rows: [total_rows, …]
    if isinstance(slots, slice):
        stored[slots] = rows
    else:
        stored.index_copy_(0, slots, rows)


def _read(
    keys: torch.Tensor, values: torch.Tensor, where: slice | GatheredKeys, num_segments: int
) -> tuple[torch.Tensor, torch.Tensor]:
    # Returns keys and values, [num_segments, num_kv_heads, num_keys, head_dim] each.
    if isinstance(where, slice):
        return keys[where].transpose(0, 1)[None], values[where].transpose(0, 1)[None]
    shape = (num_segments, keys.shape[1], -1, keys.shape[2])
    torch.index_select(keys.flatten(0, 1), 0, where.index, out=where.scratch[0])
    torch.index_select(values.flatten(0, 1), 0, where.index, out=where.scratch[1])
    return where.scratch[0].view(shape), where.scratch[1].view(shape)


def _attend_group(
    group: AttentionGroup,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Return the output of the group's rows, [rows, num_heads, head_dim].

    Args:
        group: which rows, keys and mask.
        query: packed rows, [num_heads, total_rows, head_dim].
        keys: one layer of the pool, [num_slots, num_kv_heads, head_dim].
        values: as `keys`.
        scaling: of the scores.
    """
    rows = query[:, group.rows]
    if group.padded_rows is not None:
        rows = rows.index_select(1, group.padded_rows)
    num_heads, num_rows, head_dim = rows.shape
    num_segments, num_kv_heads = group.num_segments, keys.shape[1]
    num_rows //= num_segments
    # [kv_head, head of it, segment, row] → [segment, kv_head, head of it and row]
    folded = (
        rows.reshape(num_kv_heads, -1, num_segments, num_rows, head_dim)
        .permute(2, 0, 1, 3, 4)
        .flatten(2, 3)
    )
    folded_output = scaled_dot_product_attention(
        folded,
        *_read(keys, values, group.keys, num_segments),
        attn_mask=group.mask,
        scale=scaling,
    )
    output = (
        folded_output.view(num_segments, num_kv_heads, -1, num_rows, head_dim)
        .permute(0, 3, 1, 2, 4)
        .reshape(num_segments * num_rows, num_heads, head_dim)
    )
    return output if group.real_rows is None else output.index_select(0, group.real_rows)


AttentionInterface.register(ATTENTION_NAME, attend)
