"""How near a draw was to coming out differently.

The logits of a row depend a little on what else is in the pass, since matrix
kernels round differently for other numbers of rows. A token may then differ
only if the draw was a tie: if a change of the logits below a stated tolerance
could turn it. `tie_margin` measures that change, so a test can prove a tie
instead of waving at one.
"""

import math

import numpy as np
import numpy.typing as npt
from torch import Tensor

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.draw import gumbel_row, seed_of
from treedraft.inference.law import (
    LawRow,
    adjusted_logits,
    is_truncated,
    survivors,
    temperature_of,
)


def tie_margin(target_logits_row: Tensor, row: LawRow) -> float:
    """Return how far two noised scores must move against each other to turn the draw.

    In units of the processed logits (divided by the temperature). The draw
    turns if another survivor overtakes the winner, if the winner is cut, or if
    a cut token comes back that would beat it. The moves are those of single
    tokens; masses of top-p are taken to move with the logits of their tokens.

    Args:
        target_logits_row: float32 [vocab].
        row: the law of the row.
    """
    adjusted = adjusted_logits(target_logits_row.detach().cpu()[None], [row])[0]
    logits: npt.NDArray[np.float32] = (adjusted / temperature_of(row.sampling)).numpy()
    scores = logits.astype(np.float64)
    if not row.sampling.is_greedy:
        scores += gumbel_row(
            len(logits), seed=seed_of(row), position=row.position, choice=row.choice
        )
    stays = np.ones(len(logits), dtype=np.bool_)
    if is_truncated(row.sampling):
        stays[:] = False
        stays[survivors(logits, row.sampling)] = True
    winner = int(np.where(stays, scores, -math.inf).argmax())
    lead = scores[winner] - scores
    rivals = np.flatnonzero(stays & (np.arange(len(logits)) != winner))
    margin = float(lead[rivals].min()) if len(rivals) else math.inf
    if is_truncated(row.sampling):
        cuts = _Cuts(logits, row.sampling)
        margin = min(margin, cuts.distance(winner))
        # A cut token matters only as far as it would win once it is back.
        for rival in np.flatnonzero(~stays & (lead < margin)):
            margin = min(margin, max(cuts.distance(int(rival)), float(lead[rival])))
    return margin


class _Cuts:
    """The edges of one truncated law, and how far tokens are from crossing them."""

    def __init__(self, logits: npt.NDArray[np.float32], sampling: SamplingParameters) -> None:
        self._sampling = sampling
        self._order = np.argsort(-logits, kind="stable")
        self._rank = np.empty(len(logits), dtype=np.int64)
        self._rank[self._order] = np.arange(len(logits))
        self._values = logits[self._order].astype(np.float64)
        self._top_k = min(sampling.top_k or len(logits), len(logits))
        weights = np.exp(self._values - self._values[0])
        weights[self._top_k :] = 0.0
        mass = np.cumsum(weights) / weights.sum()
        self._mass_before = np.concatenate(([0.0], mass[:-1]))

    def distance(self, token_id: int) -> float:
        """Return the least move of a token that takes it in or out of the law."""
        rank = int(self._rank[token_id])
        edges = [self._to_top_k(rank), self._to_top_p(rank), self._to_min_p(rank)]
        outside = [-edge for edge in edges if edge < 0.0]
        # To come in, every cut that holds it out must be crossed; to fall out, one.
        return max(outside) if outside else min(edges)

    def _to_top_k(self, rank: int) -> float:
        """Return the signed distance from the edge, negative outside."""
        if self._top_k == len(self._values):
            return math.inf
        inside = rank < self._top_k
        edge = self._values[self._top_k if inside else self._top_k - 1]
        gap = abs(float(self._values[rank] - edge))
        return gap if inside else -max(gap, 5e-324)

    def _to_top_p(self, rank: int) -> float:
        if self._sampling.top_p == 1.0:
            return math.inf
        # At the cost of moving past its neighbours a token changes the mass
        # before it; the rest of the way it must move in log-odds.
        goal = _log_odds(np.array([self._sampling.top_p]))[0]
        way = _log_odds(self._mass_before) - goal
        inside = way[rank] < 0.0
        moved = np.abs(self._values - self._values[rank])
        if inside:
            return float(np.maximum(moved[rank:], -way[rank:]).min())
        return -max(float(np.maximum(moved[: rank + 1], way[: rank + 1]).min()), 5e-324)

    def _to_min_p(self, rank: int) -> float:
        if self._sampling.min_p == 0.0 or rank == 0:
            return math.inf
        gap = float(self._values[rank] - self._values[0]) - math.log(self._sampling.min_p)
        return gap if gap != 0.0 else 5e-324


def _log_odds(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.log(probabilities) - np.log1p(-np.minimum(probabilities, 1.0))
