from dataclasses import replace

from tests.unit.coordinator.support import a_spec, output

from treedraft.coordinator.relayed_counts import RelayedCounts
from treedraft.core.growth import TokenSource
from treedraft.core.session import SessionStatistics


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def say(counts, clock, at, tokens, accepted=0):
    clock.now = at
    sources = (TokenSource.LOOKUP,) * accepted + (TokenSource.TARGET,) * (len(tokens) - accepted)
    counts.add(replace(output(a_spec(), 0, tokens), sources=sources))


LAST = SessionStatistics(
    rounds=5,
    emitted_tokens=9,
    accepted_nodes=4,
    hits=2,
    first_token_ms=7.0,
    decode_ms=8.0,
    accepted_lengths=(2, 2, 1),
)


def test_a_session_that_stayed_is_what_its_target_says():
    clock = Clock()
    counts = RelayedCounts(clock)
    say(counts, clock, 101.0, [1, 2])
    assert counts.complete(LAST) == LAST


def test_a_session_that_moved_is_counted_whole():
    clock = Clock()
    counts = RelayedCounts(clock)
    say(counts, clock, 100.5, [1, 2], accepted=1)
    say(counts, clock, 101.0, [3])
    counts.leave()
    counts.leave()
    say(counts, clock, 104.0, [4, 5, 6], accepted=2)
    assert counts.complete(LAST) == replace(
        LAST,
        rounds=7,
        emitted_tokens=12,
        accepted_nodes=5,
        first_token_ms=500.0,
        first_tokens=2,
        decode_ms=3500.0,
        accepted_lengths=(3, 3, 1),
    )


def test_a_session_that_moved_before_its_first_token_has_its_times_all_the_same():
    clock = Clock()
    counts = RelayedCounts(clock)
    counts.leave()
    say(counts, clock, 103.0, [1])
    whole = counts.complete(LAST)
    assert (whole.emitted_tokens, whole.first_tokens) == (9, 1)
    assert (whole.first_token_ms, whole.decode_ms) == (3000.0, 0.0)
