"""A histogram that takes many observations at once.

A step of an engine observes the same few numbers for each of its sessions. One by one
that is what a session costs most; together it is two locks for each number that differs.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from prometheus_client import Histogram


class BatchedHistogram(Histogram):
    """`observe` for one, `observe_all` and `observe_counted` for many."""

    def observe_all(self, amounts: Iterable[float]) -> None:
        """Observe these amounts, most of which are equal."""
        self.observe_counted(Counter(amounts).items())

    def observe_counted(self, amounts: Iterable[tuple[float, int]]) -> None:
        """Observe amounts, each so many times."""
        for amount, count in amounts:
            self._sum.inc(amount * count)
            self._buckets[bisect_left(self._upper_bounds, amount)].inc(count)
