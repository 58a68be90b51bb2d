"""Attention of many texts that each take one token at a time, over fixed memory.

A slot holds one text. All keys and values lie in buffers that are made once,
[num_slots, num_kv_heads, max_length, head_dim] a layer, so that a step always
does the same work at the same addresses and a CUDA graph can hold it. The
model stays transformers' own: importing this module registers
`SLOT_ATTENTION` with it, and the cache travels to every layer in the keyword
arguments of the call.

Query heads that share a key head are folded into rows of that head, so that no
kernel needs the keys repeated.

Invariant: a slot sees its own positions up to the current one and nothing
else, whatever earlier texts left behind them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from treedraft.inference.tree_attention import (
    NO_KEYWORD_ARGUMENTS,
    check_attention_options,
    unsupported_attention,
)

SLOT_ATTENTION = "treedraft_slots"

# (queries, keys, values, cache, scaling) → output, shaped as the queries
DecodeAttention = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, "SlotCache", float], torch.Tensor
]


class SlotCache:
    """Keys and values of all slots, and where each slot stands.

    `keys[layer]` and `values[layer]` are [num_slots, num_kv_heads, max_length,
    head_dim]; `last_positions` [num_slots] (int64) is the position of the token
    that a slot takes in this step, and `mask` [num_slots, 1, 1, max_length] is 0 up
    to there and -inf behind.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        max_length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate: 2 × layers × slots × heads × length × head_dim numbers."""
        shape = (num_slots, num_kv_heads, max_length, head_dim)
        # Zeros, since what no mask lets through must still be finite.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.last_positions = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.mask = torch.zeros((num_slots, 1, 1, max_length), dtype=dtype, device=device)
        self.attention: DecodeAttention = masked_attention
        self.max_length = max_length
        self._columns = torch.arange(max_length, device=device)
        self._write_index = torch.zeros(num_slots * num_kv_heads, dtype=torch.int64, device=device)
        self._row_starts = torch.arange(num_slots * num_kv_heads, device=device) * max_length
        self._num_kv_heads = num_kv_heads

    def move_to(self, positions: torch.Tensor) -> None:
        """Say at which position each slot takes its next token, [num_slots] int64."""
        self.last_positions.copy_(positions)
        is_hidden = self._columns[None, None, None, :] > positions[:, None, None, None]
        self.mask.zero_().masked_fill_(is_hidden, float("-inf"))
        by_head = positions[:, None].expand(-1, self._num_kv_heads).reshape(-1)
        torch.add(self._row_starts, by_head, out=self._write_index)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Store the keys and values of this step, and attend to all so far.

        Args:
            layer: which one.
            query: [num_slots, num_heads, 1, head_dim].
            key: [num_slots, num_kv_heads, 1, head_dim].
            value: as `key`.
            scaling: of the scores.

        Returns:
            [num_slots, 1, num_heads, head_dim].
        """
        keys, values = self.keys[layer], self.values[layer]
        num_slots, num_heads, _, head_dim = query.shape
        keys.view(-1, head_dim).index_copy_(0, self._write_index, key.reshape(-1, head_dim))
        values.view(-1, head_dim).index_copy_(0, self._write_index, value.reshape(-1, head_dim))
        folded = query.reshape(num_slots, self._num_kv_heads, -1, head_dim)
        output = self.attention(folded, keys, values, self, scaling)
        return output.reshape(num_slots, 1, num_heads, head_dim)


def masked_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cache: SlotCache,
    scaling: float,
) -> torch.Tensor:
    """Attend over the whole length with a mask: on every device, for every shape.

    Args:
        query: [num_slots, num_kv_heads, heads that share a key, head_dim].
        keys: [num_slots, num_kv_heads, max_length, head_dim].
        values: as `keys`.
        cache: whose mask to use.
        scaling: of the scores.
    """
    return scaled_dot_product_attention(query, keys, values, attn_mask=cache.mask, scale=scaling)


def attend_in_slots(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    slot_cache: SlotCache | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Do a layer's attention, as transformers calls it.

    Raises:
        UnsupportedModelError: reason UNSUPPORTED_ATTENTION; the layer wants what the
            cache cannot do.
    """
    if slot_cache is None:
        raise unsupported_attention(NO_KEYWORD_ARGUMENTS)
    check_attention_options(options, num_positions=slot_cache.max_length)
    layer: int = module.layer_idx  # type: ignore[assignment]
    return slot_cache.attend(layer, query, key, value, scaling), None


AttentionInterface.register(SLOT_ATTENTION, attend_in_slots)
