"""How wide the steps of a drafter on its own cores are: as wide as their time allows.

Idle cores cost nothing, so trees grow wide there. But each row and each child is work for
the host as well, which delays what the step brings while the target goes on: where that
makes a token in a millisecond, a step of hundreds of children is about a text that is
tokens older by the time it is told. So the host's part of a step, which is measured, may be
a stated share of what a token takes the target, which the target tells.

Where the device runs graphs of one shape there is nothing to choose.
"""

import math

from treedraft.core.exchange import UNKNOWN_ECONOMICS, Economics
from treedraft.draft.settings import GrowthSettings

# Of a token's time. What a step takes the device is hidden behind the target's pass; this is
# there once more where frames are written and read.
_HOST_SHARE = 0.25
# How quickly what steps take is followed; a hiccup counts as so many times too long at most.
_RATE = 0.1
_MAX_EXCESS = 3.0


class Breadth:
    """Chooses between narrow and wide growth."""

    def __init__(self, narrow: GrowthSettings, wide: GrowthSettings) -> None:
        """Begin wide."""
        self._rows = narrow.max_rows_per_session, wide.max_rows_per_session
        self._children = narrow.num_children, wide.num_children
        # Rows and children together grow by so much, as a logarithm.
        ratios = (most / least for least, most in (self._rows, self._children))
        self._span = math.log(math.prod(ratios))
        self._share = 1.0
        self._economics = UNKNOWN_ECONOMICS

    @property
    def rows(self) -> int:
        """Nodes of one session that a pass expands."""
        return self._between(*self._rows)

    @property
    def num_children(self) -> int:
        """Children that the model names for each."""
        return self._between(*self._children)

    def target_says(self, economics: Economics) -> None:
        """Note what drafts are worth to the target."""
        self._economics = economics

    def step_finished(self, host_ms: float, *, num_sessions: int) -> None:
        """Learn from a step for so many sessions what it takes the host."""
        # Theirs come at once: each of them waits for its next token so many times as long.
        token_ms = num_sessions * self._economics.token_us / 1e3
        if not token_ms or not self._span or host_ms <= 0.0:
            return
        excess = math.log(min(host_ms / (_HOST_SHARE * token_ms), _MAX_EXCESS))
        self._share = min(1.0, max(0.0, self._share - _RATE * excess / self._span))

    def _between(self, least: int, most: int) -> int:
        return round(least * math.exp(self._share * math.log(most / least)))
