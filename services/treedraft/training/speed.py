"""How fast something goes, and when to say so."""

import time
from collections.abc import Callable

_REPORT_SECONDS = 2.0


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
