"""Small real models, each twice: with our attention function and with eager attention."""

import copy
import functools
from dataclasses import dataclass, field

import torch
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from treedraft.inference.kv_pool import KVPool
from treedraft.inference.native.decoder import NativeDecoder
from treedraft.inference.tree_attention import ATTENTION_NAME

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class TinyModel:
    """What a runner needs, and the same weights under eager attention."""

    module: PreTrainedModel
    eager: PreTrainedModel
    num_layers: int = 2
    num_kv_heads: int = 2
    head_dim: int = 8
    vocab_size: int = 97
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    native: NativeDecoder | None = None

    def pool(self, num_slots: int) -> KVPool:
        """Return an empty pool that fits the model."""
        return KVPool(
            self.num_layers,
            num_slots,
            self.num_kv_heads,
            self.head_dim,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def causal_logits(self, token_ids: list[int]) -> torch.Tensor:
        """Return what transformers says of every position, float32 [tokens, vocab]."""
        return self.eager(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0].float()


def build(
    config: PreTrainedConfig, model_class: type[PreTrainedModel], dtype: torch.dtype
) -> TinyModel:
    """Return a model of random weights, large enough that logits differ clearly."""
    torch.manual_seed(7)
    modules = []
    for attention in (ATTENTION_NAME, "eager"):
        module = model_class._from_config(
            copy.deepcopy(config), attn_implementation=attention, dtype=dtype
        )
        modules.append(module.eval().requires_grad_(False))
    with torch.no_grad():
        for parameter in modules[0].parameters():
            # Norms stay near 1, so that the logits are spread out.
            parameter.normal_(mean=1.0 if parameter.ndim == 1 else 0.0, std=0.25)
    modules[1].load_state_dict(modules[0].state_dict())
    return TinyModel(*modules, dtype=dtype)


@functools.cache
def tiny_model(architecture: str = "llama", dtype: torch.dtype = torch.float32) -> TinyModel:
    """Return the model of an architecture."""
    match architecture:
        case "llama":
            return build(LlamaConfig(**SIZES), LlamaForCausalLM, dtype)
        case "qwen2":
            return build(Qwen2Config(**SIZES), Qwen2ForCausalLM, dtype)
        case "granite":  # scales scores, residuals and logits by factors of its own
            config = GraniteConfig(
                **SIZES, logits_scaling=3.0, attention_multiplier=0.2, residual_multiplier=0.7
            )
            return build(config, GraniteForCausalLM, dtype)
        case _:
            raise ValueError(architecture)
