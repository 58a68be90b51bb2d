"""Which losses count how much, at each point of a run, and their gradients.

A run begins with the divergence alone, which says something about every
column, and goes over to what drafting is about: how likely a draft is accepted
(LK losses and DistillSpec, arXiv 2310.08461, find the same order to be good).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from treedraft.training import losses
from treedraft.training.train_settings import LossSettings


@dataclass(frozen=True, slots=True)
class LossMix:
    """Weights of the losses at one step; `hidden` and the survival apart, they add up to 1."""

    divergence: float
    acceptance: float
    total_variation: float
    hard: float
    hidden: float
    survival_share: float
    survival_depth: int

    @classmethod
    def at(cls, share: float, settings: LossSettings) -> "LossMix":
        """Return the mix when this share of a run is done."""
        done = share - settings.kl_share
        if settings.ramp_share > 0:
            ramp = min(1.0, max(0.0, done / settings.ramp_share))
        else:
            ramp = float(done >= 0)
        later = settings.acceptance + settings.total_variation + settings.hard
        return cls(
            divergence=1.0 - ramp * later,
            acceptance=ramp * settings.acceptance,
            total_variation=ramp * settings.total_variation,
            hard=ramp * settings.hard,
            hidden=settings.hidden,
            survival_share=ramp * settings.survival_share,
            survival_depth=settings.survival_depth,
        )

    @property
    def needs_divergence(self) -> bool:
        """Whether that part is computed at all."""
        return self.divergence > 0

    @property
    def needs_acceptance(self) -> bool:
        """Whether Σ min(p, q) is computed."""
        return self.acceptance + self.total_variation + self.survival_share > 0

    @property
    def needs_hard(self) -> bool:
        """Whether that part is computed at all."""
        return self.hard > 0

    def weights(self, device: torch.device) -> Tensor:
        """Return the weights of the four losses on a device, without waiting for it."""
        numbers = (self.divergence, self.acceptance, self.total_variation, self.hard)
        weights = torch.tensor(numbers, dtype=torch.float32)
        if device.type == "cuda":
            return weights.pin_memory().to(device, non_blocking=True)
        return weights.to(device)


@dataclass(frozen=True, slots=True)
class LossChunk:
    """What the losses of some rows need beside the logits; all [rows].

    `log_totals` and `tempered_log_totals` are the target's, over its whole
    vocabulary; `temperatures` are above 0; `best_columns` is -1 where the target's
    best id has no column; `is_first` marks the first row of each document.
    """

    log_totals: Tensor
    tempered_log_totals: Tensor
    temperatures: Tensor
    best_columns: Tensor
    is_first: Tensor


# What `row_losses` is, compiled or not.
RowLosses = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool, bool, bool],
    tuple[Tensor, Tensor],
]


def row_losses(
    draft_logits: Tensor,
    target_logits: Tensor,
    log_totals: Tensor,
    tempered_log_totals: Tensor,
    temperatures: Tensor,
    best_columns: Tensor,
    weights: Tensor,
    needs_divergence: bool,
    needs_acceptance: bool,
    needs_hard: bool,
) -> tuple[Tensor, Tensor]:
    """Return the mixed loss and Σ min(p, q) of each row, [rows] both.

    Args:
        draft_logits: float32 [rows, columns].
        target_logits: the target's at the same columns.
        log_totals: see `LossChunk`, as the three that follow.
        tempered_log_totals: likewise.
        temperatures: likewise.
        best_columns: likewise.
        weights: of divergence, acceptance, total variation and hard, [4].
        needs_divergence: whether the first is above 0.
        needs_acceptance: whether Σ min(p, q) is wanted; zeros are returned otherwise.
        needs_hard: whether the last is above 0.
    """
    total = torch.zeros_like(log_totals)
    accepted = torch.zeros_like(log_totals)
    if needs_divergence:
        target_log_probs = target_logits - log_totals[:, None]
        total = total + weights[0] * losses.forward_divergence(draft_logits, target_log_probs)
    if needs_acceptance:
        tempered = target_logits / temperatures[:, None] - tempered_log_totals[:, None]
        draft_temperatures = losses.draft_temperatures(temperatures)
        accepted = losses.acceptance(draft_logits, tempered, draft_temperatures)
        total = total + weights[1] * losses.acceptance_loss(accepted)
        total = total + weights[2] * losses.total_variation(accepted)
    if needs_hard:
        total = total + weights[3] * losses.hard_cross_entropy(draft_logits, best_columns)
    return total, accepted


def logit_gradients(
    losses_of_rows: RowLosses,
    draft_logits: Tensor,
    target_logits: Tensor,
    chunk: LossChunk,
    weights: Tensor,
    mix: LossMix,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the summed loss by the drafter's logits, the loss, Σ Σ min(p, q).

    Args:
        losses_of_rows: `row_losses`, or something faster that does the same.
        draft_logits: float32 [rows, columns].
        target_logits: likewise, the target's.
        chunk: what else is known of the rows.
        weights: from `mix.weights`.
        mix: which losses count.
    """
    leaf = draft_logits.detach().requires_grad_()
    with torch.enable_grad():
        by_row, accepted = losses_of_rows(
            leaf,
            target_logits,
            chunk.log_totals,
            chunk.tempered_log_totals,
            chunk.temperatures,
            chunk.best_columns,
            weights,
            mix.needs_divergence,
            mix.needs_acceptance,
            mix.needs_hard,
        )
        if mix.survival_share > 0:
            survival = losses.survival_weights(accepted, chunk.is_first, mix.survival_depth)
            by_row = by_row * (1.0 + mix.survival_share * (survival - 1.0))
        loss = by_row.sum()
        (gradients,) = torch.autograd.grad(loss, leaf)
    return gradients, loss.detach(), accepted.detach().sum()
