"""Scores that keep their word: what drafts claimed against what came true.

Two means. `MatchCalibrator` counts, for lookup: matches of one kind came true
so often. `LogOddsPool` weighs, for claims that are probabilities already: with
one claim it stretches and shifts it (Platt 1999), with several it makes one of
them (logistic mixing, as in context-mixing compressors: Mahoney 2005). Both
begin with a stated prior and learn from each committed token.

All of it belongs to one tenant: what drafts did for another changes nothing.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

# A claim weighs as much as so many observations.
_PRIOR_WEIGHT = 4.0
# So many later observations of a kind, and an old one weighs a third.
_MEMORY = 500.0

_MIN_PROBABILITY = 1e-6
_MAX_PROBABILITY = 1.0 - 1e-4
# Simulated: costs 0.002 nats a claim where claims are right, and takes back nine
# tenths of what claims lose that are twice too sure.
_LEARNING_RATE = 0.02
_RETURN_RATE = 0.0005
_MAX_WEIGHT = 3.0
_MAX_BIAS = 4.0

Kind = tuple[str, int, int]
"""A kind of match: where it was found, class of its length, class of its counts."""


class MatchCalibrator:
    """How often matches of each kind came true, with a claim or other counts as prior."""

    def __init__(self, above: "MatchCalibrator | None" = None) -> None:
        """Know nothing yet; what `above` has counted is the prior where there is one."""
        self._above = above
        # By kind: observations and those that came true, the old ones faded.
        self._trials: dict[Kind, float] = defaultdict(float)
        self._successes: dict[Kind, float] = defaultdict(float)

    def probability(self, kind: Kind, claim: float) -> float:
        """Return the estimated probability that a match of a kind comes true."""
        if self._above:
            claim = self._above.probability(kind, claim)
        trials = self._trials.get(kind)
        if trials is None:
            return claim
        return (self._successes[kind] + _PRIOR_WEIGHT * claim) / (trials + _PRIOR_WEIGHT)

    def observe(self, kind: Kind, *, is_true: bool) -> None:
        """Learn what became of a match."""
        if self._above:
            self._above.observe(kind, is_true=is_true)
        kept = 1.0 - 1.0 / _MEMORY
        self._trials[kind] = self._trials[kind] * kept + 1.0
        self._successes[kind] = self._successes[kind] * kept + is_true


class LogOddsPool:
    """Makes one probability of one or several claims: σ(bias + Σ weight · log-odds)."""

    def __init__(self, bias: float, weights: Sequence[float]) -> None:
        """Begin with, and without observations return to, these weights."""
        self._prior = (bias, *weights)
        self._bias = bias
        self._weights = list(weights)

    @property
    def line(self) -> tuple[float, ...]:
        """The bias, then the weights."""
        return (self._bias, *self._weights)

    def probability(self, claims: Sequence[float]) -> float:
        """Return the probability, strictly between 0 and 1, that claims amount to."""
        total = self._bias
        for weight, claim in zip(self._weights, claims, strict=True):
            total += weight * _log_odds(claim)
        return _logistic(total)

    def probabilities(self, claims: Sequence[float]) -> list[float]:
        """Return what each of these amounts to, for a pool of one claim at a time."""
        bias, (weight,) = self._bias, self._weights
        log, exp, found = math.log, math.exp, []
        for claim in claims:  # of every child of a tree, so written out
            if claim < _MIN_PROBABILITY:
                claim = _MIN_PROBABILITY
            elif claim > _MAX_PROBABILITY:
                claim = _MAX_PROBABILITY
            odds = exp(-bias - weight * log(claim / (1.0 - claim)))
            probability = 1.0 / (1.0 + odds)
            if probability < _MIN_PROBABILITY:
                probability = _MIN_PROBABILITY
            elif probability > _MAX_PROBABILITY:
                probability = _MAX_PROBABILITY
            found.append(probability)
        return found

    def observe(self, claims: Sequence[float], *, is_true: bool) -> None:
        """Take one step down the gradient of the log-loss.

        Weights stay at or above 0, so a higher claim never makes a lower score.
        """
        odds = [_log_odds(claim) for claim in claims]
        total = self._bias
        for weight, value in zip(self._weights, odds, strict=True):
            total += weight * value
        error = _LEARNING_RATE * (is_true - _logistic(total))
        bias = self._bias + error + _RETURN_RATE * (self._prior[0] - self._bias)
        self._bias = min(max(bias, -_MAX_BIAS), _MAX_BIAS)
        for index, value in enumerate(odds):
            weight = self._weights[index]
            weight += error * value + _RETURN_RATE * (self._prior[index + 1] - weight)
            self._weights[index] = min(max(weight, 0.0), _MAX_WEIGHT)


class OpinionMixer:
    """Makes one score of what a model and lookup say about a child of a node.

    Three cases are learned apart: the model alone names the token; both do;
    lookup does and the model, asked, does not. What lookup says of a node that
    no model has seen is calibrated already and stays as it is.
    """

    def __init__(self) -> None:
        """Begin by believing the model, and lookup less where the model objects."""
        self._model_alone = LogOddsPool(0.0, (1.0,))
        self._both = LogOddsPool(0.3, (0.7, 0.7))
        self._lookup_against = LogOddsPool(-1.0, (1.0,))

    @property
    def model_belief(self) -> tuple[float, float]:
        """Bias and weight of the log-odds of what the model alone names."""
        bias, weight = self._model_alone.line
        return bias, weight

    def probability(
        self, token_id: int, model: Mapping[int, float] | None, lookup: Mapping[int, float]
    ) -> float:
        """Return the probability that a node's next token is this one.

        Args:
            token_id: named by at least one of the two.
            model: probability by token as the model claims; None if it was not asked.
            lookup: the same of lookup.
        """
        if model is None:
            return lookup[token_id]
        pool, claims = self._case(token_id, model, lookup)
        return pool.probability(claims)

    def probabilities(
        self,
        token_ids: Sequence[int],
        model: Mapping[int, float] | None,
        lookup: Mapping[int, float],
    ) -> list[float]:
        """Return the `probability` of each of these tokens."""
        if model is not None and not lookup:  # nearly always, and for every child of a tree
            return self._model_alone.probabilities([model[token_id] for token_id in token_ids])
        return [self.probability(token_id, model, lookup) for token_id in token_ids]

    def learn(
        self, token_id: int, model: Mapping[int, float] | None, lookup: Mapping[int, float]
    ) -> None:
        """Learn from what came: `token_id` came true and everything else that was said did not."""
        if model is None:
            return
        for named in model.keys() | lookup.keys():
            pool, claims = self._case(named, model, lookup)
            pool.observe(claims, is_true=named == token_id)

    def _case(
        self, token_id: int, model: Mapping[int, float], lookup: Mapping[int, float]
    ) -> tuple[LogOddsPool, tuple[float, ...]]:
        by_model, by_lookup = model.get(token_id), lookup.get(token_id)
        if by_lookup is None:
            return self._model_alone, (model[token_id],)
        if by_model is None:
            return self._lookup_against, (by_lookup,)
        return self._both, (by_model, by_lookup)


def _log_odds(probability: float) -> float:
    probability = min(max(probability, _MIN_PROBABILITY), _MAX_PROBABILITY)
    return math.log(probability / (1.0 - probability))


def _logistic(log_odds: float) -> float:
    probability = 1.0 / (1.0 + math.exp(-log_odds))
    return min(max(probability, _MIN_PROBABILITY), _MAX_PROBABILITY)
