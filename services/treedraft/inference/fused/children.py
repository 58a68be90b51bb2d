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
from treedraft.inference.law import LawRow, is_plain, temperature_of

_BLOCK = 1024  # columns of a part


def can_choose(rows: Sequence[LawRow]) -> bool:
    """Return whether the kernels know all that the laws of rows ask for."""
    return bool(rows) and all(map(is_plain, rows))


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
    logits = draft_logits if draft_logits.stride(1) == 1 else draft_logits.contiguous()
    keys = upload(np.array([key_of(row) for row in rows], dtype=np.int64), device)
    heat = [0.0 if row.sampling.is_greedy else temperature_of(row.sampling) for row in rows]
    temperatures = upload(np.array(heat, dtype=np.float32), device)
    count = min(num_children, num_columns)
    kernels = ChildKernels(len(rows), num_columns, count, column_ids, device)
    kernels.queue(logits, keys, temperatures, score_temperature)
    tokens, gains = kernels.found.cpu().numpy()
    told = tokens.tolist(), np.minimum(gains.view(np.float32), 0.0).tolist()
    return [
        [pair for pair in zip(*row, strict=True) if pair[1] > -1e30]
        for row in zip(*told, strict=True)
    ]


class ChildKernels:
    """The two kernels over so many rows, and the memory in between.

    `tokens` (int32) and `gains` (float32) are [rows, children], best first; a gain of -inf
    says that there is no such child. They are the two halves of `found`.
    """

    def __init__(
        self,
        num_rows: int,
        num_columns: int,
        num_children: int,
        column_ids: npt.NDArray[np.int64] | None,
        device: torch.device,
        *,
        found: Tensor | None = None,
    ) -> None:
        """Allocate for a head of `num_columns` columns, whose tokens are `column_ids`.

        `found` is memory for what is chosen, int32 [2, rows, children].
        """
        ids = np.arange(num_columns) if column_ids is None else column_ids[:num_columns]
        self._column_ids = _columns(ids.astype(np.int32).tobytes(), device)
        self._num_columns = num_columns
        self._num_children = num_children
        self._num_parts = -(-num_columns // _BLOCK)
        best = (num_rows, self._num_parts, num_children)
        self._best = (
            torch.empty(best, dtype=torch.float32, device=device),
            torch.empty(best, dtype=torch.int32, device=device),
            torch.empty(best[:2], dtype=torch.float32, device=device),
            torch.empty(best[:2], dtype=torch.float32, device=device),
        )
        size = (2, num_rows, num_children)
        self.found = torch.zeros(size, dtype=torch.int32, device=device) if found is None else found
        self.tokens, self.gains = self.found[0], self.found[1].view(torch.float32)
        self.gains.fill_(float("-inf"))

    def queue(
        self,
        logits: Tensor,
        keys: Tensor,
        temperatures: Tensor,
        score_temperature: float,
        *,
        first: int = 0,
    ) -> None:
        """Queue the choice for rows [first, first + len(logits)), of which `keys` tell too."""
        rows = slice(first, first + len(logits))
        top_of_parts[(len(logits), self._num_parts)](
            logits,
            logits.stride(0),
            self._column_ids,
            keys[rows],
            temperatures[rows],
            float(score_temperature),
            *self._best,
            COLUMNS=self._num_columns,
            BLOCK=_BLOCK,
            NUM_PARTS=self._num_parts,
            NUM_CHILDREN=self._num_children,
            num_warps=4,
        )
        top_children[(len(logits),)](
            *self._best,
            self.tokens[rows],
            self.gains[rows],
            NUM_PARTS=self._num_parts,
            PADDED_PARTS=triton.next_power_of_2(self._num_parts),
            PADDED_BEST=triton.next_power_of_2(self._num_parts * self._num_children),
            NUM_CHILDREN=self._num_children,
            num_warps=1,
        )


@lru_cache(maxsize=8)
def _columns(ids: bytes, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(ids), dtype=torch.int32).to(device)
