"""Load signals: what the last seconds say, and nothing older."""

import pytest

from treedraft.core.growth import TokenSource
from treedraft.core.session import RoundTimes
from treedraft.core.worker import LoadSignals
from treedraft.telemetry.catalogue import WAIT_SECONDS
from treedraft.telemetry.load_signals import LoadWindow
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.round_metrics import FinishedRound


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics():
    return Metrics("target")


@pytest.fixture
def window(metrics, clock):
    return LoadWindow(metrics.observed, clock=clock, window_seconds=30.0)


def test_an_idle_worker_measures_nothing(window, clock):
    clock.now += 1.0
    assert window.read() == LoadSignals()


def test_a_reading_at_the_same_instant_divides_by_nothing(window, metrics):
    metrics.pass_finished(1.0, num_rows=1)
    assert window.read() == LoadSignals()


def test_shares_and_rates_are_of_the_time_since_the_last_reading(window, metrics, clock):
    metrics.pass_finished(3.0, num_rows=8)
    metrics.drafts_awaited(0.5)
    metrics.tokens_emitted(40, 1.0)
    clock.now += 10.0
    signals = window.read()
    assert signals.utilisation == pytest.approx(0.3)
    assert signals.draft_wait_share == pytest.approx(0.05)
    assert signals.tokens_per_second == pytest.approx(4.0)


def test_first_tokens_that_are_due_are_told_a_second(window, metrics, clock):
    for is_missed in (False, True, False, False):
        metrics.first_token_due(is_missed=is_missed)
    clock.now += 2.0
    signals = window.read()
    assert signals.first_tokens_due_per_second == pytest.approx(2.0)
    assert signals.first_tokens_missed_per_second == pytest.approx(0.5)


def test_tokens_of_a_round_and_nodes_in_vain(window, metrics, clock):
    model = [TokenSource.DRAFT_MODEL]
    metrics.nodes_drafted(model * 10)
    metrics.nodes_dropped("STALE_OR_FULL", 4)
    metrics.rounds_finished(
        [FinishedRound(RoundTimes(), model * 3, model * accepted, True) for accepted in (2, 0)]
    )
    clock.now += 1.0
    signals = window.read()
    assert signals.tokens_per_round == pytest.approx(2.0)
    assert signals.late_draft_share == pytest.approx(0.4)


def test_a_percentile_lies_in_the_bucket_that_holds_it(window, metrics, clock):
    for _ in range(90):
        metrics.first_token(0.02)
    for _ in range(10):
        metrics.first_token(2.0)
    clock.now += 1.0
    assert 1.0 < window.read().time_to_first_token_seconds <= 2.5


def test_beyond_the_last_bucket_the_largest_bound_is_what_is_known(window, metrics, clock):
    metrics.session_started(1e6)
    clock.now += 1.0
    assert window.read().queue_wait_seconds == WAIT_SECONDS[-1]


def test_what_is_older_than_the_window_no_longer_counts(window, metrics, clock):
    metrics.first_token(5.0)
    for _ in range(31):
        clock.now += 1.0
        window.read()
    metrics.first_token(0.01)
    clock.now += 1.0
    assert window.read().time_to_first_token_seconds < 0.03
