"""Choosing the children of a drafted node.

Coupled rule: the drafter adds the target's own noise to its own logits, so the
top K of `log q + g` are the tokens that the target is most likely to draw there
(Gumbel-top-K, Kool et al. 2019, arXiv 1903.06059). Which of them a tree keeps
is free: no choice of the drafter can change a token.

Rejection rule: the children are a sample without replacement from a sparse law
q, which travels with them and must be the very law that they were drawn from.
So q is cut, renormalised and rounded to the float32 of the wire first, and the
draw is made from the result, with noise of a domain of its own.

A drafter's head may know some of the target's tokens only. Its columns become
tokens before anything is keyed by them: noise, bias, penalties, the law.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from treedraft.core.noise import Domain
from treedraft.inference.draw import Candidates, noise_of_tokens
from treedraft.inference.fused.support import is_available
from treedraft.inference.law import (
    LawRow,
    adjusted_logits,
    is_truncated,
    survivors,
    temperature_of,
)

# Only the best tokens of a row get noise: so many at most, and none whose law is
# e**NOISED_DEPTH times less likely than that of the best. The draw falls outside
# of them as often as their law says: one time in a hundred at temperature 1 for
# a model of 135 M parameters, one in 400 at 0.7. That costs acceptance, never
# exactness, while noise over a whole vocabulary would cost half of a draft step.
NOISED_CANDIDATES = 1024
NOISED_DEPTH = 9.0

TokenIds = npt.NDArray[np.int64]


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
    column_ids: TokenIds | None = None,
) -> list[list[tuple[int, float]]]:
    """Return for each row its best children as (token, score increment), best first.

    The increment estimates the log-probability that the target draws the child:
    `log_softmax((log q + g) / score_temperature)`, for greedy rows without g.
    There are fewer than `num_children` where the law has hardly any others.

    Args:
        draft_logits: float32 [num_rows, columns].
        rows: the laws of the target's tokens at the same places.
        num_children: at most that many children a row.
        score_temperature: above 1 trusts the drafter less.
        column_ids: the token of each column, ascending; None if they are the columns.
    """
    if is_available(draft_logits.device, torch.bfloat16):
        from treedraft.inference.fused.children import can_choose, choose_children  # needs Triton

        if can_choose(rows):
            return choose_children(
                draft_logits,
                rows,
                num_children,
                score_temperature=score_temperature,
                column_ids=column_ids,
            )
    heads = _heads(draft_logits, rows, column_ids)
    sampled = [index for index, row in enumerate(rows) if not row.sampling.is_greedy]
    noise = noise_of_tokens(
        [rows[index] for index in sampled], [_ids_of(heads[index]) for index in sampled]
    )
    for index, own_noise in zip(sampled, noise, strict=True):
        head = heads[index]
        heads[index] = Candidates(head.token_ids, head.scores.astype(np.float64) + own_noise)
    return [_best(head, num_children, score_temperature) for head in heads]


def _heads(
    draft_logits: Tensor, rows: Sequence[LawRow], column_ids: TokenIds | None
) -> list[Candidates]:
    """Return the likely tokens of each row, scored by the logits of its law."""
    logits = adjusted_logits(draft_logits.cpu(), rows, column_ids).numpy()
    return [_head(logits[index], row, column_ids) for index, row in enumerate(rows)]


def _head(logits: npt.NDArray[np.float32], row: LawRow, column_ids: TokenIds | None) -> Candidates:
    tempered = logits / np.float32(temperature_of(row.sampling))
    columns = _likely_columns(tempered)
    if row.allowed is not None:
        columns = columns[np.isfinite(tempered[columns])]
    if len(columns) and is_truncated(row.sampling):
        columns = columns[survivors(tempered[columns], row.sampling)]
    token_ids = columns if column_ids is None else column_ids[columns]
    return Candidates(token_ids, tempered[columns])


def _likely_columns(tempered: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the columns that get noise, ascending; all of a small head."""
    if len(tempered) <= NOISED_CANDIDATES:
        return np.arange(len(tempered))
    columns = np.flatnonzero(tempered >= tempered.max() - np.float32(NOISED_DEPTH))
    if len(columns) > NOISED_CANDIDATES:
        best = np.argpartition(tempered[columns], -NOISED_CANDIDATES)[-NOISED_CANDIDATES:]
        columns = columns[np.sort(best)]
    return columns


def _ids_of(candidates: Candidates) -> TokenIds:
    assert candidates.token_ids is not None
    return candidates.token_ids


def _best(
    candidates: Candidates, num_children: int, score_temperature: float
) -> list[tuple[int, float]]:
    if not len(candidates.scores):
        return []
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
    draft_logits: Tensor,
    rows: Sequence[LawRow],
    num_children: int,
    *,
    support_size: int = 64,
    column_ids: TokenIds | None = None,
) -> list[tuple[list[int], SparseLaw]]:
    """Return for each row the children drawn without replacement, and their law.

    The children come in the order in which they were drawn. There are fewer
    than `num_children` only where the law has fewer tokens: a greedy law has one.

    Args:
        draft_logits: float32 [num_rows, columns].
        rows: laws of the target's tokens at the same places; `branch` must tell
            apart the nodes of one depth.
        num_children: children a row, decided before anything is drawn.
        support_size: the law is cut to that many tokens.
        column_ids: the token of each column, ascending; None if they are the columns.
    """
    laws = [
        _sparse_law(head, 1 if row.sampling.is_greedy else support_size)
        for head, row in zip(_heads(draft_logits, rows, column_ids), rows, strict=True)
    ]
    supports = [np.array(law.token_ids, dtype=np.int64) for law in laws]
    noise = noise_of_tokens(rows, supports, domain=Domain.DRAFT_SAMPLING)
    return [
        (_draw_without_replacement(law, own_noise, num_children), law)
        for law, own_noise in zip(laws, noise, strict=True)
    ]


def _sparse_law(candidates: Candidates, support_size: int) -> SparseLaw:
    if not len(candidates.scores):
        return SparseLaw((), ())
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
