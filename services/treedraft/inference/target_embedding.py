"""The input embedding that a drafter shares with its target.

A drafter reads the target's ids, so it has the target's embedding, by far its
largest tensor and one that training leaves as it is. A drafter folder need not
carry it: it is read from the target's own files and checked by hash. Or it is
carried in int8 with a scale for each row, half the size.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from treedraft.core.errors import InvalidRequestError, UnsupportedModelError
from treedraft.inference.downloads import Progress
from treedraft.inference.weights import resolve

_INT8_MAX = 127
_HASHED_ROWS = 4096  # at a time, to keep copies small


def embedding_name(module: nn.Module) -> str:
    """Return the name that the input embedding's weight has among the parameters."""
    weight = module.get_input_embeddings().weight  # type: ignore[operator]
    return next(
        name
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter is weight
    )


def embedding_sha256(weight: Tensor) -> str:
    """Return the SHA-256 of the numbers rounded to bfloat16, row after row, little-endian.

    Rounded, so that an embedding has one hash whether it was loaded as float32
    or as bfloat16. `weight` is [vocab, hidden].
    """
    digest = hashlib.sha256()
    for rows in torch.split(weight.detach(), _HASHED_ROWS):
        bits = rows.to("cpu", torch.bfloat16).contiguous().view(torch.int16)
        digest.update(bits.numpy().astype("<i2").tobytes())
    return digest.hexdigest()


def read_target_embedding(source: str, name: str, sha256: str, progress: Progress) -> Tensor:
    """Return the input embedding out of a target's files, [vocab, hidden].

    Args:
        source: of the target, as `weights.resolve` takes it.
        name: of the tensor.
        sha256: what `embedding_sha256` must say of it.
        progress: told in plain words what takes long.

    Raises:
        UnsupportedModelError: reason DRAFTER_TARGET_MISSING if there is no such
            target, DRAFTER_TARGET_MISMATCH if its embedding is another one.
        UnavailableError: reason WEIGHTS_UNAVAILABLE.
    """
    try:
        files = resolve(source, progress)
    except InvalidRequestError as error:
        raise UnsupportedModelError(
            f"the drafter takes the embedding of its target {source!r}, which is not here: "
            f"{error.message}",
            reason="DRAFTER_TARGET_MISSING",
        ) from error
    try:
        weight = _read_tensor(files.folder, name)
    except (SafetensorError, OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"the weights of {files.name} cannot be loaded: {error}", reason="WEIGHTS_CORRUPT"
        ) from error
    if weight is None or weight.ndim != 2 or embedding_sha256(weight) != sha256:
        raise UnsupportedModelError(
            f"the drafter was made for another target than {files.name} ({source}): "
            f"{name} differs from the one that it was trained with",
            reason="DRAFTER_TARGET_MISMATCH",
        )
    return weight


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 numbers [vocab, hidden] and a float32 scale for each row [vocab].

    Symmetric: the largest number of a row becomes 127.
    """
    rows = weight.detach().float()
    scales = (rows.abs().amax(dim=1) / _INT8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / scales[:, None]).round().to(torch.int8), scales


def restore_rows(numbers: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 embedding of `quantise_rows`, [vocab, hidden]."""
    return numbers.float() * scales.float()[:, None]


def _read_tensor(folder: Path, name: str) -> Tensor | None:
    """Read one tensor without the others, None if no file has it."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shard = json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(name)
        files = [folder / shard] if shard else []
    else:
        files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                tensor: Tensor = tensors.get_tensor(name)
                return tensor
    return None
