"""When frames of a drafter come and what they add, as far as that can be learned."""

from collections import deque
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
# A drafter answers for all that it was told before.
_MAX_ASKED = 64


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


@dataclass(frozen=True, slots=True)
class Asked:
    """Something that a drafter was told and answers; an opening is a prompt to compute first."""

    told_ns: int
    is_opening: bool = False


@dataclass(slots=True)
class LinkPace:
    """When frames of one drafter come and what they add."""

    since_ns: int = 0  # of the last frame
    # Told and not answered yet, oldest first. Over a link whose round trip takes longer than
    # a pass these are several, and the answer to the first comes first.
    asked: deque[Asked] = field(default_factory=lambda: deque(maxlen=_MAX_ASKED))
    answered_ns: int = 0  # when what was answered last had been told
    opening_gap: _Gap = field(default_factory=_Gap)
    answer_gap: _Gap = field(default_factory=_Gap)
    frame_gap: _Gap = field(default_factory=_Gap)
    travel_ms: float = 0.0  # of a commit and its answer together
    gained: float = _PRIOR_WEIGHT * _PRIOR_YIELD
    promised: float = _PRIOR_WEIGHT
    num_fruitless: int = 0
    num_to_skip: int = 0

    @property
    def yield_(self) -> float:
        """Tokens that a frame adds for each token that the leaves promise."""
        return self.gained / self.promised

    def measured(self, round_trip_ms: float) -> None:
        """Take what the way was measured to take, until answers say better."""
        self.travel_ms = round_trip_ms
        if not self.answered_ns:
            self.answer_gap = _Gap(round_trip_ms + _PRIOR_GAP_MS)

    def frame_arrived(
        self, arrived_ns: int, *, held_ms: float | None, asked_ns: int | None
    ) -> None:
        """Learn when frames come.

        Args:
            arrived_ns: when this one came.
            held_ms: how long the drafter had been told when it sent it, if it says so.
            asked_ns: when it was told what the frame is about; None for all that was told.
        """
        answered = self._take_answered(asked_ns)
        if answered is None:
            gap, gap_ms = self.frame_gap, max(0, arrived_ns - self.since_ns) / 1e6
        else:
            gap = self.opening_gap if answered.is_opening else self.answer_gap
            gap_ms = max(0, arrived_ns - answered.told_ns) / 1e6
            if held_ms is not None and not answered.is_opening:
                travel_ms = max(0.0, min(gap_ms, gap.overdue_ms) - held_ms)
                self.travel_ms += _SMOOTHING * (travel_ms - self.travel_ms)
        # A late frame may have been held up by the pass that nobody waited with.
        gap.observe(min(gap_ms, gap.overdue_ms))
        self.since_ns = arrived_ns

    def _take_answered(self, asked_ns: int | None) -> Asked | None:
        """Return what a frame is the first answer to, and forget what was told before it."""
        answered = None
        if asked_ns is not None:
            if asked_ns <= self.answered_ns:
                return None
            self.answered_ns = asked_ns
        # What was sent at `asked_ns` went out a moment later, and before anything else was told.
        while self.asked and (asked_ns is None or answered is None or answered.told_ns < asked_ns):
            answered = self.asked.popleft()
        return answered

    def observe_yield(self, gained: float, promised: float) -> None:
        """Learn what a frame added to trees whose leaves promised so much."""
        kept = 1.0 - _YIELD_DECAY
        self.gained = self.gained * _YIELD_DECAY + gained + kept * _PRIOR_WEIGHT * _PRIOR_YIELD
        self.promised = self.promised * _YIELD_DECAY + promised + kept * _PRIOR_WEIGHT

    def forget(self) -> None:
        """Let the yield drift to what is usual: what is not waited for teaches nothing."""
        self.gained += _YIELD_FORGETTING * (self.promised * _PRIOR_YIELD - self.gained)

    def overdue_ns(self, now_ns: int) -> int:
        """Return when the next frame is late; in the past if nothing is expected any more."""
        since_ns, gap = self._next(now_ns)
        return since_ns + int(gap.overdue_ms * 1e6)

    def remaining_ms(self, now_ns: int) -> float:
        """Return how long the next frame should still take."""
        since_ns, gap = self._next(now_ns)
        elapsed_ms = (now_ns - since_ns) / 1e6
        late_ms = min(_MIN_REMAINING_SHARE * gap.mean_ms, gap.deviation_ms + _OVERDUE_MS)
        return max(gap.mean_ms - elapsed_ms, late_ms)

    def _next(self, now_ns: int) -> tuple[int, _Gap]:
        """Return since when the next frame is waited for, and how long that takes."""
        since_ns, gap = self.since_ns, self.frame_gap
        for asked in self.asked:
            since_ns = asked.told_ns
            gap = self.opening_gap if asked.is_opening else self.answer_gap
            if now_ns < since_ns + int(gap.overdue_ms * 1e6):
                break
        return since_ns, gap
