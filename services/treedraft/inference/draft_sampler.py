"""Choosing the children of a drafted node.

Coupled rule: the drafter adds the target's own noise to its own logits, so the
top K of `log q + g` are the tokens that the target is most likely to draw there
(Gumbel-top-K, Kool et al. 2019, arXiv 1903.06059). Which of them a tree keeps
is free: no choice of the drafter can change a token.

Rejection rule: the children are a sample without replacement from a sparse law
q, which travels with them and must be the very law that they were drawn from.
So q is cut, renormalised and rounded to the float32 of the wire first, and the
draw is made from the result, with noise of a domain of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from treedraft.core.noise import Domain
from treedraft.inference.draw import (
    Candidates,
    NoiseRows,
    law_candidates,
    noise_of_tokens,
    noised_rows,
)
from treedraft.inference.law import LawRow, adjusted_logits


@dataclass(frozen=True, slots=True)
class SparseLaw:
    """A law over a few tokens, most likely first; the probabilities are float32 numbers."""

    token_ids: tuple[int, ...]
    probabilities: tuple[float, ...]


def draft_children(
    draft_logits: Tensor,
    rows: Sequence[LawRow],
    num_children: int,
    *,
    score_temperature: float = 1.0,
    noise_rows: NoiseRows | None = None,
) -> list[list[tuple[int, float]]]:
    """Return for each row its best children as (token, score increment), best first.

    The increment estimates the log-probability that the target draws the child:
    `log_softmax((log q + g) / score_temperature)`, for greedy rows without g.

    Args:
        draft_logits: float32 [num_rows, vocab].
        rows: the laws of the target's tokens at the same places.
        num_children: at most that many children a row.
        score_temperature: above 1 trusts the drafter less.
        noise_rows: keep one across steps to make the noise of a position once.
    """
    kept = noise_rows or NoiseRows()
    return [
        _best(candidates, num_children, score_temperature)
        for candidates in noised_rows(draft_logits.cpu(), rows, kept)
    ]


def _best(
    candidates: Candidates, num_children: int, score_temperature: float
) -> list[tuple[int, float]]:
    scores = candidates.scores.astype(np.float64) / score_temperature
    best = candidates.top(num_children)
    # An estimate: float32 exponentials are good enough, and twice as fast.
    weights = np.exp((scores - scores[best[0]]).astype(np.float32))
    log_total = np.log(weights.sum(dtype=np.float64))
    increments = scores[best] - scores[best[0]] - log_total
    # -inf marks tokens that no law allows.
    return [
        (candidates.token_at(int(index)), min(float(increment), 0.0))
        for index, increment in zip(best, increments, strict=True)
        if np.isfinite(increment)
    ]


def draft_siblings(
    draft_logits: Tensor, rows: Sequence[LawRow], num_children: int, *, support_size: int = 64
) -> list[tuple[list[int], SparseLaw]]:
    """Return for each row the children drawn without replacement, and their law.

    The children come in the order in which they were drawn. There are fewer
    than `num_children` only where the law has fewer tokens: a greedy law has one.

    Args:
        draft_logits: float32 [num_rows, vocab].
        rows: laws of the target's tokens at the same places; `branch` must tell
            apart the nodes of one depth.
        num_children: children a row, decided before anything is drawn.
        support_size: the law is cut to that many tokens.
    """
    logits = adjusted_logits(draft_logits.cpu(), rows).numpy()
    laws = [
        _sparse_law(
            law_candidates(logits[index], row), 1 if row.sampling.is_greedy else support_size
        )
        for index, row in enumerate(rows)
    ]
    supports = [np.array(law.token_ids) for law in laws]
    noise = noise_of_tokens(rows, supports, domain=Domain.DRAFT_SAMPLING)
    return [
        (_draw_without_replacement(law, own_noise, num_children), law)
        for law, own_noise in zip(laws, noise, strict=True)
    ]


def _sparse_law(candidates: Candidates, support_size: int) -> SparseLaw:
    support = candidates.top(support_size)
    scores = candidates.scores[support].astype(np.float64)
    weights = np.exp(scores - scores[0])
    probabilities = (weights / weights.sum()).astype(np.float32)
    stays = probabilities > 0.0
    return SparseLaw(
        tuple(candidates.token_at(int(index)) for index in support[stays]),
        tuple(probabilities[stays].tolist()),
    )


def _draw_without_replacement(
    law: SparseLaw, noise: npt.NDArray[np.float64], num_children: int
) -> list[int]:
    """Return the top K of `log q + g`: a sample without replacement, in its order."""
    order = np.argsort(-(np.log(law.probabilities) + noise), kind="stable")
    return [law.token_ids[index] for index in order[:num_children]]
