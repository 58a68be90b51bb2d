"""Chooses the children of drafted nodes on the device, in two kernels and one copy back."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from treedraft.inference.fused.draw import key_of, upload
from treedraft.inference.fused.kernels.children import top_children, top_of_parts
from treedraft.inference.law import LawRow, is_truncated, temperature_of

_BLOCK = 1024  # columns of a part


def can_choose(rows: Sequence[LawRow]) -> bool:
    """Return whether the kernels know all that the laws of rows ask for."""
    return bool(rows) and not any(map(_is_special, rows))


def _is_special(row: LawRow) -> bool:
    sampling = row.sampling
    is_adjusted = bool(sampling.logit_bias) or sampling.has_penalties or row.allowed is not None
    return is_adjusted or is_truncated(sampling)


def choose_children(
    draft_logits: Tensor,
    rows: Sequence[LawRow],
    num_children: int,
    *,
    score_temperature: float,
    column_ids: npt.NDArray[np.int64] | None,
) -> list[list[tuple[int, float]]]:
    """Return for each row its best children, as `draft_sampler.draft_children` does.

    Noise falls on all columns, so the law that scores are measured by is the whole one.
    """
    device, num_columns = draft_logits.device, draft_logits.shape[1]
    count = min(num_children, num_columns)
    logits = draft_logits if draft_logits.stride(1) == 1 else draft_logits.contiguous()
    ids = np.arange(num_columns) if column_ids is None else column_ids
    keys = upload(np.array([key_of(row) for row in rows], dtype=np.int64), device)
    heat = [0.0 if row.sampling.is_greedy else temperature_of(row.sampling) for row in rows]
    parts = _Parts(len(rows), -(-num_columns // _BLOCK), count, device)
    top_of_parts[(len(rows), parts.count)](
        logits,
        logits.stride(0),
        _columns(ids.astype(np.int32).tobytes(), device),
        keys,
        upload(np.array(heat, dtype=np.float32), device),
        float(score_temperature),
        *parts.tensors,
        COLUMNS=num_columns,
        BLOCK=_BLOCK,
        NUM_PARTS=parts.count,
        NUM_CHILDREN=count,
        num_warps=4,
    )
    tokens = torch.empty((len(rows), count), dtype=torch.int32, device=device)
    gains = torch.empty((len(rows), count), dtype=torch.float32, device=device)
    top_children[(len(rows),)](
        *parts.tensors,
        tokens,
        gains,
        NUM_PARTS=parts.count,
        PADDED_PARTS=triton.next_power_of_2(parts.count),
        PADDED_BEST=triton.next_power_of_2(parts.count * count),
        NUM_CHILDREN=count,
        num_warps=1,
    )
    found = torch.stack((tokens, gains.view(torch.int32))).cpu()
    told = found[0].tolist(), found[1].view(torch.float32).tolist()
    return [
        [(token, min(gain, 0.0)) for token, gain in zip(*row, strict=True) if gain > -1e30]
        for row in zip(*told, strict=True)
    ]


class _Parts:
    """What is found of each part of the columns: scores, tokens, peaks, masses."""

    def __init__(self, num_rows: int, count: int, num_children: int, device: torch.device) -> None:
        self.count = count
        best = (num_rows, count, num_children)
        self.tensors = (
            torch.empty(best, dtype=torch.float32, device=device),
            torch.empty(best, dtype=torch.int32, device=device),
            torch.empty((num_rows, count), dtype=torch.float32, device=device),
            torch.empty((num_rows, count), dtype=torch.float32, device=device),
        )


@lru_cache(maxsize=8)
def _columns(ids: bytes, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(ids), dtype=torch.int32).to(device)
