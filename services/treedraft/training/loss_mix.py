"""Which losses count how much, at each point of a run.

A run begins with the divergence alone, which says something about every
column, and goes over to what drafting is about: how likely a draft is accepted
(LK losses and DistillSpec, arXiv 2310.08461, find the same order to be good).
"""

from dataclasses import dataclass

from torch import Tensor

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
