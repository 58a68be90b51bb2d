"""Whether another step of the draft model pays where it holds up the target.

On cores of its own a drafter grows for nothing: what it computes is there when
the target comes round. On the target's own cores each step delays the next pass
by what it takes, so it has to bring more tokens than the target makes in that
time. Tokens are counted as survival, the sum over nodes of the probability that
the target accepts them.
"""

import math
from collections.abc import Iterable

_SMOOTHING = 0.1
# What a step takes is learned quickly when it falls and slowly when it rises: a
# step beside a pass of the target takes several times as long as one alone, and
# it is the latter that has to pay.
_FALLING, _RISING = 0.3, 0.03
# Until steps were measured: what children of a node survive with, all together.
_PRIOR_YIELD = 0.8


class Thrift:
    """Knows what steps cost and bring, and what the target makes meanwhile."""

    def __init__(self, *, is_sharing: bool) -> None:
        """Weigh steps if the drafter is `is_sharing` its device with the target."""
        self._is_sharing = is_sharing
        self._step_ms: float | None = None
        self._yield = _PRIOR_YIELD
        self._token_us = 0

    def token_costs(self, token_us: int) -> None:
        """Note what the target says it takes for a token; 0 if it does not know."""
        self._token_us = token_us

    def pays(self, scores: Iterable[float]) -> bool:
        """Return whether to expand nodes of these scores, all of them in one step."""
        if not self._is_sharing or not self._token_us or self._step_ms is None:
            return True
        gain = self._yield * survival(scores)
        return gain * self._token_us >= self._step_ms * 1e3

    def step_finished(self, elapsed_ms: float, expanded: float, added: float) -> None:
        """Learn from a step.

        Args:
            elapsed_ms: what it took.
            expanded: survival of the nodes that it ran.
            added: survival of the nodes that it made.
        """
        if self._step_ms is None:
            self._step_ms = elapsed_ms
        # One hiccup of the machine must not end all growth.
        elapsed_ms = min(elapsed_ms, 3.0 * self._step_ms)
        rate = _FALLING if elapsed_ms < self._step_ms else _RISING
        self._step_ms += rate * (elapsed_ms - self._step_ms)
        if expanded:
            self._yield += _SMOOTHING * (min(1.0, added / expanded) - self._yield)


def survival(scores: Iterable[float]) -> float:
    """Return the number of nodes of these scores that the target is expected to accept."""
    return sum(map(math.exp, scores))
