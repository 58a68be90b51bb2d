import time
import timeit

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from treedraft.settings import TelemetrySettings
from treedraft.telemetry import names, tail
from treedraft.telemetry.sampling import is_held_back, is_sampled
from treedraft.telemetry.spans import ChildSpan
from treedraft.telemetry.tail import MAX_KEPT_PER_SECOND, MAX_SPANS, MAX_SPANS_OF_TRACE
from treedraft.telemetry.tracing import Tracing

SECOND = 1_000_000_000


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


def make(exporter, role="target", **settings):
    settings = TelemetrySettings(**{"sample_ratio": 0.0, "slow_seconds": 2.0, **settings})
    return Tracing(role, settings, exporter=exporter)


@pytest.fixture
def tracing(exporter):
    tracing = make(exporter)
    yield tracing
    tracing.shutdown()


def request(tracing, *, seconds, num_rounds=3, error=None, parent=""):
    """A request that ends now and took so long, with some rounds."""
    span = tracing.start(
        names.SPAN_SESSION, parent, start_ns=time.time_ns() - int(seconds * SECOND)
    )
    for number in range(num_rounds):
        parts = [ChildSpan(names.SPAN_FORWARD, number, number + 1)]
        attributes = {names.ATTR_ROUND_NUMBER: number}
        tracing.record(names.SPAN_ROUND, span.traceparent, number, number + 1, attributes, parts)
    span.end(error)
    return span


def exported(tracing, exporter):
    tracing.flush()
    return list(exporter.get_finished_spans())


def test_a_slow_request_is_kept_with_all_its_spans(tracing, exporter):
    span = request(tracing, seconds=3)
    spans = exported(tracing, exporter)
    assert [one.name for one in spans].count(names.SPAN_ROUND) == 3
    assert [one.name for one in spans].count(names.SPAN_FORWARD) == 3
    root = next(one for one in spans if one.name == names.SPAN_SESSION)
    rounds = [one for one in spans if one.name == names.SPAN_ROUND]
    assert {one.parent.span_id for one in rounds} == {root.context.span_id}
    assert {one.context.trace_id for one in spans} == {root.context.trace_id}
    assert all(one.context.trace_flags.sampled for one in spans)
    assert span.trace_id == ""  # nobody could promise it while it ran


def test_a_quick_request_leaves_nothing(tracing, exporter):
    request(tracing, seconds=1)
    assert exported(tracing, exporter) == []
    assert tracing._tail.num_spans == 0


@pytest.mark.parametrize(("error", "is_kept"), [("INTERNAL", True), ("CANCELLED", False)])
def test_a_failed_request_is_kept_and_an_abandoned_one_is_not(tracing, exporter, error, is_kept):
    request(tracing, seconds=0.1, error=error)
    assert bool(exported(tracing, exporter)) is is_kept


def test_each_service_decides_about_its_part(exporter):
    coordinator, target, draft = (
        make(exporter, role) for role in ("coordinator", "target", "draft")
    )
    began = time.time_ns() - 3 * SECOND
    generate = coordinator.start(names.SPAN_GENERATE, start_ns=began)
    coordinator.start(names.SPAN_ADMIT, generate.traceparent).end()
    session = target.start(names.SPAN_SESSION, generate.traceparent, start_ns=began)
    drafting = draft.start(names.SPAN_DRAFT_SESSION, session.traceparent, start_ns=began)
    draft.record(names.SPAN_GROW, drafting.traceparent, 1, 2)
    for span in (drafting, session, generate):
        span.end()
    spans = [one for tracing in (coordinator, target, draft) for one in exported(tracing, exporter)]
    assert {one.name for one in spans} == {
        names.SPAN_GENERATE,
        names.SPAN_ADMIT,
        names.SPAN_SESSION,
        names.SPAN_DRAFT_SESSION,
        names.SPAN_GROW,
    }
    assert len({one.context.trace_id for one in spans}) == 1
    for tracing in (coordinator, target, draft):
        tracing.shutdown()


def test_two_sessions_of_one_trace_are_decided_one_by_one(tracing, exporter):
    parent = f"00-{'a1' * 16}-{'b2' * 8}-80"
    slow = tracing.start(names.SPAN_SESSION, parent, start_ns=time.time_ns() - 3 * SECOND)
    request(tracing, seconds=0.5, parent=parent)
    tracing.record(names.SPAN_ROUND, slow.traceparent, 1, 2)
    slow.end()
    assert [one.name for one in exported(tracing, exporter)] == [
        names.SPAN_ROUND,
        names.SPAN_SESSION,
    ]


def test_the_flag_tells_held_back_from_sampled():
    held, sampled = f"00-{'a1' * 16}-{'b2' * 8}-80", f"00-{'a1' * 16}-{'b2' * 8}-01"
    assert (is_held_back(held), is_sampled(held)) == (True, False)
    assert (is_held_back(sampled), is_sampled(sampled)) == (False, True)
    assert not is_held_back(f"00-{'a1' * 16}-{'b2' * 8}-00")
    assert not is_held_back("80")


def test_a_caller_that_does_not_trace_is_not_traced(tracing, exporter):
    request(tracing, seconds=3, parent=f"00-{'a1' * 16}-{'b2' * 8}-00")
    assert exported(tracing, exporter) == []


def test_without_a_limit_nothing_is_held_back(exporter):
    tracing = make(exporter, slow_seconds=0)
    span = request(tracing, seconds=3)
    assert not span.is_recorded
    assert exported(tracing, exporter) == []
    tracing.shutdown()


def test_of_a_long_request_the_first_and_the_last_spans_are_kept(tracing, exporter):
    request(tracing, seconds=3, num_rounds=MAX_SPANS_OF_TRACE + 7)
    spans = exported(tracing, exporter)
    numbers = [
        one.attributes[names.ATTR_ROUND_NUMBER] for one in spans if one.name == names.SPAN_ROUND
    ]
    half = MAX_SPANS_OF_TRACE // 2
    assert numbers == [*range(half), *range(half + 7, MAX_SPANS_OF_TRACE + 7)]
    root = next(one for one in spans if one.name == names.SPAN_SESSION)
    assert root.attributes[names.ATTR_DROPPED_SPANS] == 7


def test_memory_is_bounded_over_all_requests(tracing, monkeypatch):
    monkeypatch.setattr(tail, "MAX_SPANS", 50)
    spans = [tracing.start(names.SPAN_SESSION) for _ in range(10)]
    for span in spans:
        for number in range(20):
            tracing.record(names.SPAN_ROUND, span.traceparent, number, number + 1)
    assert tracing._tail.num_spans == 50
    assert MAX_SPANS > 50
    for span in spans:
        span.end()
    assert tracing._tail.num_spans == 0


def test_a_storm_of_failures_keeps_a_few(tracing, exporter):
    for _ in range(200):
        request(tracing, seconds=0.0, num_rounds=0, error="INTERNAL")
    # What is earned while the loop runs comes on top.
    assert MAX_KEPT_PER_SECOND <= len(exported(tracing, exporter)) < 150


def test_holding_a_round_back_is_cheap(tracing):
    span = tracing.start(names.SPAN_SESSION)
    children = [ChildSpan(names.SPAN_QUEUE, 1, 2)]

    def record():
        tracing.record(names.SPAN_ROUND, span.traceparent, 1, 2, {}, children)

    best = min(timeit.repeat(record, number=500, repeat=20)) / 500
    assert best < 2e-5  # about 4 µs on a quiet machine
    span.end()


@pytest.mark.parametrize(("seconds", "num_made"), [(3, 2), (1, 0)])
def test_a_span_is_made_only_if_it_is_kept(tracing, exporter, seconds, num_made):
    made = []

    def make():
        made.append(1)
        return ChildSpan(names.SPAN_ROUND, 1, 2)

    span = tracing.start(names.SPAN_SESSION, start_ns=time.time_ns() - seconds * SECOND)
    for _ in range(2):
        tracing.record_lazily(span.traceparent, make)
    assert made == []
    span.end()
    spans = exported(tracing, exporter)
    assert len(made) == num_made
    assert [one.name for one in spans].count(names.SPAN_ROUND) == num_made


@pytest.mark.parametrize("traceparent", ["", "x" * 53 + "80", f"00-{'a1' * 16}-{'zz' * 8}-80"])
def test_what_is_no_context_holds_nothing_back(tracing, exporter, traceparent):
    tracing.record(names.SPAN_ROUND, traceparent, 1, 2)
    assert tracing._tail.num_spans == 0
    assert exported(tracing, exporter) == []
