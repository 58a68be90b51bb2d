"""Loads a model with everything that serving it needs.

The module is transformers' own, in eval mode, with our attention function in
place of its own. Beside it stand the tokenizer as text, for those who have no
transformers, and the numeric identity of the weights.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from treedraft.core.errors import InvalidRequestError, UnsupportedModelError
from treedraft.inference.downloads import Progress
from treedraft.inference.gguf_conversion import without_progress_bars
from treedraft.inference.prepacked import can_prepack, prepack_linears
from treedraft.inference.support import check_supported, probe_module
from treedraft.inference.tree_attention import ATTENTION_NAME
from treedraft.inference.weights import ModelFiles, be_silent, resolve
from treedraft.text.tokenizer import tokenizer_hash

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SAMPLES_PER_TENSOR = 1024
# Settings that say nothing about the numbers that come out.
_NAMES_IN_CONFIG = frozenset({"_name_or_path", "_model_name_or_path", "architectures"})


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and what it is.

    `vocab_size` counts the rows of the head, which may be more than the
    tokenizer has tokens. `fingerprint` is equal for two loaded models only if
    they compute the same numbers, rounding included.
    """

    name: str
    module: PreTrainedModel
    config: PreTrainedConfig
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    tokenizer_json: str
    tokenizer_hash: str
    eos_token_ids: frozenset[int]
    chat_template: str
    special_tokens: dict[str, str]
    adds_bos: bool
    vocab_size: int
    context_length: int
    num_layers: int
    num_kv_heads: int
    head_dim: int


def load_model(
    source: str | Path,
    *,
    name: str = "",
    dtype: str = "float32",
    device: str = "cpu",
    progress: Progress = be_silent,
) -> LoadedModel:
    """Load a model for serving or drafting.

    Args:
        source: `default`, a folder, a `.gguf` file or a hub id.
        name: what to call it; by default what the source is called.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on an
            accelerator and float32 on a CPU.
        device: a torch device, or `auto`: `cuda` where there is one, else `cpu`.
        progress: told in plain words what takes long.

    Raises:
        InvalidRequestError: reason MODEL_NOT_FOUND, or a dtype or device that
            does not exist.
        UnsupportedModelError: the model cannot be verified by a tree, is not
            complete, or has no fast tokenizer.
        UnavailableError: reason WEIGHTS_UNAVAILABLE.
    """
    torch_device = _choose_device(device)
    torch_dtype = _choose_dtype(dtype, torch_device)
    files = resolve(str(source), progress)
    config = _load_config(files)
    check_supported(config)
    tokenizer = _load_tokenizer(files)
    progress(f"loading {name or files.name} as {torch_dtype} on {torch_device}")
    module = _load_module(files, config, torch_dtype, torch_device)
    text_config = module.config.get_text_config(decoder=True)
    probe_module(module, text_config.num_hidden_layers)
    tokenizer_json = _tokenizer_json(tokenizer)
    fingerprint = _fingerprint(module, torch_dtype, torch_device)
    vocab_size = int(module.get_output_embeddings().weight.shape[0])  # type: ignore[no-untyped-call]
    if can_prepack(torch_device, torch_dtype):
        prepack_linears(module)
    return LoadedModel(
        name=name or files.name,
        module=module,
        config=module.config,
        fingerprint=fingerprint,
        device=torch_device,
        dtype=torch_dtype,
        tokenizer_json=tokenizer_json,
        tokenizer_hash=tokenizer_hash(tokenizer_json),
        eos_token_ids=_eos_token_ids(module, tokenizer),
        chat_template=_chat_template(tokenizer),
        special_tokens=_special_tokens(tokenizer),
        adds_bos=_adds_bos(tokenizer),
        vocab_size=vocab_size,
        context_length=int(text_config.max_position_embeddings),
        num_layers=int(text_config.num_hidden_layers),
        **_head_shape(text_config),
    )


def _choose_device(device: str) -> torch.device:
    try:
        if device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InvalidRequestError(f"no device is called {device!r}", field="device") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InvalidRequestError("torch finds no CUDA device here", field="device")
    return chosen


def _choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in _DTYPES:
        known = ", ".join(sorted(_DTYPES))
        raise InvalidRequestError(f"dtype must be auto or one of {known}", field="dtype")
    return _DTYPES[dtype]


def _load_config(files: ModelFiles) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(files.folder)
    except Exception as error:  # transformers raises many kinds for a bad config
        raise UnsupportedModelError(
            f"transformers cannot read the configuration of {files.name}: {error}"
        ) from error
    return config


def _load_tokenizer(files: ModelFiles) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder)
    except Exception as error:  # likewise
        raise UnsupportedModelError(
            f"transformers cannot read the tokenizer of {files.name}: {error}",
            reason="INVALID_TOKENIZER",
        ) from error
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"{files.name} has no fast tokenizer (tokenizer.json)", reason="INVALID_TOKENIZER"
        )
    return tokenizer


def _load_module(
    files: ModelFiles, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    try:
        with without_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                files.folder,
                config=config,
                dtype=dtype,
                attn_implementation=ATTENTION_NAME,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # likewise
        raise UnsupportedModelError(
            f"the weights of {files.name} cannot be loaded: {error}", reason="WEIGHTS_CORRUPT"
        ) from error
    module: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    if missing := sorted(report["missing_keys"]):
        # transformers would fill them with random numbers.
        raise UnsupportedModelError(
            f"the weights of {files.name} lack {len(missing)} tensors, such as {missing[0]}",
            reason="WEIGHTS_CORRUPT",
        )
    module.requires_grad_(False)
    module.eval()  # type: ignore[no-untyped-call]
    module.to(device)  # type: ignore[arg-type]
    return module


def _tokenizer_json(tokenizer: Any) -> str:
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    text: str = backend.to_str()
    return text


def _eos_token_ids(module: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """Return all ids that end a text: of generation, of the model, of the tokenizer."""
    found: set[int] = set()
    for owner in (module.generation_config, module.config, tokenizer):
        token_ids = getattr(owner, "eos_token_id", None)
        found.update([token_ids] if isinstance(token_ids, int) else token_ids or ())
    return frozenset(found)


def _chat_template(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or ""


def _special_tokens(tokenizer: Any) -> dict[str, str]:
    named = tokenizer.special_tokens_map
    return {key: str(token) for key, token in named.items() if not isinstance(token, list)}


def _adds_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer itself would begin a text with its first token."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a").input_ids[:1] == [bos]


def _head_shape(config: PreTrainedConfig) -> dict[str, int]:
    num_heads = int(config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    return {"num_kv_heads": int(num_kv_heads), "head_dim": int(head_dim)}


def _fingerprint(module: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> str:
    """Return the numeric identity: weights, configuration, dtype, device, kernels.

    Of each tensor, evenly spaced numbers are hashed. Training or merging changes
    nearly all numbers of a tensor that it touches, so no two versions of a
    model look alike, and a large model need not be read a second time.
    """
    settings = {k: v for k, v in module.config.to_dict().items() if k not in _NAMES_IN_CONFIG}
    torch_release = ".".join(torch.__version__.split(".")[:2])
    linear = "packed" if can_prepack(device, dtype) else "plain"
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    kernels = [str(dtype), chip, f"torch-{torch_release}", ATTENTION_NAME, linear]
    digest = hashlib.sha256(json.dumps([settings, kernels], sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        numbers = tensor.reshape(-1)
        samples = numbers[:: max(1, numbers.numel() // _SAMPLES_PER_TENSOR)]
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(samples.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()
