"""What a wait is weighed by: what the trees are worth, and what the engine makes."""

from dataclasses import dataclass

from treedraft.core.token_tree import TokenTree
from treedraft.target.budget import SurvivalCalibrator, node_survivals

# What a step counts for after the next one: an average over some twenty steps.
_PACE_DECAY = 0.95
# Weight of what a plain step should take at a load, until steps were seen there.
_PRIOR_STEPS = 2.0
# Leaves that a drafter is taken to expand in one step.
_FRONTIER_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a tree is worth to a pass, and what its leaves promise, both in tokens."""

    value: float
    promise: float

    @classmethod
    def of(
        cls,
        tree: TokenTree,
        calibrator: SurvivalCalibrator,
        *,
        max_nodes: int,
        max_depth: int,
        price: float = 0.0,
    ) -> "Outlook":
        """Look at a tree.

        Args:
            tree: the drafts of one session.
            calibrator: turns scores into survival.
            max_nodes: that a pass may hold of them.
            max_depth: likewise.
            price: what a row of a pass costs, in tokens; less likely nodes are worth nothing.
        """
        if max_nodes <= 0 or max_depth <= 0:
            return cls(0.0, 0.0)
        if not len(tree):
            return cls(0.0, 1.0)
        survivals = node_survivals(tree, calibrator, max_depth)
        best = sorted(survivals.values(), reverse=True)[:max_nodes]
        leaves = [s for node_id, s in survivals.items() if not tree.children(node_id)]
        return cls(
            sum(max(0.0, survival - price) for survival in best),
            sum(sorted(leaves, reverse=True)[:_FRONTIER_WIDTH]),
        )


class Goodput:
    """Tokens per millisecond over the last steps, waits included and idle time not.

    Kept for each load, in powers of two: what eight sessions make together is no measure of
    what a moment is worth to the one that is left.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        # Tokens and milliseconds, by size of load.
        self._sums: dict[int, tuple[float, float]] = {}
        self.size = 0  # the present load's
        self._since_ns: int | None = None

    @property
    def tokens_per_ms(self) -> float:
        """The mean at the present load; 0 before anything is known of it."""
        num_tokens, elapsed_ms = self._sums.get(self.size, (0.0, 0.0))
        return num_tokens / elapsed_ms if elapsed_ms else 0.0

    @property
    def token_us(self) -> int:
        """Time for a token in microseconds; 0 before anything is known."""
        return int(1e3 / self.tokens_per_ms) if self.tokens_per_ms else 0

    def begin(self, num_sessions: int, plain_ms: float) -> None:
        """Go by steps of so many sessions from now on; unknown ones are taken for plain."""
        self.size = max(0, num_sessions - 1).bit_length()
        prior = _PRIOR_STEPS * num_sessions, _PRIOR_STEPS * plain_ms
        self._sums.setdefault(self.size, prior)

    def step_finished(
        self, num_tokens: int, now_ns: int, *, counts: bool, size: int | None = None
    ) -> float | None:
        """Take in a step that ends now; one that `counts` not is left out of the mean.

        `size` is what the present load was when it began, if that may have changed.

        Returns:
            What it took in milliseconds, None if it is not known when it began.
        """
        since_ns, self._since_ns = self._since_ns, now_ns
        if since_ns is None:
            return None
        elapsed_ms = (now_ns - since_ns) / 1e6
        if not counts:
            return elapsed_ms
        size = self.size if size is None else size
        tokens, time_ms = self._sums.get(size, (0.0, 0.0))
        tokens, time_ms = tokens * _PACE_DECAY + num_tokens, time_ms * _PACE_DECAY + elapsed_ms
        self._sums[size] = tokens, time_ms
        return elapsed_ms

    def pause(self) -> None:
        """Leave the time until the next step ends out: there is nothing to do."""
        self._since_ns = None
