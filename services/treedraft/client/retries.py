"""What is worth another try, when, and for how long."""

import random
from dataclasses import dataclass, field

from treedraft.core.errors import (
    OverloadedError,
    SessionConflictError,
    SessionNotFoundError,
    TokensMismatchError,
    TreedraftError,
    UnavailableError,
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a client goes on after failures, in seconds.

    `patience_seconds` bounds the time without any progress; then the last
    failure is raised. `begin_seconds` does so for an answer that has not begun.
    A coordinator that is silent for `silence_seconds` is given up.
    `lost_seconds` bounds how long a session is looked for that no coordinator
    knows, or none as it was shown: the store may have been emptied and be about to
    get it back.
    """

    first_pause_seconds: float = 0.05
    longest_pause_seconds: float = 2.0
    patience_seconds: float = 60.0
    begin_seconds: float = 60.0
    silence_seconds: float = 5.0
    lost_seconds: float = 10.0


def is_worth_a_retry(error: TreedraftError, *, has_begun: bool) -> bool:
    """Return whether another coordinator, or this one later, may do better.

    A session that another reader took is wanted back only by one who has begun
    to read it: it was this one's own earlier call, most likely. One that is not known, or
    not as it was shown, may be put back by whoever has it.
    """
    if isinstance(error, SessionConflictError | SessionNotFoundError | TokensMismatchError):
        return has_begun
    return isinstance(error, UnavailableError | OverloadedError)


@dataclass(slots=True)
class Backoff:
    """The pauses between tries that bring nothing, longer each time, never in step."""

    policy: RetryPolicy
    rng: random.Random
    _pause: float = field(init=False, default=0.0)

    def reset(self) -> None:
        """Begin anew, after progress."""
        self._pause = 0.0

    def next_pause(self, error: TreedraftError) -> float:
        """Return the pause before the next try, in seconds."""
        policy = self.policy
        self._pause = min(
            policy.longest_pause_seconds, 2 * self._pause or policy.first_pause_seconds
        )
        wanted = error.retry_after_ms / 1000.0 if isinstance(error, OverloadedError) else 0.0
        return max(wanted, self._pause * self.rng.uniform(0.5, 1.0))
