"""What a pass takes by its rows and its sessions, as measured on the machine at hand.

Four things move the time of a pass besides its rows. Each session reads its own
context and is laid out by itself, so sixteen sessions of one row take longer than
one session of sixteen; what a session adds is kept apart, or a time of heavy load
would price drafted nodes out for those that come after it. The machine as a whole is
faster or slower than a while ago, so each pass says something about all sizes,
the more the nearer they are: sizes that are not run follow those that are, in the
proportions that were measured first. A drafter on the same cores may compute at the
same time; what that adds is kept apart too, since it is the price of not waiting for
the drafter and not that of a row. And rows of prompts, all but the last, have no
logits, so they are a part of a row each: what passes with prompts take shows what
many rows cost where no pass holds as many drafted ones, and may never if they are
thought too dear.
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
# One hiccup of the machine must not move a price by much: a pass counts as no more than
# so many times what was expected.
_MAX_JUMP = 1.5
_FORGETTING = 0.02
# How fast sizes that are not run come to cost what they should by one that is.
_DRIFT = 0.05
# A row without logits is no less than this of one with them.
_LEAST_UNDRAWN = 0.3
# A size within what is known begins half way between its neighbours' price and its own.
_FIRST_WEIGHT = 0.5
# Where every pass is disturbed nothing tells the disturbance from the price of a
# row, and it is taken for the latter.
_DISTURBANCE_FORGETTING = 0.02
# Sessions of a pass that tells in full what one adds: what four take a few milliseconds
# longer would be a whole pass of thirty.
_TELLING_SESSIONS = 16
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
        self._undrawn_row = 1.0

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
        num_undrawn: int = 0,
        is_disturbed: bool = False,
    ) -> None:
        """Learn from a pass.

        Args:
            num_rows: rows of the pass.
            elapsed_ms: what it took.
            num_sessions: sessions that the rows belong to.
            num_undrawn: rows among them that have no logits.
            is_disturbed: whether a drafter of one of its sessions may have
                computed at the same time.
        """
        num_rows -= round((1.0 - self._undrawn_row) * num_undrawn)
        if num_sessions > 1:
            is_plain = num_rows <= num_sessions and not num_undrawn
            elapsed_ms = self._part_of_rows(num_rows, elapsed_ms, num_sessions, is_plain=is_plain)
        index = self._index_of(num_rows, elapsed_ms)
        usual_ms = self._times[index] + (self._disturbance_ms if is_disturbed else 0.0)
        elapsed_ms = min(elapsed_ms, _MAX_JUMP * usual_ms)
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

    def calibrate_undrawn(self, num_rows: int, elapsed_ms: float) -> None:
        """Take what a row without logits is of one with them from a pass over such rows."""
        least_ms, drawn_ms = self._time_of_rows(1), self._time_of_rows(num_rows)
        if drawn_ms > least_ms:
            share = (elapsed_ms - least_ms) / (drawn_ms - least_ms)
            self._undrawn_row = min(1.0, max(_LEAST_UNDRAWN, share))

    def _index_of(self, num_rows: int, elapsed_ms: float) -> int:
        """Return where the size of a pass stands, which is put there if it is new."""
        size = _SIZES[min(bisect.bisect_left(_SIZES, num_rows), len(_SIZES) - 1)]
        index = bisect.bisect_left(self._rows, size)
        if index == len(self._rows):  # beyond what is known
            if self._rows:  # a first pass may be slow, and what it took stays a proportion
                elapsed_ms = min(elapsed_ms, _MAX_JUMP * self.estimate(size))
            pace = self._times[-1] / self._first_times[-1] if self._rows else 1.0
            self._insert(index, size, elapsed_ms, elapsed_ms / pace)
        elif self._rows[index] != size:
            expected_ms, first_ms = self.estimate(size), self._at(size, self._first_times)
            added_ms = min(elapsed_ms, _MAX_JUMP * expected_ms) - expected_ms
            self._insert(index, size, expected_ms + _FIRST_WEIGHT * added_ms, first_ms)
        return index

    def _insert(self, index: int, size: int, time_ms: float, first_ms: float) -> None:
        self._rows.insert(index, size)
        self._times.insert(index, time_ms)
        self._first_times.insert(index, first_ms)

    def _part_of_rows(
        self, num_rows: int, elapsed_ms: float, num_sessions: int, *, is_plain: bool
    ) -> float:
        """Return what of a pass of several sessions its rows took; learn from plain ones.

        A machine that became slower is so for rows and sessions alike; of what else is not
        as expected a part is put down to sessions. Passes with more rows say nothing about these:
        what is compared with plain steps must not move plain steps.
        """
        rows_ms = self._time_of_rows(num_rows)
        expected_ms = self.estimate(num_rows, num_sessions)
        if not self._rows or not is_plain:
            return elapsed_ms * rows_ms / expected_ms
        added_ms = min(elapsed_ms, _MAX_JUMP * expected_ms) - expected_ms
        of_sessions = 1.0 - (1.0 - _BLAME_OF_SESSIONS) * rows_ms / expected_ms
        rate = _SMOOTHING * min(1.0, num_sessions / _TELLING_SESSIONS)
        session_ms = self._session_ms + rate * of_sessions * added_ms / (num_sessions - 1)
        pace = rows_ms / self._at(num_rows, self._first_times)
        session_ms += _FORGETTING * (pace * self._first_session_ms - session_ms)
        self._session_ms = max(0.0, session_ms)
        return max(0.0, rows_ms + (1.0 - of_sessions) * added_ms)

    def _without_disturbance(self, elapsed_ms: float, expected_ms: float) -> float:
        """Learn what the disturbance adds, and take it off."""
        added = elapsed_ms - expected_ms - self._disturbance_ms
        kept = (1.0 - _DISTURBANCE_FORGETTING) * self._disturbance_ms
        self._disturbance_ms = max(0.0, kept + _SMOOTHING * added)
        return elapsed_ms - min(self._disturbance_ms, max(0.0, elapsed_ms - expected_ms))

    def _update_others(self, observed: int, change: float) -> None:
        """Let the other sizes go along, towards what they should cost by this one."""
        pace = self._times[observed] / self._first_times[observed]
        for index, first in enumerate(self._first_times):
            if index != observed:
                ratio = self._rows[index] / self._rows[observed]
                likeness = min(ratio, 1.0 / ratio)
                time_ms = self._times[index] * (1.0 + _SMOOTHING * likeness * (change - 1.0))
                self._times[index] = time_ms + _DRIFT * likeness * (pace * first - time_ms)

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
