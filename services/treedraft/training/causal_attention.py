"""Plain causal attention for training: whole texts, padded at their ends.

Padding comes after all real tokens, so the causal order alone keeps it out of
what they see, and no mask is needed. transformers' own function would look at
the positions of every pass to find out whether a mask is needed, which makes
the host wait for the device; under a name of our own it does not.

Importing this module registers `CAUSAL_ATTENTION` with transformers.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from treedraft.inference.tree_attention import check_attention_options, unsupported_attention

CAUSAL_ATTENTION = "treedraft_causal"


def attend_causally(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to what came before.

    Args:
        module: the attention layer.
        query: [batch, num_heads, length, head_dim].
        key: [batch, num_kv_heads, length, head_dim].
        value: as `key`.
        attention_mask: must be None.
        scaling: of the scores.
        options: what else the layer asks for; refused if it would change scores.

    Returns:
        [batch, length, num_heads, head_dim] and None for the weights.

    Raises:
        UnsupportedModelError: reason UNSUPPORTED_ATTENTION.
    """
    if attention_mask is not None:
        raise unsupported_attention(f"{type(module).__name__} asks for a mask")
    check_attention_options(options, num_positions=query.shape[2])
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(CAUSAL_ATTENTION, attend_causally)
