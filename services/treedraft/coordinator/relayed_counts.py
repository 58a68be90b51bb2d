"""What a session took, counted here because a lost target can no longer say it.

A target reports its statistics with the end of the text. For a session that
moved they cover the last target only; rounds, tokens and times of those before
are counted as they pass by. What never passes here (nodes drafted and admitted,
hits) stays with the target that is gone.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest

from treedraft.core.growth import TokenSource
from treedraft.core.session import SessionOutput, SessionStatistics


class RelayedCounts:
    """Counts of one session, over all its targets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with the session; `clock` returns seconds that never run backwards."""
        self._clock = clock
        self._started_at = clock()
        self._first_token_at: float | None = None
        self._last_token_at = self._started_at
        self._num_first_tokens = 0
        self._here = SessionStatistics()
        self._before = SessionStatistics()
        self._has_moved = False

    def add(self, output: SessionOutput) -> None:
        """Count the tokens of a round."""
        self._last_token_at = self._clock()
        if self._first_token_at is None:
            self._first_token_at = self._last_token_at
            self._num_first_tokens = len(output.token_ids)
        num_accepted = sum(source is not TokenSource.TARGET for source in output.sources)
        lengths = _counted(self._here.accepted_lengths, num_accepted)
        self._here = replace(
            self._here,
            accepted_lengths=lengths,
            rounds=self._here.rounds + 1,
            emitted_tokens=self._here.emitted_tokens + len(output.token_ids),
            accepted_nodes=self._here.accepted_nodes + num_accepted,
        )

    def so_far(self) -> SessionStatistics:
        """Return what passed by here: rounds, tokens and accepted nodes, of all targets."""
        return _add(self._here, self._before)

    def leave(self) -> None:
        """Note that the target says nothing more, its statistics included."""
        self._has_moved = True
        self._before = _add(self._before, self._here)
        self._here = SessionStatistics()

    def complete(self, statistics: SessionStatistics) -> SessionStatistics:
        """Return the last target's statistics with what went before.

        Times are then those seen here: the pause of a move is part of them.
        """
        if not self._has_moved:
            return statistics
        first_token_at = self._first_token_at or self._last_token_at
        return replace(
            _add(statistics, self._before),
            first_token_ms=(first_token_at - self._started_at) * 1000.0,
            first_tokens=self._num_first_tokens,
            decode_ms=(self._last_token_at - first_token_at) * 1000.0,
        )


def _add(statistics: SessionStatistics, before: SessionStatistics) -> SessionStatistics:
    return replace(
        statistics,
        rounds=statistics.rounds + before.rounds,
        emitted_tokens=statistics.emitted_tokens + before.emitted_tokens,
        accepted_nodes=statistics.accepted_nodes + before.accepted_nodes,
        accepted_lengths=tuple(
            here + there
            for here, there in zip_longest(
                statistics.accepted_lengths, before.accepted_lengths, fillvalue=0
            )
        ),
    )


def _counted(lengths: tuple[int, ...], length: int) -> tuple[int, ...]:
    """Return the histogram with one more round that accepted `length` nodes."""
    grown = [*lengths, *[0] * (length + 1 - len(lengths))]
    grown[length] += 1
    return tuple(grown)
