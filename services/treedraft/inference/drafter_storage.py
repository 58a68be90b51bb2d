"""How a drafter's matrices are stored: as bfloat16, or in int8 with scales.

In int8 a row is cut into groups of 32 inputs, and each group has a scale of its
own. The native decoder rounds a drafter's matrices in just this way, so what it
computes with is what is stored, and a rounding that it makes anyway is made
once. A matrix whose width is no multiple of 32 has one scale a row. Vectors,
such as norms and biases, stay bfloat16.

Scales may be [rows] or [rows, groups], so that others may choose their groups.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from treedraft.inference.target_embedding import quantise_rows, restore_rows

WeightsKind = Literal["bfloat16", "int8"]

GROUP = 32
_MATRIX, _NUMBERS, _SCALES = ".weight", ".int8", ".scale"


def int8_names(name: str) -> tuple[str, str]:
    """Return what the numbers and the scales of a matrix in int8 are called."""
    stem = name.removesuffix(_MATRIX)
    return stem + _NUMBERS, stem + _SCALES


def store(weights: Mapping[str, Tensor], kind: WeightsKind) -> dict[str, Tensor]:
    """Return tensors as they are stored, on the CPU."""
    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if _is_in_int8(name, tensor, kind):
            stored |= dict(zip(int8_names(name), _quantise(tensor.cpu()), strict=True))
        else:
            stored[name] = tensor.detach().to("cpu", torch.bfloat16, copy=True).contiguous()
    return stored


def as_stored(name: str, tensor: Tensor, kind: WeightsKind) -> Tensor:
    """Return in float32, on its device, what will be read where a tensor is stored."""
    if _is_in_int8(name, tensor, kind):
        return restore_matrix(*_quantise(tensor))
    return tensor.detach().bfloat16().float()


def restore(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that were stored, those in int8 as float32.

    Raises:
        ValueError: numbers and scales do not fit together, or a tensor is there twice;
            the message says which and how.
    """
    restored: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(_NUMBERS):
            matrix = name.removesuffix(_NUMBERS) + _MATRIX
            scales = stored.get(int8_names(matrix)[1])
            if matrix in stored:
                raise ValueError(f"{matrix} is there twice, in int8 too")
            if why := _misfit(tensor, scales):
                raise ValueError(f"{matrix} in int8 {why}")
            assert scales is not None
            restored[matrix] = restore_matrix(tensor, scales)
        elif not (name.endswith(_SCALES) and name.removesuffix(_SCALES) + _NUMBERS in stored):
            restored[name] = tensor
    return restored


def restore_matrix(numbers: Tensor, scales: Tensor) -> Tensor:
    """Return numbers times scales in float32, [rows, width].

    Args:
        numbers: int8 [rows, width].
        scales: [rows] or [rows, groups].
    """
    if scales.ndim == 1:
        return restore_rows(numbers, scales)
    grouped = numbers.reshape(scales.numel(), -1)
    return restore_rows(grouped, scales.flatten()).reshape(numbers.shape)


def _is_in_int8(name: str, tensor: Tensor, kind: WeightsKind) -> bool:
    return kind == "int8" and tensor.ndim == 2 and name.endswith(_MATRIX)


def _quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    rows, width = matrix.shape
    group = width if width % GROUP else GROUP
    numbers, scales = quantise_rows(matrix.reshape(-1, group))
    return numbers.reshape(rows, width).contiguous(), scales.reshape(rows, -1).contiguous()


def _misfit(numbers: Tensor, scales: Tensor | None) -> str:
    """Return what is wrong with a matrix in int8, empty if nothing is."""
    if scales is None:
        return "has no scales"
    if numbers.dtype != torch.int8 or numbers.ndim != 2:
        return f"is {numbers.dtype} of {numbers.ndim} dimensions, not int8 of 2"
    if not scales.is_floating_point() or scales.ndim not in (1, 2):
        return f"has scales that are {scales.dtype} of {scales.ndim} dimensions"
    groups = scales.shape[1] if scales.ndim == 2 else 1
    if len(scales) != len(numbers) or not groups or numbers.shape[1] % groups:
        shapes = f"{tuple(scales.shape)} for {tuple(numbers.shape)} numbers"
        return f"has scales that do not match: {shapes}"
    if not bool(torch.isfinite(scales).all()) or bool((scales < 0).any()):
        return "has scales that are negative or not finite"
    return ""
