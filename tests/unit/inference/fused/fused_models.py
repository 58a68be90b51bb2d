"""Small models of sizes that kernels take, run by the fused decoder."""

import copy
import functools
from dataclasses import replace

import numpy as np
import torch
from tests.unit.inference.tiny_models import SIZES, TinyModel, build
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from treedraft.inference.fused.decoder import FusedDecoder
from treedraft.inference.runner import Runner

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_SLOTS = 256
SCATTERED = np.random.default_rng(3).permutation(NUM_SLOTS)

# Few heads, since a program of a kernel takes a millisecond in the interpreter.
_SIZES = SIZES | {"num_attention_heads": 3, "num_key_value_heads": 1}


_KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


@functools.cache
def small_model(architecture: str, dtype: torch.dtype = torch.float32) -> TinyModel:
    """Return a model with heads of 16 numbers."""
    config, model_class = _KINDS[architecture]
    model = build(config(**_SIZES), model_class, dtype)
    return replace(model, head_dim=16, num_kv_heads=1)


@functools.cache
def model_of_wide_heads(architecture: str) -> TinyModel:
    """Return a model whose heads have halves of 16 numbers, the least that a product makes."""
    config, model_class = _KINDS[architecture]
    model = build(config(**_SIZES, head_dim=32), model_class, torch.float32)
    return replace(model, head_dim=32, num_kv_heads=1)


def fused_runner(model: TinyModel, **ways: object) -> Runner:
    """Return a runner whose passes are fused, in `ways` other than the usual, on an own pool."""
    module = copy.deepcopy(model.module).to(DEVICE)
    decoder = FusedDecoder(module)
    decoder.ways = replace(decoder.ways, **ways)
    on_device = replace(model, module=module, native=decoder, device=DEVICE)
    return Runner(on_device, on_device.pool(NUM_SLOTS))
