"""What a drafter is trained to get right, row by row.

A row is a position of a text; p is the target's law of the next token there
and q the drafter's. p is given on the drafter's columns only and not made to
sum to one again: what the target puts on ids that the drafter cannot say stays
outside, and no loss can be earned with it.

All functions are pure: they take float32 tensors and return one number a row.
"""

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

# In place of temperature 0: the target's law is all but one-hot there.
GREEDY_TEMPERATURE = 0.02
SMALLEST_ACCEPTANCE = 1e-6  # its logarithm bounds the loss of a hopeless row


def acceptance(
    draft_logits: Tensor, target_log_probs: Tensor, draft_temperatures: Tensor
) -> Tensor:
    """Return Σ min(p, q), the probability that a drafted token is accepted.

    Leviathan et al., arXiv 2211.17192, theorem 3.5.

    Args:
        draft_logits: [rows, columns].
        target_log_probs: log p at each row's temperature, [rows, columns].
        draft_temperatures: what q is taken at, [rows].

    Returns:
        [rows], from 0 to 1.
    """
    draft_probs = torch.softmax(draft_logits / draft_temperatures[:, None], dim=-1)
    return torch.minimum(target_log_probs.exp(), draft_probs).sum(dim=-1)


def acceptance_loss(accepted: Tensor) -> Tensor:
    """Return -log Σ min(p, q), [rows].

    The negative logarithm of what `acceptance` returns. With a one-hot p it is
    the cross entropy; its gradient does not vanish where little is accepted,
    which that of 1 - Σ min(p, q) does.
    """
    return -accepted.clamp(min=SMALLEST_ACCEPTANCE).log()


def total_variation(accepted: Tensor) -> Tensor:
    """Return 1 - Σ min(p, q), [rows]: the distance of p and q (DistillSpec, arXiv 2310.08461)."""
    return 1.0 - accepted


def draft_temperatures(temperatures: Tensor) -> Tensor:
    """Return what q is taken at for texts of these temperatures, [rows].

    Their own; but 1 where the target is greedy, since with a one-hot p the
    order of logits alone matters and a sharp q would give no gradient.
    """
    return torch.where(temperatures <= GREEDY_TEMPERATURE, 1.0, temperatures)


def survival_weights(accepted: Tensor, is_first: Tensor, depth: int) -> Tensor:
    """Return how much each row contributes to accepted drafts, mean 1.

    With drafts from every root r, the accepted length is J = Σ_r Σ_{d ≤ D} Π_{i < d}
    α_{r+i}. The weight is ∂J/∂log α_k: the expected number of chains that reach
    position k and get over it, each times the tokens that then follow within
    the depth. Weighting -log α_k by it gives the gradient of J.

    Args:
        accepted: α, the probability that a draft gets over the row, [rows]; no
            gradient goes through it.
        is_first: [rows], where a document begins; no chain passes there.
        depth: D.

    Returns:
        [rows].
    """
    alpha = accepted.detach()
    reach = _chain_products(alpha, is_first, depth)
    is_last = torch.cat([is_first[1:], is_first.new_ones(1)])
    follow = _chain_products(alpha.flip(0), is_last.flip(0), depth)
    # reach[j]: chains of j tokens end before the row; follow[m]: Σ of up to m behind it
    weights = torch.zeros_like(alpha)
    behind = torch.stack(follow).cumsum(0).flip(1)
    for num_before in range(depth):
        weights += reach[num_before] * behind[depth - 1 - num_before]
    weights *= alpha
    return weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)


def _chain_products(alpha: Tensor, is_first: Tensor, depth: int) -> list[Tensor]:
    """Return for j = 0 … depth - 1 the product of the j rows before each, 0 across a start."""
    product = torch.ones_like(alpha)
    products = [product]
    for _ in range(depth - 1):
        stepped = torch.cat([alpha.new_zeros(1), (product * alpha)[:-1]])
        product = torch.where(is_first, 0.0, stepped)
        products.append(product)
    return products


def hidden_distance(hidden: Tensor, target_hidden: Tensor) -> Tensor:
    """Return the smooth L1 distance of two last hidden states (EAGLE, arXiv 2401.15077).

    Args:
        hidden: the drafter's, [rows, hidden], of any float dtype.
        target_hidden: the target's.

    Returns:
        [rows], the mean over the width.
    """
    return smooth_l1_loss(hidden.float(), target_hidden.float(), reduction="none").mean(dim=-1)
