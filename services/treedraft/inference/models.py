"""Loads a model with everything that serving it needs.

The module is transformers' own, in eval mode, with our attention function in
place of its own. Beside it stand the tokenizer as text, for those who have no
transformers, and the numeric identity of the weights.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from treedraft.core.errors import InvalidRequestError, UnsupportedModelError
from treedraft.inference.downloads import Progress
from treedraft.inference.drafter_folder import is_drafter_folder, load_drafter
from treedraft.inference.forward_path import ForwardPath, choose_path
from treedraft.inference.gguf_conversion import without_progress_bars
from treedraft.inference.model_tokenizer import (
    ModelTokenizer,
    describe_tokenizer,
    load_tokenizer,
)
from treedraft.inference.native.decoder import NativeDecoder
from treedraft.inference.support import check_supported, probe_module
from treedraft.inference.tree_attention import ATTENTION_NAME
from treedraft.inference.weights import ModelFiles, be_silent, resolve

if TYPE_CHECKING:
    from treedraft.inference.fused.decoder import FusedDecoder

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

    Of a drafter folder, `draft_token_ids` are the ids of the head's columns and
    the tokenizer is known by its hash alone; of any other model it is None, and
    the columns are the ids. With a `native` decoder, ours for a CPU or the fused one for
    CUDA, passes go through that and the module has no linear layers any more.
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
    draft_token_ids: tuple[int, ...] | None = None
    native: "NativeDecoder | FusedDecoder | None" = None


def load_model(
    source: str | Path,
    *,
    name: str = "",
    dtype: str = "float32",
    device: str = "cpu",
    weights: str = "auto",
    attention: str = ATTENTION_NAME,
    is_packed: bool = True,
    progress: Progress = be_silent,
) -> LoadedModel:
    """Load a model for serving or drafting.

    Args:
        source: `default`, a folder, a `.gguf` file or a hub id.
        name: what to call it; by default what the source is called.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on an
            accelerator and float32 on a CPU.
        device: a torch device, or `auto`: `cuda` where there is one, else `cpu`.
        weights: how linear layers hold theirs where the native decoder runs:
            `float32`, `bfloat16`, `int8`, or `auto`: int8 for a drafter folder, which
            may guess otherwise but never changes a text, else the smallest that loses
            nothing.
        attention: transformers' name of the attention function; another than ours
            is for those who run whole texts, as training does, and is never packed,
            since the packed forward has ours built in.
        is_packed: whether the module takes the quickest path there is for it; it
            can then neither be trained nor copied.
        progress: told in plain words what takes long.

    Raises:
        InvalidRequestError: reason MODEL_NOT_FOUND, or a dtype or device that
            does not exist; reason WEIGHTS_UNSUPPORTED, if weights cannot be held
            like this here.
        UnsupportedModelError: the model cannot be verified by a tree, is not
            complete, or has no fast tokenizer; for a drafter folder also the
            reasons of `drafter_folder.load_drafter`.
        UnavailableError: reason WEIGHTS_UNAVAILABLE.
    """
    torch_device = choose_device(device)
    torch_dtype = _choose_dtype(dtype, torch_device)
    files = resolve(str(source), progress)
    config = _load_config(files)
    check_supported(config)
    progress(f"loading {name or files.name} as {torch_dtype} on {torch_device}")
    draft_token_ids: tuple[int, ...] | None = None
    if is_drafter_folder(files.folder):
        module, manifest = load_drafter(
            files.folder,
            config,
            dtype=torch_dtype,
            attn_implementation=attention,
            progress=progress,
        )
        ids = ModelTokenizer(manifest.tokenizer_hash, manifest.eos_token_ids)
        draft_token_ids = manifest.draft_token_ids
    else:
        tokenizer = load_tokenizer(files)
        module = _load_module(files, config, torch_dtype, attention)
        ids = describe_tokenizer(tokenizer, module)
    _make_ready(module, torch_device)
    text_config = module.config.get_text_config(decoder=True)
    probe_module(module, text_config.num_hidden_layers)
    path = choose_path(
        module,
        torch_device,
        torch_dtype,
        weights=weights,
        is_drafter=draft_token_ids is not None,
    )
    fingerprint = _fingerprint(module, torch_dtype, torch_device, draft_token_ids, path)
    vocab_size = int(module.get_output_embeddings().weight.shape[0])  # type: ignore[no-untyped-call]
    is_quick = is_packed and attention == ATTENTION_NAME
    native = path.take(module) if is_quick else None
    return LoadedModel(
        name=name or files.name,
        module=module,
        config=module.config,
        fingerprint=fingerprint,
        device=torch_device,
        dtype=torch_dtype,
        tokenizer_json=ids.tokenizer_json,
        tokenizer_hash=ids.tokenizer_hash,
        eos_token_ids=ids.eos_token_ids,
        chat_template=ids.chat_template,
        special_tokens=ids.special_tokens,
        adds_bos=ids.adds_bos,
        vocab_size=vocab_size,
        context_length=int(text_config.max_position_embeddings),
        num_layers=int(text_config.num_hidden_layers),
        **_head_shape(text_config),
        draft_token_ids=draft_token_ids,
        native=native,
    )


def choose_device(device: str) -> torch.device:
    """Return the device of a name, `auto` too; raise InvalidRequestError if there is none."""
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


def _load_module(
    files: ModelFiles,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    attention: str,
) -> PreTrainedModel:
    try:
        with without_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                files.folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
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
    return module


def _make_ready(module: PreTrainedModel, device: torch.device) -> None:
    module.requires_grad_(False)
    module.eval()  # type: ignore[no-untyped-call]
    module.to(device)  # type: ignore[arg-type]


def _head_shape(config: PreTrainedConfig) -> dict[str, int]:
    num_heads = int(config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    return {"num_kv_heads": int(num_kv_heads), "head_dim": int(head_dim)}


def _fingerprint(
    module: PreTrainedModel,
    dtype: torch.dtype,
    device: torch.device,
    draft_token_ids: tuple[int, ...] | None,
    path: ForwardPath,
) -> str:
    """Return the numeric identity: weights, configuration, dtype, device, kernels.

    Of each tensor, evenly spaced numbers are hashed. Training or merging changes
    nearly all numbers of a tensor that it touches, so no two versions of a
    model look alike, and a large model need not be read a second time.
    """
    settings = {k: v for k, v in module.config.to_dict().items() if k not in _NAMES_IN_CONFIG}
    torch_release = ".".join(torch.__version__.split(".")[:2])
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    kernels = [str(dtype), chip, f"torch-{torch_release}", ATTENTION_NAME, *path.kernels]
    digest = hashlib.sha256(json.dumps([settings, kernels], sort_keys=True, default=str).encode())
    if draft_token_ids is not None:
        digest.update(json.dumps(draft_token_ids).encode())
    for name, tensor in sorted(module.state_dict().items()):
        numbers = tensor.reshape(-1)
        samples = numbers[:: max(1, numbers.numel() // _SAMPLES_PER_TENSOR)]
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(samples.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()
