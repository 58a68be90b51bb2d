"""What a pass takes by its number of rows, as measured on the machine at hand.

Two things move the time of a pass besides its rows. The machine as a whole is
faster or slower than a while ago, so each pass says something about all sizes,
the more the nearer they are. And a drafter on the same cores may compute at the
same time; what that adds is kept apart, since it is the price of not waiting for
the drafter and not that of a row.
"""

import bisect

# Fine enough that a few nodes more show in the price: what 36 rows cost is not
# to be guessed from what 64 do.
_SIZES = (
    *(1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 36, 40, 44, 48, 56, 64),
    *(72, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512),
)
_SMOOTHING = 0.1
_MAX_JUMP = 3.0
_FORGETTING = 0.002
# A size within what is known begins half way between its neighbours' price and its own.
_FIRST_WEIGHT = 0.5
# Where every pass is disturbed nothing tells the disturbance from the price of a
# row, and it is taken for the latter.
_DISTURBANCE_FORGETTING = 0.02


class StepCosts:
    """Measured time of a pass by its number of rows, in milliseconds."""

    def __init__(self) -> None:
        """Know nothing yet: every size is taken to cost the same."""
        self._rows: list[int] = []
        self._times: list[float] = []
        self._first_times: list[float] = []
        self._disturbance_ms = 0.0

    @property
    def is_known(self) -> bool:
        """Whether any pass was measured."""
        return bool(self._rows)

    @property
    def disturbance_ms(self) -> float:
        """What a pass takes longer when drafters compute meanwhile."""
        return self._disturbance_ms

    def observe(self, num_rows: int, elapsed_ms: float, *, is_disturbed: bool = False) -> None:
        """Learn from a pass.

        Args:
            num_rows: rows of the pass.
            elapsed_ms: what it took.
            is_disturbed: whether a drafter of one of its sessions may have
                computed at the same time.
        """
        size = _SIZES[min(bisect.bisect_left(_SIZES, num_rows), len(_SIZES) - 1)]
        index = bisect.bisect_left(self._rows, size)
        if index == len(self._rows):  # beyond what is known
            self._insert(index, size, elapsed_ms)
        elif self._rows[index] != size:
            expected_ms = self.estimate(size)
            added_ms = min(elapsed_ms, _MAX_JUMP * expected_ms) - expected_ms
            self._insert(index, size, expected_ms + _FIRST_WEIGHT * added_ms)
        # One hiccup of the machine must not price a size out for good.
        elapsed_ms = min(elapsed_ms, _MAX_JUMP * self._times[index])
        if is_disturbed:
            elapsed_ms = self._without_disturbance(elapsed_ms, self._times[index])
        change = elapsed_ms / self._times[index]
        self._times[index] += _SMOOTHING * (elapsed_ms - self._times[index])
        self._update_others(index, change)

    def _insert(self, index: int, size: int, time_ms: float) -> None:
        self._rows.insert(index, size)
        self._times.insert(index, time_ms)
        self._first_times.insert(index, time_ms)

    def _without_disturbance(self, elapsed_ms: float, expected_ms: float) -> float:
        """Learn what the disturbance adds, and take it off."""
        added = elapsed_ms - expected_ms - self._disturbance_ms
        kept = (1.0 - _DISTURBANCE_FORGETTING) * self._disturbance_ms
        self._disturbance_ms = max(0.0, kept + _SMOOTHING * added)
        return elapsed_ms - min(self._disturbance_ms, max(0.0, elapsed_ms - expected_ms))

    def _update_others(self, observed: int, change: float) -> None:
        """Let the other sizes go along, and return to their first price to be tried again."""
        for index, first in enumerate(self._first_times):
            if index != observed:
                ratio = self._rows[index] / self._rows[observed]
                likeness = min(ratio, 1.0 / ratio)
                time_ms = self._times[index] * change ** (_SMOOTHING * likeness)
                self._times[index] = time_ms + _FORGETTING * (first - time_ms)

    def rows_within(self, limit_ms: float) -> int:
        """Return the most rows, of the sizes told apart, that a pass of this time holds."""
        return max((size for size in _SIZES if self.estimate(size) <= limit_ms), default=0)

    def estimate(self, num_rows: int) -> float:
        """Return the expected time of a pass, interpolated between known sizes."""
        if not self._rows:
            return 1.0
        index = bisect.bisect_left(self._rows, num_rows)
        if index == 0:
            return self._times[0]
        if index == len(self._rows):
            return self._times[-1] * max(1.0, num_rows / self._rows[-1])
        low, high = self._rows[index - 1], self._rows[index]
        share = (num_rows - low) / (high - low)
        return self._times[index - 1] * (1 - share) + self._times[index] * share
