import pytest
import torch

from treedraft.training import losses
from treedraft.training.logit_gradients import law_gradients, law_sums, logit_gradients
from treedraft.training.loss_mix import LossChunk, LossMix
from treedraft.training.train_settings import LossSettings

COLUMNS, OUTSIDE = 11, 5
MIXES = {
    "divergence": LossSettings(kl_share=1.0),
    "acceptance": LossSettings(acceptance=1.0, survival_share=0.0),
    "total variation": LossSettings(acceptance=0.0, total_variation=1.0, survival_share=0.0),
    "hard": LossSettings(acceptance=0.0, hard=1.0, survival_share=0.0),
    "all": LossSettings(acceptance=0.3, total_variation=0.2, hard=0.2, survival_share=0.5),
}


def make_chunk(rows=9, seed=0):
    """Return the drafter's logits, the target's on its columns, and the rest of a chunk."""
    generator = torch.Generator().manual_seed(seed)
    draft = 2 * torch.randn(rows, COLUMNS, generator=generator)
    full = 2 * torch.randn(rows, COLUMNS + OUTSIDE, generator=generator)
    temperatures = torch.tensor([losses.GREEDY_TEMPERATURE, 0.7, 1.0]).repeat(rows)[:rows]
    best = full.argmax(-1)
    is_first = torch.zeros(rows, dtype=torch.bool)
    is_first[[0, 4]] = True
    chunk = LossChunk(
        log_totals=full.logsumexp(-1),
        tempered_log_totals=(full / temperatures[:, None]).logsumexp(-1),
        temperatures=temperatures,
        best_columns=torch.where(best < COLUMNS, best, -1),
        is_first=is_first,
    )
    return draft, full[:, :COLUMNS], chunk


def by_definition(draft, target, chunk, mix):
    """Return the mixed loss of all rows and Σ A, written as the losses are defined."""
    log_p = target - chunk.log_totals[:, None]
    log_q = draft.log_softmax(-1)
    hot_p = target / chunk.temperatures[:, None] - chunk.tempered_log_totals[:, None]
    hot = losses.draft_temperatures(chunk.temperatures)
    accepted = losses.acceptance(draft, hot_p, hot)
    hard = -log_q.gather(1, chunk.best_columns.clamp(min=0)[:, None])[:, 0]
    rows = (
        mix.divergence * (log_p.exp() * (log_p - log_q)).sum(-1)
        + mix.acceptance * losses.acceptance_loss(accepted)
        + mix.total_variation * losses.total_variation(accepted)
        + mix.hard * torch.where(chunk.best_columns >= 0, hard, 0.0)
    )
    survival = losses.survival_weights(accepted, chunk.is_first, mix.survival_depth)
    rows = rows * (1.0 + mix.survival_share * (survival - 1.0))
    return rows.sum(), accepted.sum()


@pytest.mark.parametrize("name", MIXES)
def test_gradients_by_hand_are_those_of_the_definitions(name):
    draft, target, chunk = make_chunk()
    assert (chunk.best_columns < 0).any()
    mix = LossMix.at(0.9 if name != "divergence" else 0.1, MIXES[name])
    leaf = draft.clone().requires_grad_()
    loss, accepted = by_definition(leaf, target, chunk, mix)
    (expected,) = torch.autograd.grad(loss, leaf)
    gradients, found, found_accepted = logit_gradients(
        law_sums, law_gradients, draft, target, chunk, mix, 0.25, torch.float32
    )
    torch.testing.assert_close(gradients, 0.25 * expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found, loss.detach(), atol=1e-5, rtol=1e-5)
    if mix.needs_acceptance:
        torch.testing.assert_close(found_accepted, accepted.detach())


def test_gradients_are_rounded_once_to_what_is_asked_for():
    draft, target, chunk = make_chunk()
    mix = LossMix.at(0.9, MIXES["all"])
    exact, rounded = (
        logit_gradients(law_sums, law_gradients, draft, target, chunk, mix, 1.0, dtype)[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.bfloat16())


def test_divergence_is_least_where_the_drafter_has_the_targets_law():
    _, target, chunk = make_chunk()
    mix = LossMix.at(0.0, MIXES["divergence"])
    log_p = target - chunk.log_totals[:, None]
    gradients, loss, _ = logit_gradients(
        law_sums, law_gradients, log_p, target, chunk, mix, 1.0, torch.float32
    )
    mass = log_p.exp().sum(-1)
    torch.testing.assert_close(gradients, torch.zeros_like(gradients), atol=1e-6, rtol=0)
    torch.testing.assert_close(loss, (mass * mass.log()).sum())


def test_hopeless_rows_give_finite_losses_and_no_gradient_of_acceptance():
    chunk = make_chunk(rows=5)[2]
    draft = torch.full((5, COLUMNS), -200.0)
    draft[:, 0] = 200.0
    target = torch.full((5, COLUMNS), -400.0)
    mix = LossMix.at(0.9, MIXES["acceptance"])
    gradients, loss, accepted = logit_gradients(
        law_sums, law_gradients, draft, target, chunk, mix, 1.0, torch.float32
    )
    assert accepted == 0
    assert torch.isfinite(loss)
    assert not gradients.any()
