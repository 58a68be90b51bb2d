"""What is observed of rounds, a step of many sessions at a time."""

from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import NamedTuple, TypeVar

from prometheus_client import Counter

from treedraft.core.growth import TokenSource
from treedraft.core.session import RoundTimes
from treedraft.telemetry import names
from treedraft.telemetry.batched_histogram import BatchedHistogram

_Key = TypeVar("_Key")


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
        """Count the rounds that a step ended; equal ones are best given as one object."""
        number_of = Counts(map(id, rounds))
        counted = [(one, number_of[key]) for key, one in {id(one): one for one in rounds}.items()]
        drafted = [(one, number) for one, number in counted if one.is_hit is not None]
        for part, histogram in self._parts.items():
            # Where nobody drafts there is nothing to say of drafting.
            told = drafted if part in _PARTS_OF_DRAFTING else counted
            histogram.observe_counted(_sums((getattr(o.times, part) / 1e3, n) for o, n in told))
        for is_hit, number in _sums((one.is_hit, number) for one, number in counted):
            self._rounds[is_hit].inc(number)
        self._tree_nodes.observe_counted(_sums((len(o.admitted), n) for o, n in counted))
        self._accepted_length.observe_counted(_sums((len(o.accepted), n) for o, n in counted))
        count_sources(self._admitted, _repeated((one.admitted, number) for one, number in counted))
        count_sources(self._accepted, _repeated((one.accepted, number) for one, number in counted))


def _repeated(counted: Iterable[tuple[Sequence[TokenSource], int]]) -> Iterable[TokenSource]:
    return chain.from_iterable(
        chain.from_iterable(repeat(sources, number)) for sources, number in counted if sources
    )


def _sums(counted: Iterable[tuple[_Key, int]]) -> Iterable[tuple[_Key, int]]:
    """Return the numbers of equal keys added up."""
    sums: dict[_Key, int] = {}
    for key, number in counted:
        sums[key] = sums.get(key, 0) + number
    return sums.items()


_PARTS_OF_DRAFTING = frozenset({"draft", "wire"})


def count_sources(counters: Mapping[TokenSource, Counter], sources: Iterable[TokenSource]) -> None:
    """Count each of these sources."""
    told = tuple(sources)
    for source, counter in counters.items():
        if number := told.count(source):  # there are few sources, and to hash one is slow
            counter.inc(number)


def gaps_between_tokens(emitted: Iterable[tuple[int, float]]) -> Iterable[float]:
    """Return the time for each token of those that came together, (number, seconds)."""
    return chain.from_iterable(
        repeat(seconds / num_tokens, num_tokens) for num_tokens, seconds in emitted
    )
