"""How far the draft model grows where each of its steps holds up the target.

On cores of its own a drafter grows for nothing: what it computes is there when
the target comes round. On the target's own cores each step delays the next pass
by what it takes, so it has to bring more tokens than the target makes in that
time. A node brings the probability that the target accepts it, less what its row
adds to the pass: one that is not worth its row is never verified.

Whether to draft for a session at all is the target's decision, which sees what
drafting costs as a whole; this only says when a tree is large enough.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from treedraft.core.exchange import UNKNOWN_ECONOMICS, Economics
from treedraft.inference.level_growth import Worth

_SMOOTHING = 0.1
# What a step takes is learned quickly when it falls and slowly when it rises: a
# step beside a pass of the target takes several times as long as one alone, and
# it is the latter that has to pay.
_FALLING, _RISING = 0.1, 0.03
# One hiccup of the machine must not end all growth.
_MAX_JUMP = 3.0
# Sizes that are not run drift to what they should take by those that are: what was
# thought too dear would never be found out to be cheap.
_DRIFT = 0.02
# Until steps were measured: what the children of a node survive with, given it.
_PRIOR_PROFILE = (0.6, 0.12, 0.05, 0.03)


class Thrift:
    """Knows what steps cost and bring, and what the target makes meanwhile."""

    def __init__(self, *, is_sharing: bool) -> None:
        """Weigh steps if the drafter is `is_sharing` its device with the target."""
        self._is_sharing = is_sharing
        self._economics = UNKNOWN_ECONOMICS
        # By number of rows, in powers of two: of late, and when nothing else ran.
        self._step_ms: dict[int, float] = {}
        self._first_ms: dict[int, float] = {}
        self._profile = list(_PRIOR_PROFILE)

    @property
    def is_sharing(self) -> bool:
        """Whether steps hold up the target, so that what they take has to be learned."""
        return self._is_sharing

    def calibrate(self, step_ms: Mapping[int, float]) -> None:
        """Take what steps of so many rows took before anybody was drafted for."""
        for num_rows, elapsed_ms in step_ms.items():
            self._first_ms[_size(num_rows)] = self._step_ms[_size(num_rows)] = elapsed_ms

    def target_says(self, economics: Economics) -> None:
        """Note what drafts are worth to the target at present."""
        self._economics = economics

    def num_worth_it(self, scores: Iterable[float]) -> int:
        """Return how many nodes to expand in one pass, the best of these scores; 0 for none."""
        survivals = sorted(map(math.exp, scores), reverse=True)
        token_us = self._economics.token_us
        if not self._is_sharing or not token_us or not self._step_ms:
            return len(survivals)
        best_count, best_net, gain = 0, 0.0, 0.0
        for count, survival in enumerate(survivals, start=1):
            gain += self._gain(survival)
            net = gain - self._estimate_ms(count) * 1e3 / token_us
            if net >= best_net:
                best_count, best_net = count, net
        return best_count

    def is_worth_levels(self, scores: Iterable[float], *, levels: int, width: int) -> bool:
        """Return whether a step is worth it that runs `levels` more passes come what may.

        Args:
            scores: of the nodes that its first pass runs, at least one.
            levels: passes after the first.
            width: rows of each of them.
        """
        survivals = list(map(math.exp, scores))
        token_us = self._economics.token_us
        if not self._is_sharing or not token_us or not self._step_ms:
            return True
        cost_ms = self._estimate_ms(len(survivals)) + levels * self._estimate_ms(width)
        waiting: list[float] = []
        fresh, gain = survivals, sum(map(self._gain, survivals))
        for _ in range(levels):
            waiting += [survival * share for survival in fresh for share in self._profile]
            waiting.sort(reverse=True)
            fresh, waiting = waiting[:width], waiting[width:]
            gain += sum(map(self._gain, fresh))
        return gain >= cost_ms * 1e3 / token_us

    def worth(self, max_rows: int) -> Worth | None:
        """Return the rule of `num_worth_it` for passes of so many rows; None where all are."""
        token_us = self._economics.token_us
        if not self._is_sharing or not token_us or not self._step_ms:
            return None
        costs = (self._estimate_ms(count) * 1e3 / token_us for count in range(1, max_rows + 1))
        return Worth(tuple(costs), tuple(self._profile), self._economics.row_price)

    def step_finished(
        self, elapsed_ms: float, expanded: Sequence[tuple[float, Sequence[float]]]
    ) -> None:
        """Learn from a step.

        Args:
            elapsed_ms: what it took.
            expanded: the score of each node that it ran, a root's being 0, and those of
                the children that it made.
        """
        if not self._is_sharing or not expanded:
            return  # whatever steps cost, nobody waits for them
        self._learn_time(_size(len(expanded)), elapsed_ms)
        for score, children in expanded:
            shares = sorted((math.exp(child - score) for child in children), reverse=True)
            for rank in range(len(self._profile)):
                share = shares[rank] if rank < len(shares) else 0.0
                self._profile[rank] += _SMOOTHING * (min(1.0, share) - self._profile[rank])

    def _learn_time(self, size: int, elapsed_ms: float) -> None:
        known_ms = self._step_ms.setdefault(size, elapsed_ms)
        first_ms = self._first_ms.setdefault(size, elapsed_ms)
        elapsed_ms = min(elapsed_ms, _MAX_JUMP * known_ms)
        rate = _FALLING if elapsed_ms < known_ms else _RISING
        self._step_ms[size] = known_ms + rate * (elapsed_ms - known_ms)
        slowness = self._step_ms[size] / first_ms
        for other, time_ms in self._step_ms.items():
            if other != size:
                usual_ms = slowness * self._first_ms[other]
                self._step_ms[other] = time_ms + _DRIFT * (usual_ms - time_ms)

    def _gain(self, survival: float) -> float:
        """Return what the children of a node bring, in tokens."""
        price = self._economics.row_price
        return sum(max(0.0, survival * share - price) for share in self._profile)

    def _estimate_ms(self, num_rows: int) -> float:
        size = _size(num_rows)
        nearest = min(self._step_ms, key=lambda known: (abs(known - size), -known))
        return self._step_ms[nearest]


def _size(num_rows: int) -> int:
    return max(0, num_rows - 1).bit_length()
