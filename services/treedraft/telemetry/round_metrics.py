"""What is observed of rounds, a step of many sessions at a time."""

from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import NamedTuple

from prometheus_client import Counter

from treedraft.core.growth import TokenSource
from treedraft.core.session import RoundTimes
from treedraft.telemetry import names
from treedraft.telemetry.batched_histogram import BatchedHistogram


class FinishedRound(NamedTuple):
    """A round of one session.

    Attributes:
        times: where its time went, in milliseconds.
        admitted: source of each drafted node in the pass.
        accepted: source of each drafted node that was emitted.
        is_hit: whether the tree held all that was emitted, the bonus token
            included; None if nobody drafts for the session.
    """

    times: RoundTimes
    admitted: Sequence[TokenSource]
    accepted: Sequence[TokenSource]
    is_hit: bool | None


class RoundMetrics:
    """The metrics that get an observation for each round."""

    def __init__(
        self,
        *,
        parts: BatchedHistogram,
        rounds: Counter,
        tree_nodes: BatchedHistogram,
        accepted_length: BatchedHistogram,
        admitted: Mapping[TokenSource, Counter],
        accepted: Mapping[TokenSource, Counter],
    ) -> None:
        """Bind the labels."""
        self._parts = {part: parts.labels(part) for part in names.ROUND_PARTS}
        self._rounds = {
            True: rounds.labels("hit"),
            False: rounds.labels("miss"),
            None: rounds.labels("plain"),
        }
        self._tree_nodes, self._accepted_length = tree_nodes, accepted_length
        self._admitted, self._accepted = admitted, accepted

    def finished(self, rounds: Sequence[FinishedRound]) -> None:
        """Count the rounds that a step ended."""
        drafted = [one.times for one in rounds if one.is_hit is not None]
        for part, histogram in self._parts.items():
            # Where nobody drafts there is nothing to say of drafting.
            told = drafted if part in _PARTS_OF_DRAFTING else [one.times for one in rounds]
            histogram.observe_all(getattr(times, part) / 1e3 for times in told)
        for is_hit, count in Counts(one.is_hit for one in rounds).items():
            self._rounds[is_hit].inc(count)
        self._tree_nodes.observe_all(len(one.admitted) for one in rounds)
        self._accepted_length.observe_all(len(one.accepted) for one in rounds)
        count_sources(self._admitted, chain.from_iterable(one.admitted for one in rounds))
        count_sources(self._accepted, chain.from_iterable(one.accepted for one in rounds))


_PARTS_OF_DRAFTING = frozenset({"draft", "wire"})


def count_sources(counters: Mapping[TokenSource, Counter], sources: Iterable[TokenSource]) -> None:
    """Count each of these sources."""
    for source, number in Counts(sources).items():
        counters[source].inc(number)


def gaps_between_tokens(emitted: Iterable[tuple[int, float]]) -> Iterable[float]:
    """Return the time for each token of those that came together, (number, seconds)."""
    return chain.from_iterable(
        repeat(seconds / num_tokens, num_tokens) for num_tokens, seconds in emitted
    )
