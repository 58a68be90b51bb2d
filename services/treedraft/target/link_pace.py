"""When frames of a drafter come and what they add, as far as that can be learned."""

from dataclasses import dataclass, field

_SMOOTHING = 0.2
_PRIOR_YIELD = 0.8
_PRIOR_WEIGHT = 2.0
_YIELD_DECAY = 0.98
_YIELD_FORGETTING = 0.0003
_PRIOR_GAP_MS = 5.0
# A frame is overdue when it is later than expected by so many mean deviations (as
# TCP times out, Jacobson 1988), and a bit.
_OVERDUE_DEVIATIONS = 4.0
_OVERDUE_MS = 1.0
# A frame that is late is expected after this share of the usual time.
_MIN_REMAINING_SHARE = 0.25


@dataclass(slots=True)
class _Gap:
    """Time between two events, in milliseconds: the mean of late, and how far off it is."""

    mean_ms: float = _PRIOR_GAP_MS
    deviation_ms: float = _PRIOR_GAP_MS / 4.0

    @property
    def overdue_ms(self) -> float:
        return self.mean_ms + _OVERDUE_DEVIATIONS * self.deviation_ms + _OVERDUE_MS

    def observe(self, elapsed_ms: float) -> None:
        error = elapsed_ms - self.mean_ms
        self.mean_ms += _SMOOTHING * error
        self.deviation_ms += _SMOOTHING * (abs(error) - self.deviation_ms)


@dataclass(slots=True)
class LinkPace:
    """When frames of one drafter come and what they add."""

    since_ns: int = 0  # of the last commit or frame
    is_answer: bool = True  # the next frame is the first one after a commit
    is_opening: bool = False  # … after a session was opened: a prompt is computed first
    opening_gap: _Gap = field(default_factory=_Gap)
    answer_gap: _Gap = field(default_factory=_Gap)
    frame_gap: _Gap = field(default_factory=_Gap)
    travel_ms: float = 0.0  # of a commit and its answer together
    gained: float = _PRIOR_WEIGHT * _PRIOR_YIELD
    promised: float = _PRIOR_WEIGHT
    num_fruitless: int = 0
    num_to_skip: int = 0

    @property
    def gap(self) -> _Gap:
        """Time until what is expected next."""
        if self.is_opening:
            return self.opening_gap
        return self.answer_gap if self.is_answer else self.frame_gap

    @property
    def yield_(self) -> float:
        """Tokens that a frame adds for each token that the leaves promise."""
        return self.gained / self.promised

    def observe_travel(self, gap_ms: float, held_ms: float) -> None:
        """Learn what of an answer was the way, from how long the drafter held the commit."""
        travel_ms = max(0.0, min(gap_ms, self.gap.overdue_ms) - held_ms)
        self.travel_ms += _SMOOTHING * (travel_ms - self.travel_ms)

    def observe_yield(self, gained: float, promised: float) -> None:
        """Learn what a frame added to trees whose leaves promised so much."""
        kept = 1.0 - _YIELD_DECAY
        self.gained = self.gained * _YIELD_DECAY + gained + kept * _PRIOR_WEIGHT * _PRIOR_YIELD
        self.promised = self.promised * _YIELD_DECAY + promised + kept * _PRIOR_WEIGHT

    def forget(self) -> None:
        """Let the yield drift to what is usual: what is not waited for teaches nothing."""
        self.gained += _YIELD_FORGETTING * (self.promised * _PRIOR_YIELD - self.gained)

    def overdue_ns(self) -> int:
        """Return when the next frame is late."""
        return self.since_ns + int(self.gap.overdue_ms * 1e6)

    def remaining_ms(self, now_ns: int) -> float:
        """Return how long the next frame should still take."""
        mean_ms = self.gap.mean_ms
        elapsed_ms = (now_ns - self.since_ns) / 1e6
        return max(mean_ms - elapsed_ms, _MIN_REMAINING_SHARE * mean_ms)
