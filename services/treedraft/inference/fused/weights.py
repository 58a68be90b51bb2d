"""The weights of a decoder as fused passes read them: products that share an input joined."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from treedraft.inference.decoder_shape import DecoderShape, shape_of
from treedraft.inference.fused.plans import (
    ProductPlan,
    plan_gated_product,
    plan_head,
    plan_product,
    plan_turned_product,
)
from treedraft.inference.native.turn_table import TurnTable


@dataclass(frozen=True, slots=True)
class DecoderPlans:
    """How each product of a layer, and the head, is cut."""

    qkv: ProductPlan
    turned: ProductPlan  # likewise, where the product turns what it makes
    out: ProductPlan
    gate_up: ProductPlan
    down: ProductPlan
    head: ProductPlan


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one layer; `bias` is that of queries, keys and values, or empty."""

    attention_norm: Tensor
    qkv: Tensor
    bias: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All of a decoder; `cosines` and `sines` are float32 [positions, head_dim]."""

    shape: DecoderShape
    plans: DecoderPlans
    embeddings: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Tensor
    cosines: Tensor
    sines: Tensor

    @property
    def num_read_bytes(self) -> int:
        """What a pass over few rows must read at least: all weights but the embeddings."""
        tensors = [self.head, self.norm]
        for layer in self.layers:
            tensors += [layer.attention_norm, layer.qkv, layer.bias, layer.out]
            tensors += [layer.mlp_norm, layer.gate_up, layer.down]
        return sum(tensor.nbytes for tensor in tensors)


class JoinedLinear(nn.Module):
    """Where a linear layer was whose weights were joined; it knows its shape alone."""

    def __init__(self, linear: nn.Linear) -> None:
        """Stand for `linear`, whose weights are no longer needed."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features


@torch.inference_mode()
def take_weights(module: PreTrainedModel) -> DecoderWeights:
    """Join the weights of a module, which keeps no linear layer of its own.

    Such a module can neither be trained nor saved nor called. Layer by layer, so that
    no more than one layer is in memory twice.
    """
    shape = shape_of(module)
    turns = TurnTable(module.model.rotary_emb)
    turns.cover(module.config.max_position_embeddings)
    layers = tuple(_take_layer(layer) for layer in module.model.layers)
    head = module.lm_head.weight.detach()
    module.lm_head = JoinedLinear(module.lm_head)
    return DecoderWeights(
        shape=shape,
        plans=_plan(shape),
        embeddings=module.model.embed_tokens.weight.detach(),
        layers=layers,
        norm=module.model.norm.weight.detach(),
        head=head,
        cosines=turns.cos.to(head.device),
        sines=turns.sin.to(head.device),
    )


def _plan(shape: DecoderShape) -> DecoderPlans:
    return DecoderPlans(
        qkv=plan_product(shape.qkv, shape.hidden),
        turned=plan_turned_product(shape.qkv, shape.hidden),
        out=plan_product(shape.hidden, shape.num_heads * shape.head_dim),
        gate_up=plan_gated_product(shape.intermediate, shape.hidden),
        down=plan_product(shape.hidden, shape.intermediate),
        head=plan_head(shape.vocab_size, shape.hidden),
    )


def _take_layer(layer: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    biases = [p.bias for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
    has_bias = biases[0] is not None
    return LayerWeights(
        attention_norm=layer.input_layernorm.weight.detach(),
        bias=torch.cat(biases) if has_bias else attention.q_proj.weight.new_empty(0),
        qkv=_join(attention, "q_proj", "k_proj", "v_proj"),
        out=_join(attention, "o_proj"),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=_join(mlp, "gate_proj", "up_proj"),
        down=_join(mlp, "down_proj"),
    )


def _join(parent: Any, *names: str) -> Tensor:
    linears: list[nn.Linear] = [getattr(parent, name) for name in names]
    joined = torch.cat([linear.weight.detach() for linear in linears]).contiguous()
    for name, linear in zip(names, linears, strict=True):
        setattr(parent, name, JoinedLinear(linear))
    return joined
