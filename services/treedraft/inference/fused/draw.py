"""Draws the tokens of all rows of a pass on the device, in two kernels and one copy each way."""

from collections.abc import Sequence

import numpy as np
import torch
import triton
from torch import Tensor

from treedraft.inference.draw import seed_of
from treedraft.inference.fused.kernels.draw import draw_best, draw_parts
from treedraft.inference.law import (
    LawRow,
    adjusted_logits,
    is_truncated,
    processed_logits,
    temperature_of,
)

_PAIRS = 1024  # of tokens, that a program goes through


def queue_draw(target_logits: Tensor, rows: Sequence[LawRow]) -> Tensor:
    """Return the drawn token of each row, int64 [num_rows] on the logits' device.

    The law and the noise are those of `draw.noised_rows`. Nothing waits for the device.

    Args:
        target_logits: float32 [num_rows, vocab].
        rows: their laws, at least one.
    """
    is_cut = any(is_truncated(row.sampling) for row in rows)
    scale = processed_logits if is_cut else adjusted_logits
    logits = scale(target_logits, rows)
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    vocab, device = logits.shape[1], logits.device
    keys = upload(np.array([key_of(row) for row in rows], dtype=np.int64), device)
    temperatures = upload(
        np.array([_divisor(row, is_divided=is_cut) for row in rows], dtype=np.float32), device
    )
    num_parts = -(-vocab // (2 * _PAIRS))
    scores = torch.empty((len(rows), num_parts), dtype=torch.float64, device=device)
    found = torch.empty((len(rows), num_parts), dtype=torch.int32, device=device)
    tokens = torch.empty(len(rows), dtype=torch.int64, device=device)
    draw_parts[(len(rows), num_parts)](
        logits,
        logits.stride(0),
        keys,
        temperatures,
        scores,
        found,
        VOCAB=vocab,
        BLOCK=_PAIRS,
        NUM_PARTS=num_parts,
        num_warps=4,
    )
    draw_best[(len(rows),)](
        scores,
        found,
        tokens,
        NUM_PARTS=num_parts,
        PADDED_PARTS=triton.next_power_of_2(num_parts),
        num_warps=1,
    )
    return tokens


def key_of(row: LawRow) -> tuple[int, int, int, int]:
    """Return what the noise of a row is keyed by, as kernels take it."""
    if row.sampling.is_greedy:
        return 0, 0, 0, 0
    seed = seed_of(row)
    return seed & 0xFFFFFFFF, seed >> 32, row.position, row.choice


def _divisor(row: LawRow, *, is_divided: bool) -> float:
    """Return what the kernel divides by: 0 says that a row gets no noise."""
    if row.sampling.is_greedy:
        return 0.0
    return 1.0 if is_divided else temperature_of(row.sampling)


def upload(
    numbers: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", device: torch.device
) -> Tensor:
    """Queue a copy of numbers to a device, from memory that it need not wait for."""
    return staged(numbers, device).to(device, non_blocking=True)


def staged(
    numbers: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", device: torch.device
) -> Tensor:
    """Return numbers on the CPU, in memory from which a copy to the device need not wait."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory() if device.type == "cuda" else tensor
