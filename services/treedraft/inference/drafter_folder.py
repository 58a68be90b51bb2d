"""Drafters as folders: a shallow model under a head over some of the target's ids.

The module is transformers' own, with another number of layers and another
head, so whoever can train a causal language model can train a drafter. Its
input embedding has a row for every id of the target; its head has a column for
the ids that are worth drafting, because the head over a whole vocabulary is
most of what a shallow model costs.

Invariant: a folder with `drafter.json` is complete. That file goes first and
comes last when a folder is written again, so a drafter cut off in between is
refused and never read with the vocabulary of another.
"""

import copy
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.initialization import no_init_weights

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.downloads import Progress
from treedraft.inference.drafter_manifest import (
    MANIFEST_FILE,
    DrafterManifest,
    EmbeddingKind,
    check_draft_token_ids,
    invalid_drafter,
    is_drafter_folder,
    read_manifest,
    write_manifest,
)
from treedraft.inference.drafter_storage import WeightsKind, int8_names, restore, store
from treedraft.inference.target_embedding import (
    embedding_name,
    embedding_sha256,
    quantise_rows,
    read_target_embedding,
)
from treedraft.inference.weights import PACKAGED_MODELS, be_silent

__all__ = [
    "DrafterManifest",
    "build_drafter_module",
    "drafter_config",
    "is_drafter_folder",
    "load_drafter",
    "read_own_weights",
    "save_drafter",
]

WEIGHTS_FILE = "model.safetensors"


def drafter_config(target_config: PreTrainedConfig, num_layers: int) -> PreTrainedConfig:
    """Return the configuration of a drafter with as many layers of the target's kind."""
    config: PreTrainedConfig = copy.deepcopy(target_config.get_text_config(decoder=True))
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:num_layers]
    config.tie_word_embeddings = False
    return config


def build_drafter_module(
    config: PreTrainedConfig,
    draft_vocab_size: int,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
) -> PreTrainedModel:
    """Return a drafter whose weights are yet to be set: they hold whatever was in memory.

    Args:
        config: of the drafter, see `drafter_config`; `vocab_size` is that of the target.
        draft_vocab_size: columns of the head.
        dtype: of all weights.
        attn_implementation: transformers' name of the attention function.
    """
    config = copy.deepcopy(config)
    config.tie_word_embeddings = False
    with no_init_weights():
        module: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=attn_implementation
        )
        full_head = module.get_output_embeddings()  # type: ignore[no-untyped-call]
        assert isinstance(full_head, nn.Linear)
        head = nn.Linear(
            full_head.in_features, draft_vocab_size, bias=full_head.bias is not None, dtype=dtype
        )
    module.set_output_embeddings(head)  # type: ignore[no-untyped-call]
    return module


def save_drafter(
    module: PreTrainedModel,
    draft_token_ids: Sequence[int],
    folder: Path,
    *,
    target_name: str,
    target_source: str,
    tokenizer_hash: str,
    eos_token_ids: frozenset[int],
    embedding: EmbeddingKind = "target",
    weights: WeightsKind = "bfloat16",
    precise: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a drafter and return its folder; other files in it stay.

    Args:
        module: from `build_drafter_module`, trained; on any device, of any dtype.
        draft_token_ids: the target's id of each column of the head, ascending.
        folder: where to; made if needed.
        target_name: what people call the target.
        target_source: where `weights.resolve` finds it; a path is made absolute.
        tokenizer_hash: of the target.
        eos_token_ids: ids that end the target's texts.
        embedding: `target` leaves the input embedding to the target's files,
            `int8` and `plain` store it.
        weights: how all else is stored; `int8` means its matrices.
        precise: weights to store instead of the module's own, by name, such as the
            float32 ones that a module in bfloat16 was rounded from.

    Raises:
        UnsupportedModelError: reason DRAFTER_INVALID for ids that do not fit.
    """
    weight = module.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    token_ids = [int(token_id) for token_id in draft_token_ids]
    _check_columns(module, token_ids, len(weight), folder)
    manifest = DrafterManifest(
        target_name=target_name,
        target_source=_lasting_source(target_source),
        tokenizer_hash=tokenizer_hash,
        eos_token_ids=frozenset(eos_token_ids),
        draft_token_ids=tuple(token_ids),
        embedding=embedding,
        embedding_sha256=embedding_sha256(weight),
        weights=weights,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".partial-{folder.name}-", dir=folder.parent))
    try:
        _write_config(module, partial)
        stored = _stored_weights(module, embedding, weights, precise or {})
        save_file(stored, partial / WEIGHTS_FILE, {"format": "pt"})
        # safetensors lets nobody but the owner read what it writes.
        shutil.copymode(partial / "config.json", partial / WEIGHTS_FILE)
        write_manifest(manifest, partial)
        _move_into_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load_drafter(
    folder: Path,
    config: PreTrainedConfig,
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    progress: Progress = be_silent,
) -> tuple[PreTrainedModel, DrafterManifest]:
    """Return the module of a drafter folder, on the CPU, and what the folder says of itself.

    Raises:
        UnsupportedModelError: reason DRAFTER_VERSION, DRAFTER_INVALID,
            WEIGHTS_CORRUPT, DRAFTER_TARGET_MISSING or DRAFTER_TARGET_MISMATCH.
        UnavailableError: reason WEIGHTS_UNAVAILABLE.
    """
    manifest = read_manifest(folder, vocab_size=config.get_text_config(decoder=True).vocab_size)
    module = build_drafter_module(
        config,
        len(manifest.draft_token_ids),
        dtype=dtype,
        attn_implementation=attn_implementation,
    )
    name = embedding_name(module)
    weights = _restored(_read_weights(folder), manifest, name, folder)
    if manifest.embedding == "target":
        weights[name] = read_target_embedding(
            manifest.target_source, name, manifest.embedding_sha256, progress
        )
    _set_weights(module, weights, folder)
    return module, manifest


def read_own_weights(folder: Path) -> dict[str, Tensor]:
    """Return what a drafter folder stores beside its input embedding, by name, on the CPU.

    Raises:
        UnsupportedModelError: reason WEIGHTS_CORRUPT.
    """
    stored = {name: held for name, held in _read_weights(folder).items() if "embed" not in name}
    try:
        return restore(stored)
    except ValueError as error:
        raise _corrupt(folder, str(error)) from error


def _check_columns(
    module: PreTrainedModel, token_ids: list[int], vocab_size: int, folder: Path
) -> None:
    columns = int(module.get_output_embeddings().weight.shape[0])  # type: ignore[no-untyped-call]
    if why := check_draft_token_ids(token_ids, vocab_size):
        raise invalid_drafter(folder, why)
    if columns != len(token_ids):
        raise invalid_drafter(folder, f"its head has {columns} columns for {len(token_ids)} ids")


def _lasting_source(source: str) -> str:
    path = Path(source).expanduser()
    is_path = source.lower() not in PACKAGED_MODELS and path.exists()
    return str(path.resolve()) if is_path else source


def _write_config(module: PreTrainedModel, folder: Path) -> None:
    config = copy.deepcopy(module.config)
    config.architectures = [type(module).__name__]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)


def _stored_weights(
    module: PreTrainedModel,
    embedding: EmbeddingKind,
    kind: WeightsKind,
    precise: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    name = embedding_name(module)
    weights = {**module.state_dict(), **precise}
    embedded = weights.pop(name)
    stored = store(weights, kind)
    match embedding:
        case "plain":
            stored |= store({name: embedded}, "bfloat16")
        case "int8":
            stored |= dict(zip(int8_names(name), quantise_rows(embedded.cpu()), strict=True))
        case "target":
            pass
    return stored


def _move_into_place(partial: Path, folder: Path) -> None:
    """Replace the files of a folder, of which `drafter.json` says that they belong together."""
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    for file in sorted(partial.iterdir(), key=lambda file: file.name == MANIFEST_FILE):
        os.replace(file, folder / file.name)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            weights.update(load_file(file))
    except (SafetensorError, OSError) as error:
        raise _corrupt(folder, str(error)) from error
    return weights


def _restored(
    stored: dict[str, Tensor], manifest: DrafterManifest, embedding: str, folder: Path
) -> dict[str, Tensor]:
    """Return the stored weights as floats; int8 only where the manifest speaks of it."""
    numbers, scales = int8_names(embedding)
    has_int8 = {numbers: manifest.embedding == "int8", scales: manifest.embedding == "int8"}
    kept = {n: t for n, t in stored.items() if has_int8.get(n, manifest.weights == "int8")}
    try:
        restored = restore(kept)
    except ValueError as error:
        raise _corrupt(folder, str(error)) from error
    return {n: t for n, t in stored.items() if n not in kept} | restored


def _set_weights(module: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    wanted = module.state_dict()
    if missing := sorted(wanted.keys() - weights.keys()):
        raise _corrupt(folder, f"they lack {len(missing)} tensors, such as {missing[0]}")
    if unknown := sorted(weights.keys() - wanted.keys()):
        raise _corrupt(folder, f"{unknown[0]} is a tensor of no such model")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(wanted[name].shape)}"
            raise _corrupt(folder, f"{name} is {shapes}")
    module.load_state_dict(weights)


def _corrupt(folder: Path, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the weights of {folder.name} cannot be loaded: {why}", reason="WEIGHTS_CORRUPT"
    )
