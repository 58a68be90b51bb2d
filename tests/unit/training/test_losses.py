import pytest
import torch
from torch.nn.functional import cross_entropy

from treedraft.training import losses
from treedraft.training.loss_mix import LossMix
from treedraft.training.train_settings import LossSettings


def _laws(rows=6, columns=11, outside=5, seed=0):
    """Drafter's logits, and the target's log-probabilities on its columns alone."""
    generator = torch.Generator().manual_seed(seed)
    draft = 2 * torch.randn(rows, columns, generator=generator)
    target = 2 * torch.randn(rows, columns + outside, generator=generator)
    return draft, target.log_softmax(-1)[:, :columns]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_acceptance_is_one_minus_total_variation_of_full_laws(temperature):
    draft, log_p = _laws(outside=0)
    hot = torch.full((len(draft),), temperature)
    accepted = losses.acceptance(draft, log_p, hot)
    q = (draft / temperature).softmax(-1)
    torch.testing.assert_close(accepted, 1 - 0.5 * (log_p.exp() - q).abs().sum(-1))
    torch.testing.assert_close(losses.total_variation(accepted), 1 - accepted)


def test_acceptance_gradient_is_that_of_the_definition():
    draft, log_p = _laws()
    draft = draft.double().requires_grad_()
    hot = torch.full((len(draft),), 0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: losses.acceptance_loss(losses.acceptance(x, log_p.double(), hot)), draft
    )


def test_negative_log_acceptance_bounds_total_variation_and_is_cross_entropy_for_one_hot():
    draft, log_p = _laws()
    accepted = losses.acceptance(draft, log_p, torch.ones(len(draft)))
    assert (losses.acceptance_loss(accepted) >= losses.total_variation(accepted) - 1e-6).all()
    best = torch.arange(len(draft))
    one_hot = torch.full_like(draft, -1e4)
    one_hot[best, best] = 0.0
    torch.testing.assert_close(
        losses.acceptance_loss(losses.acceptance(draft, one_hot, torch.ones(len(draft)))),
        cross_entropy(draft, best, reduction="none"),
    )


def test_hopeless_rows_give_finite_losses_and_gradients():
    draft = torch.tensor([[200.0, -200.0]], requires_grad=True)
    log_p = torch.tensor([[-400.0, 0.0]])
    loss = losses.acceptance_loss(losses.acceptance(draft, log_p, torch.ones(1)))
    (gradient,) = torch.autograd.grad(loss.sum(), draft)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def _expected_accepted(alpha, is_first, depth):
    total = alpha.new_zeros(())
    for root in range(len(alpha)):
        product = alpha.new_ones(())
        for place in range(root, min(root + depth, len(alpha))):
            if place > root and is_first[place]:
                break
            product = product * alpha[place]
            total = total + product
    return total


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_survival_weights_are_the_gradient_of_the_accepted_length(depth):
    alpha = torch.rand(13, dtype=torch.float64).requires_grad_()
    is_first = torch.zeros(13, dtype=torch.bool)
    is_first[[0, 5, 6]] = True
    (by_alpha,) = torch.autograd.grad(_expected_accepted(alpha, is_first, depth), alpha)
    by_log_alpha = by_alpha * alpha.detach()
    found = losses.survival_weights(alpha, is_first, depth)
    torch.testing.assert_close(found, by_log_alpha / by_log_alpha.mean())
    assert not found.requires_grad


def test_mix_goes_from_divergence_to_the_others():
    settings = LossSettings(kl_share=0.4, ramp_share=0.2, acceptance=0.6, hard=0.1)
    before, half, after = (LossMix.at(share, settings) for share in (0.3, 0.5, 0.9))
    assert (before.divergence, before.acceptance, before.hard) == (1.0, 0.0, 0.0)
    assert half.acceptance == pytest.approx(0.3)
    assert after.divergence == pytest.approx(0.3)
    assert after.acceptance == pytest.approx(0.6)


def test_settings_that_add_up_to_more_than_all_are_refused():
    with pytest.raises(ValueError, match="add up"):
        LossSettings(acceptance=0.8, hard=0.3)
