"""The mixed loss of some rows, and its gradient by the drafter's logits, by hand.

Logits of thousands of rows over thousands of columns are gigabytes, and what a
step costs here is how often they are read. By autograd each loss goes over
them by itself, forth and back, and leaves matrices as large in between. Written out,
two readings are enough: the first makes a few sums of each row, the second the
gradient, from these sums and the logits, in the dtype that it is needed in.

With p the target's law on the columns, of mass P, q the drafter's, A = Σ min(p, q)
and B the part of A where q is the smaller one:

    ∂/∂z Σ p (log p - log q) = P q - p
    ∂A/∂z = (q [q < p] - B q) / T
    ∂/∂z -log q(best) = q - [z is the best]
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from treedraft.training import losses
from treedraft.training.loss_mix import LossChunk, LossMix


@dataclass(frozen=True, slots=True)
class LawSums:
    """Sums over the columns of each row, [rows] all; zeros where they are not needed.

    Attributes:
        log_total: log Σ exp(z) of the drafter's logits.
        hot_log_total: the same at the drafter's temperature.
        mass: P.
        divergence: Σ p (log p - log q).
        accepted: A, at the rows' temperatures.
        below: B, the part of A where q is below p.
    """

    log_total: Tensor
    hot_log_total: Tensor
    mass: Tensor
    divergence: Tensor
    accepted: Tensor
    below: Tensor


# What `law_sums` and `law_gradients` are, compiled or not.
Sums = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]
Gradients = Callable[..., Tensor]


def law_sums(
    draft_logits: Tensor,
    target_logits: Tensor,
    log_totals: Tensor,
    tempered_log_totals: Tensor,
    temperatures: Tensor,
    needs_divergence: bool,
    needs_acceptance: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of `LawSums`.

    Args:
        draft_logits: float32 [rows, columns].
        target_logits: the target's at the same columns.
        log_totals: see `LossChunk`, as the two that follow.
        tempered_log_totals: likewise.
        temperatures: likewise.
        needs_divergence: whether mass and divergence are wanted.
        needs_acceptance: whether all that is taken at a temperature is.
    """
    log_total = torch.logsumexp(draft_logits, dim=-1)
    mass = divergence = hot_log_total = accepted = below = torch.zeros_like(log_totals)
    if needs_divergence:
        log_p = target_logits - log_totals[:, None]
        p = log_p.exp()
        mass = p.sum(dim=-1)
        divergence = (p * (log_p - draft_logits + log_total[:, None])).sum(dim=-1)
    if needs_acceptance:
        hot_logits = draft_logits / losses.draft_temperatures(temperatures)[:, None]
        hot_log_total = torch.logsumexp(hot_logits, dim=-1)
        q = (hot_logits - hot_log_total[:, None]).exp()
        p = (target_logits / temperatures[:, None] - tempered_log_totals[:, None]).exp()
        accepted = torch.minimum(p, q).sum(dim=-1)
        below = torch.where(q < p, q, 0.0).sum(dim=-1)
    return log_total, hot_log_total, mass, divergence, accepted, below


def law_gradients(
    draft_logits: Tensor,
    target_logits: Tensor,
    log_totals: Tensor,
    tempered_log_totals: Tensor,
    temperatures: Tensor,
    best_columns: Tensor,
    sums: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    of_divergence: Tensor,
    by_accepted: Tensor,
    of_hard: Tensor,
    needs_divergence: bool,
    needs_acceptance: bool,
    needs_hard: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradient by the drafter's logits, [rows, columns] of a dtype.

    Args:
        draft_logits: as in `law_sums`, and so what follows.
        target_logits: likewise.
        log_totals: likewise.
        tempered_log_totals: likewise.
        temperatures: likewise.
        best_columns: see `LossChunk`.
        sums: from `law_sums`.
        of_divergence: the weight of each row's divergence, [rows].
        by_accepted: the derivative of the loss by each row's A, [rows].
        of_hard: the weight of each row's cross entropy, [rows].
        needs_divergence: as in `law_sums`.
        needs_acceptance: likewise.
        needs_hard: whether the cross entropy counts.
        dtype: of the result.
    """
    log_total, hot_log_total, mass, _, _, below = sums
    gradients = torch.zeros_like(draft_logits)
    if needs_divergence or needs_hard:
        q = (draft_logits - log_total[:, None]).exp()
        gradients = gradients + (of_divergence * mass + of_hard)[:, None] * q
    if needs_divergence:
        p = (target_logits - log_totals[:, None]).exp()
        gradients = gradients - of_divergence[:, None] * p
    if needs_acceptance:
        hot = losses.draft_temperatures(temperatures)
        q = (draft_logits / hot[:, None] - hot_log_total[:, None]).exp()
        p = (target_logits / temperatures[:, None] - tempered_log_totals[:, None]).exp()
        moved = torch.where(q < p, q, 0.0) - below[:, None] * q
        gradients = gradients + (by_accepted / hot)[:, None] * moved
    if needs_hard:
        columns = torch.arange(draft_logits.shape[1], device=draft_logits.device)
        is_best = columns[None, :] == best_columns[:, None]
        gradients = gradients - torch.where(is_best, of_hard[:, None], 0.0)
    return gradients.to(dtype)


@torch.no_grad()
def logit_gradients(
    sums_of: Sums,
    gradients_of: Gradients,
    draft_logits: Tensor,
    target_logits: Tensor,
    chunk: LossChunk,
    mix: LossMix,
    factor: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the summed loss times a factor, the loss, and Σ A.

    Args:
        sums_of: `law_sums`, or something faster that does the same.
        gradients_of: `law_gradients`, likewise.
        draft_logits: float32 [rows, columns].
        target_logits: likewise, the target's.
        chunk: what else is known of the rows.
        mix: which losses count how much.
        factor: of the gradient alone.
        dtype: of the gradient.
    """
    laws = (
        draft_logits,
        target_logits,
        chunk.log_totals,
        chunk.tempered_log_totals,
        chunk.temperatures,
    )
    needs = (mix.needs_divergence, mix.needs_acceptance)
    raw = sums_of(*laws, *needs)
    sums = LawSums(*raw)
    counts = torch.ones_like(sums.accepted)
    if mix.survival_share > 0:
        survival = losses.survival_weights(sums.accepted, chunk.is_first, mix.survival_depth)
        counts = 1.0 + mix.survival_share * (survival - 1.0)
    loss = (counts * _row_losses(draft_logits, sums, chunk, mix)).sum()
    is_hopeless = sums.accepted < losses.SMALLEST_ACCEPTANCE
    by_accepted = torch.where(is_hopeless, 0.0, -mix.acceptance / sums.accepted)
    scaled = counts * factor
    gradients = gradients_of(
        *laws,
        chunk.best_columns,
        raw,
        scaled * mix.divergence,
        scaled * (by_accepted - mix.total_variation),
        scaled * mix.hard * (chunk.best_columns >= 0),
        *needs,
        mix.needs_hard,
        dtype,
    )
    return gradients, loss, sums.accepted.sum()


def _row_losses(draft_logits: Tensor, sums: LawSums, chunk: LossChunk, mix: LossMix) -> Tensor:
    rows = mix.divergence * sums.divergence
    if mix.needs_acceptance:
        rows = rows + mix.acceptance * losses.acceptance_loss(sums.accepted)
        rows = rows + mix.total_variation * losses.total_variation(sums.accepted)
    if mix.needs_hard:
        best = draft_logits.gather(1, chunk.best_columns.clamp(min=0)[:, None])[:, 0]
        surprise = sums.log_total - best
        rows = rows + mix.hard * torch.where(chunk.best_columns >= 0, surprise, 0.0)
    return rows
