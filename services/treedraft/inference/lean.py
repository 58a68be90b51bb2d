"""A decoder's forward pass with less between its matrix products.

A pass of a small model over a few rows takes milliseconds, and with
transformers' own forward a third of that goes to Python and to operators of a
few microseconds each: seven products a layer where four do, norms of six
operators, rotations of queries and keys apart, a batch dimension of one that is
carried everywhere. Here a pass is the same arithmetic over packed rows, with the
products that share an input made at once.

Invariant: the logits are those of the module's own forward up to rounding.
Modules of any other kind than those known here keep their own forward.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

from treedraft.inference.tree_attention import AttentionPlan, attend_rows

_KNOWN = (LlamaForCausalLM, Qwen2ForCausalLM)


def can_streamline(module: PreTrainedModel) -> bool:
    """Return whether the module is of a kind whose forward is written out here."""
    config = module.config
    return (
        type(module) in _KNOWN
        and config.hidden_act == "silu"
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


def streamline(module: PreTrainedModel) -> None:
    """Give a module the forward of this file; it can no longer be trained or saved.

    To be called before its linear layers are packed.
    """
    assert can_streamline(module)
    for layer in module.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        attention.qkv_proj = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        mlp.gate_up_proj = _joined(mlp.gate_proj, mlp.up_proj)
        del attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj
    module.forward = MethodType(_forward, module)


def _joined(*linears: nn.Linear) -> nn.Linear:
    """Return one linear layer whose outputs are those of all, side by side."""
    first = linears[0]
    weight = torch.cat([linear.weight for linear in linears])
    joined = nn.Linear(first.in_features, len(weight), bias=first.bias is not None, device="meta")
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if first.bias is not None:
        bias = torch.cat([linear.bias for linear in linears])
        joined.bias = nn.Parameter(bias, requires_grad=False)
    return joined


def _forward(
    module: Any,
    input_ids: Tensor,
    position_ids: Tensor,
    logits_to_keep: Tensor,
    tree_plan: AttentionPlan,
    **_options: object,
) -> CausalLMOutputWithPast:
    """Return the logits of chosen rows, [1, kept, vocab].

    Args:
        module: with joined layers.
        input_ids: [1, rows].
        position_ids: [1, rows].
        logits_to_keep: rows whose logits are wanted.
        tree_plan: what each row attends to.
    """
    decoder = module.model
    hidden = decoder.embed_tokens(input_ids[0])  # [rows, hidden]
    cos, sin = decoder.rotary_emb(hidden[None], position_ids)  # [1, rows, head_dim] each
    turn = cos.transpose(0, 1), _signed(sin).transpose(0, 1)  # [rows, 1, head_dim]
    for index, layer in enumerate(decoder.layers):
        hidden = hidden + _attention(layer, index, hidden, turn, tree_plan)
        gate, up = layer.mlp.gate_up_proj(_norm(layer.post_attention_layernorm, hidden)).chunk(
            2, -1
        )
        hidden = hidden + layer.mlp.down_proj(silu(gate).mul_(up))
    kept = _norm(decoder.norm, hidden[logits_to_keep])
    return CausalLMOutputWithPast(logits=module.lm_head(kept)[None])


def _attention(
    layer: Any, index: int, hidden: Tensor, turn: tuple[Tensor, Tensor], plan: AttentionPlan
) -> Tensor:
    attention = layer.self_attn
    head_dim, num_kv_heads = attention.head_dim, plan.pool.num_kv_heads
    heads = attention.qkv_proj(_norm(layer.input_layernorm, hidden)).view(len(hidden), -1, head_dim)
    turned = _rotate(heads[:, :-num_kv_heads], *turn)  # queries and keys
    query, key = turned[:, :-num_kv_heads], turned[:, -num_kv_heads:]
    value = heads[:, -num_kv_heads:]
    scaling = attention.scaling
    output = attend_rows(plan, index, query.transpose(0, 1), key, value, scaling=scaling)
    projected: Tensor = attention.o_proj(output.flatten(1))
    return projected


def _signed(sin: Tensor) -> Tensor:
    """Return the sines with those of the first half negated."""
    half = sin.shape[-1] // 2
    return torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


def _rotate(heads: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Turn all heads by their positions (RoPE, Su et al. 2021, arXiv 2104.09864).

    The two halves of a head are the coordinates: `x cos + (-x2, x1) sin`, the
    sign being in `signed_sin`.
    """
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return torch.addcmul(heads * cos, swapped, signed_sin)


def _norm(norm: Any, hidden: Tensor) -> Tensor:
    return rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
