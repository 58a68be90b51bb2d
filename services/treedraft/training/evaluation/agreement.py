"""How often a drafter is right about the next token, and how near its law is.

Everything here is teacher-forced: at each place the text before it is the
target's own. On greedy text the first k children are the k most likely tokens,
so acceptance is top-k agreement. On sampled text they are the best of
`log q + g` with the target's own noise, so acceptance is what the coupled rule
accepts with k children, no estimate.

1 - TV, the share of the mass of p and q that overlaps, is the rate at which
rejection sampling accepts a single draft (Leviathan et al. 2023, arXiv
2211.17192). As `Σ min(p, q)` is the mean of `min(1, q/p)` under p, and the texts
are samples of p, their tokens give it without bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treedraft.training.evaluation.probe import DraftedText


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares over the tokens of some texts.

    Attributes:
        temperature: of the texts.
        category: of their prompts, empty for all.
        num_tokens: counted.
        acceptance: share among the first 1, 2, … children; at temperature 0
            the agreement with the target's top-1 .. top-k.
        one_minus_tv: overlap of the two laws.
        coverage: share of tokens that the drafter's head has at all.
    """

    temperature: float
    category: str
    num_tokens: int
    acceptance: tuple[float, ...]
    one_minus_tv: float
    coverage: float


def measure_agreement(
    drafted: Sequence[DraftedText], *, num_children: int, category: str = ""
) -> Agreement:
    """Return the shares over texts of one temperature."""
    ranks = [
        _rank(text, index) for text in drafted for index in range(text.text.num_response_tokens)
    ]
    counts = np.bincount(np.minimum(ranks, num_children), minlength=num_children + 1)
    log_draft = np.concatenate([text.log_probs for text in drafted])
    log_target = np.concatenate([text.text.log_probs for text in drafted]).astype(np.float64)
    temperature = drafted[0].text.temperature
    acceptance = np.cumsum(counts[:num_children]) / len(ranks)
    # The laws of greedy text are points.
    overlap = np.exp(np.minimum(0.0, log_draft - log_target)).mean()
    return Agreement(
        temperature=temperature,
        category=category,
        num_tokens=len(ranks),
        acceptance=tuple(acceptance.tolist()),
        one_minus_tv=float(overlap) if temperature else float(acceptance[0]),
        coverage=float(np.isfinite(log_draft).mean()),
    )


def _rank(text: DraftedText, index: int) -> int:
    """Return the rank of the target's token among the children, their number if it is none."""
    children, token_id = text.children[index], text.response_token(index)
    return next((rank for rank, child in enumerate(children) if child[0] == token_id), 1 << 16)
