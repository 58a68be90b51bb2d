"""What a pass takes by its rows and its sessions, as measured on the machine at hand.

Three things move the time of a pass besides its rows. Each session reads its own
context and is laid out by itself, so sixteen sessions of one row take longer than
one session of sixteen; what a session adds is kept apart, or a time of heavy load
would price drafted nodes out for those that come after it. The machine as a whole is
faster or slower than a while ago, so each pass says something about all sizes,
the more the nearer they are. And a drafter on the same cores may compute at the
same time; what that adds is kept apart too, since it is the price of not waiting for
the drafter and not that of a row.
"""

import bisect
from collections.abc import Sequence

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
# Of what passes of several sessions take longer than rows and sessions in proportion.
_BLAME_OF_SESSIONS = 0.3


class StepCosts:
    """Measured time of a pass by its numbers of rows and sessions, in milliseconds."""

    def __init__(self) -> None:
        """Know nothing yet: every size is taken to cost the same."""
        self._rows: list[int] = []
        self._times: list[float] = []
        self._first_times: list[float] = []
        self._disturbance_ms = 0.0
        self._session_ms = self._first_session_ms = 0.0

    @property
    def session_ms(self) -> float:
        """What a session more adds to a pass, its rows aside."""
        return self._session_ms

    @property
    def is_known(self) -> bool:
        """Whether any pass was measured."""
        return bool(self._rows)

    @property
    def disturbance_ms(self) -> float:
        """What a pass takes longer when drafters compute meanwhile."""
        return self._disturbance_ms

    def observe(
        self,
        num_rows: int,
        elapsed_ms: float,
        *,
        num_sessions: int = 1,
        is_disturbed: bool = False,
    ) -> None:
        """Learn from a pass.

        Args:
            num_rows: rows of the pass.
            elapsed_ms: what it took.
            num_sessions: sessions that the rows belong to.
            is_disturbed: whether a drafter of one of its sessions may have
                computed at the same time.
        """
        if num_sessions > 1:
            elapsed_ms = self._part_of_rows(num_rows, elapsed_ms, num_sessions)
        index = self._index_of(num_rows, elapsed_ms)
        # One hiccup of the machine must not price a size out for good.
        elapsed_ms = min(elapsed_ms, _MAX_JUMP * self._times[index])
        if is_disturbed:
            elapsed_ms = self._without_disturbance(elapsed_ms, self._times[index])
        change = elapsed_ms / self._times[index]
        self._times[index] += _SMOOTHING * (elapsed_ms - self._times[index])
        self._update_others(index, change)

    def calibrate_sessions(self, num_sessions: int, elapsed_ms: float) -> None:
        """Take what sessions add from a pass over one row of each, rows being known already."""
        if num_sessions > 1:
            added_ms = elapsed_ms - self._time_of_rows(num_sessions)
            self._session_ms = self._first_session_ms = max(0.0, added_ms / (num_sessions - 1))

    def _index_of(self, num_rows: int, elapsed_ms: float) -> int:
        """Return where the size of a pass stands, which is put there if it is new."""
        size = _SIZES[min(bisect.bisect_left(_SIZES, num_rows), len(_SIZES) - 1)]
        index = bisect.bisect_left(self._rows, size)
        if index == len(self._rows):  # beyond what is known
            self._insert(index, size, elapsed_ms)
        elif self._rows[index] != size:
            expected_ms = self.estimate(size)
            added_ms = min(elapsed_ms, _MAX_JUMP * expected_ms) - expected_ms
            self._insert(index, size, expected_ms + _FIRST_WEIGHT * added_ms)
        return index

    def _insert(self, index: int, size: int, time_ms: float) -> None:
        self._rows.insert(index, size)
        self._times.insert(index, time_ms)
        self._first_times.insert(index, time_ms)

    def _part_of_rows(self, num_rows: int, elapsed_ms: float, num_sessions: int) -> float:
        """Return what of a pass of several sessions its rows took; learn from plain ones.

        A machine that became slower is so for rows and sessions alike; of what else is not
        as expected a part is put down to sessions. Passes with drafts say nothing about these:
        what is compared with plain steps must not move plain steps.
        """
        rows_ms = self._time_of_rows(num_rows)
        expected_ms = self.estimate(num_rows, num_sessions)
        if not self._rows or num_rows > num_sessions:
            return elapsed_ms * rows_ms / expected_ms
        added_ms = min(elapsed_ms, _MAX_JUMP * expected_ms) - expected_ms
        of_sessions = 1.0 - (1.0 - _BLAME_OF_SESSIONS) * rows_ms / expected_ms
        session_ms = self._session_ms + _SMOOTHING * of_sessions * added_ms / (num_sessions - 1)
        session_ms += _FORGETTING * (self._first_session_ms - session_ms)
        self._session_ms = max(0.0, session_ms)
        return max(0.0, rows_ms + (1.0 - of_sessions) * added_ms)

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
                time_ms = self._times[index] * (1.0 + _SMOOTHING * likeness * (change - 1.0))
                self._times[index] = time_ms + _FORGETTING * (first - time_ms)

    def rows_within(self, limit_ms: float, num_sessions: int = 1) -> int:
        """Return the most rows, of the sizes told apart, that a pass of this time holds."""
        within = (size for size in _SIZES if self.estimate(size, num_sessions) <= limit_ms)
        return max(within, default=0)

    def estimate(self, num_rows: int, num_sessions: int = 1) -> float:
        """Return the expected time of a pass, interpolated between known sizes."""
        return self._time_of_rows(num_rows) + max(0, num_sessions - 1) * self._session_ms

    def usual_growth(self, num_rows: int, num_more: int) -> float:
        """Return how many times as long a pass takes with more rows, as first measured.

        Prices of sizes that are not run lag behind when the machine becomes slower.
        """
        few, many = self._at(num_rows, self._first_times), self._at(num_more, self._first_times)
        return many / few

    def _time_of_rows(self, num_rows: int) -> float:
        return self._at(num_rows, self._times)

    def _at(self, num_rows: int, times: Sequence[float]) -> float:
        if not self._rows:
            return 1.0
        index = bisect.bisect_left(self._rows, num_rows)
        if index == 0:
            return times[0]
        if index == len(self._rows):
            return times[-1] * max(1.0, num_rows / self._rows[-1])
        low, high = self._rows[index - 1], self._rows[index]
        share = (num_rows - low) / (high - low)
        return times[index - 1] * (1 - share) + times[index] * share
