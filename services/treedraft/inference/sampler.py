"""Drawing the target's tokens: the coupled rule, and how near a draw was to a tie.

`y = argmax(processed_logits + g[position])` with Gumbel noise keyed by seed and
position alone (Gumbel-max trick; Daliri, Musco, Suresh 2024, arXiv 2408.07978):
the token is a function of logits, parameters and seed. Nothing that a drafter
does can reach it. Greedy rows take the plain argmax. On equal scores the lowest
id wins.

The noise must never be used in a ratio test p/q as well: that changes the law.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from treedraft.inference.draw import NoiseRows, draw_on_device, noised_rows
from treedraft.inference.fused.support import is_available
from treedraft.inference.law import LawRow, branch_of, processed_logits, target_probs
from treedraft.inference.sampler_ties import tie_margin
from treedraft.inference.token_history import SessionCounts, TokenHistory

if TYPE_CHECKING:
    from treedraft.inference.fused.draw import DeviceDraws

__all__ = [
    "CoupledDraws",
    "LawRow",
    "NoiseRows",
    "SessionCounts",
    "TokenHistory",
    "branch_of",
    "coupled_draw",
    "processed_logits",
    "target_probs",
    "tie_margin",
]


class CoupledDraws:
    """Draws of one model's passes, with what they have in common kept; used by one thread."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._noise_rows = NoiseRows()
        self._on_device: DeviceDraws | None = None

    def draw(
        self,
        target_logits: Tensor,
        rows: Sequence[LawRow],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """Return the token that the target draws at each row, as `coupled_draw` does.

        `meanwhile` is called once, on an accelerator while it computes.
        """
        if target_logits.device.type == "cpu" or not rows:
            meanwhile()
            return coupled_draw(target_logits, rows, self._noise_rows)
        if not _has_kernels(target_logits):
            drawn = draw_on_device(target_logits, rows)
            meanwhile()
            return drawn.tolist()
        if self._on_device is None:
            from treedraft.inference.fused.draw import DeviceDraws  # needs Triton

            self._on_device = DeviceDraws()
        return self._on_device.draw(target_logits, rows, meanwhile)


def coupled_draw(
    target_logits: Tensor, rows: Sequence[LawRow], noise_rows: NoiseRows | None = None
) -> list[int]:
    """Return the token that the target draws at each row.

    Args:
        target_logits: float32 [num_rows, vocab], any device; not written to.
        rows: the law of each row.
        noise_rows: keep one across passes to make the noise of a position once.
    """
    if target_logits.device.type != "cpu":
        return _drawn_on_device(target_logits, rows)
    kept = noise_rows or NoiseRows()
    candidates = noised_rows(target_logits, rows, kept)
    return [row.token_at(int(row.scores.argmax())) for row in candidates]


def _drawn_on_device(target_logits: Tensor, rows: Sequence[LawRow]) -> list[int]:
    """Draw where the logits are; to read the tokens is the one wait for the device in a step."""
    if not rows:
        return []
    if _has_kernels(target_logits):
        from treedraft.inference.fused.draw import queue_draw  # needs Triton

        drawn: list[int] = queue_draw(target_logits, rows).tolist()
    else:
        drawn = draw_on_device(target_logits, rows).tolist()
    return drawn


def _has_kernels(target_logits: Tensor) -> bool:
    return is_available(target_logits.device, torch.bfloat16)
