"""Whether a session may move once more, and for this reason."""

from treedraft.coordinator.failover import MOVES_EXHAUSTED
from treedraft.coordinator.failures import PASS_FAILED, is_movable
from treedraft.core.errors import OverloadedError, TreedraftError, UnavailableError


class MoveBudget:
    """The moves of one session."""

    def __init__(self, max_moves: int) -> None:
        """Allow so many; none at all with 0."""
        self._max_moves = max_moves
        self.num_moves = 0
        self._has_failed_pass = False

    def spend(self, cause: TreedraftError) -> None:
        """Count a move, or raise what ends the session instead.

        Raises:
            TreedraftError: the cause, if it is no reason to move.
            UnavailableError: it has moved often enough (MOVES_EXHAUSTED).
        """
        # A survivor may have no room for a moment; a session that never ran is refused.
        is_crowded = self.num_moves > 0 and isinstance(cause, OverloadedError)
        if not self._max_moves or not (is_movable(cause) or is_crowded):
            raise cause
        if cause.reason == PASS_FAILED and self._has_failed_pass:
            raise TreedraftError("a pass failed at two targets") from cause
        if self.num_moves >= self._max_moves:
            raise UnavailableError(
                f"moved {self.num_moves} times, and again: {cause.message}",
                reason=MOVES_EXHAUSTED,
            ) from cause
        self._has_failed_pass |= cause.reason == PASS_FAILED
        self.num_moves += 1
