"""How fast something goes, when to say so, and when to put it on disk."""

import time
from collections.abc import Callable

# The most work that is lost when a stage is killed.
FLUSH_SECONDS = 60.0
_REPORT_SECONDS = 2.0


class Interval:
    """Tells when so much time has passed since it last did."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the first one now."""
        self._seconds = seconds
        self._clock = clock
        self._started = clock()

    def is_over(self) -> bool:
        """Return whether the time has passed; if so, the next interval starts."""
        now = self._clock()
        if now - self._started < self._seconds:
            return False
        self._started = now
        return True


class Speed:
    """Counts units of work and says now and then that it is time for a report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock with the first unit of work."""
        self._clock = clock
        self._started: float | None = None
        self._reported = 0.0
        self.total = 0

    @property
    def seconds(self) -> float:
        """Time since the first count."""
        return 0.0 if self._started is None else self._clock() - self._started

    @property
    def per_second(self) -> float:
        """Units per second since the first count."""
        return self.total / self.seconds if self.seconds > 0 else 0.0

    def count(self, units: int) -> bool:
        """Add units; return whether the last report was a while ago."""
        now = self._clock()
        if self._started is None:
            self._started = self._reported = now
            return False  # what was done before the clock started does not count
        self.total += units
        if now - self._reported < _REPORT_SECONDS:
            return False
        self._reported = now
        return True
