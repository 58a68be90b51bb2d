"""Models to measure, with a runner each: random weights of a shape, or real ones from a file."""

import importlib
import os
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from treedraft.inference.forward_path import choose_path
from treedraft.inference.fused.decoder import FusedDecoder
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.models import LoadedModel, load_model
from treedraft.inference.runner import Runner
from treedraft.inference.segment import Segment
from treedraft.inference.tree_attention import ATTENTION_NAME

NUM_SLOTS = 40_960
MAX_POSITIONS = 8192


_LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
_QWEN_1_5B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
_SMOL_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
}
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}
CONFIGS = {
    "8b": (LlamaConfig, LlamaForCausalLM, _LLAMA_8B),
    "1.5b": (Qwen2Config, Qwen2ForCausalLM, _QWEN_1_5B),
    "135m": (LlamaConfig, LlamaForCausalLM, _SMOL_135M),
    "tiny": (LlamaConfig, LlamaForCausalLM, _TINY),
    "interpreted": (LlamaConfig, LlamaForCausalLM, _TINY),
}


def random_module(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a module of a shape, made on the device itself."""
    config_class, module_class, sizes = CONFIGS[name]
    config = config_class(**sizes, max_position_embeddings=MAX_POSITIONS)
    torch.manual_seed(1)
    with torch.device(device):
        module = module_class._from_config(config, attn_implementation=ATTENTION_NAME, dtype=dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
    return module.eval().requires_grad_(False)


def load(name: str, device: torch.device) -> LoadedModel:
    """Return a model by the name of a shape, or from a file."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in CONFIGS:
        dtypes = {torch.bfloat16: "bfloat16", torch.float32: "float32"}
        return load_model(name, device=str(device), dtype=dtypes[dtype])
    module = random_module(name, device, dtype)
    config = module.config
    head_dim = config.hidden_size // config.num_attention_heads
    take = choose_path(module, device, dtype).take
    if name == "interpreted" and os.environ.get("TRITON_INTERPRET") == "1":
        take = _interpreted
    return LoadedModel(
        name=name,
        module=module,
        config=config,
        fingerprint=f"random {name}",
        device=device,
        dtype=dtype,
        tokenizer_json=Tokenizer(WordLevel({"a": 0}, unk_token="a")).to_str(),
        tokenizer_hash="",
        eos_token_ids=frozenset(),
        chat_template="",
        special_tokens={},
        adds_bos=False,
        vocab_size=config.vocab_size,
        context_length=MAX_POSITIONS,
        num_layers=config.num_hidden_layers,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        native=take(module),
    )


def _interpreted(module: Any) -> FusedDecoder:
    """Return the decoder for CUDA, its kernels run by Triton's interpreter."""
    importlib.import_module("tests.unit.inference.fused.conftest")  # has what that needs
    return FusedDecoder(module)


def runner_of(model: Any, num_slots: int = NUM_SLOTS) -> Runner:
    """Return a runner on a pool of its own."""
    pool = KVPool(
        model.num_layers,
        num_slots,
        model.num_kv_heads,
        model.head_dim,
        dtype=model.dtype,
        device=model.device,
    )
    return Runner(model, pool)


def rows(
    token_ids: list[int],
    start: int,
    stop: int,
    slots: np.ndarray,
    outputs: list[int] | None = None,
    mask: np.ndarray | None = None,
    positions: list[int] | None = None,
) -> Segment:
    """Return tokens [start, stop) of a text in its slots: a chunk, or a tree with a mask."""
    count = stop - start
    return Segment(
        token_ids=token_ids[start:stop],
        positions=range(start, stop) if positions is None else positions,
        write_slots=slots[start:stop],
        context_slots=slots[:start],
        tree_slots=slots[start:stop],
        tree_mask=np.tri(count, dtype=np.bool_) if mask is None else mask,
        output_rows=range(count) if outputs is None else outputs,
    )


def prefill(runner: Runner, token_ids: list[int], slots: np.ndarray, chunk: int = 512) -> None:
    """Compute the keys and values of a text."""
    for start in range(0, len(token_ids), chunk):
        stop = min(start + chunk, len(token_ids))
        runner.forward([rows(token_ids, start, stop, slots, [stop - start - 1])])
