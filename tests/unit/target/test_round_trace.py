from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from treedraft.core.growth import TokenSource
from treedraft.core.session import RoundTimes
from treedraft.settings import TelemetrySettings
from treedraft.target.round import StepClock
from treedraft.target.round_trace import RoundTrace
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

MS = 1_000_000


def a_round(span, *, is_hit):
    tree = SimpleNamespace(sources=(TokenSource.LOOKUP,) * 3, num_nodes=3)
    session = SimpleNamespace(
        span=span,
        counts=SimpleNamespace(rounds=4),
    )
    return SimpleNamespace(
        session_pass=SimpleNamespace(session=session, tree=tree),
        verdict=SimpleNamespace(accepted=(0, 1), token_ids=(5, 6, 7)),
        base_length=20,
        is_hit=is_hit,
        clock=SimpleNamespace(ready_ns=8 * MS, drafted_nodes=7),
    )


@pytest.mark.parametrize("is_hit", [True, False, None])
def test_a_round_is_a_span_whose_parts_follow_each_other(is_hit):
    exporter = InMemorySpanExporter()
    tracing = Tracing("target", TelemetrySettings(sample_ratio=1.0), exporter=exporter)
    trace = RoundTrace(tracing, Metrics("target"))
    span = tracing.start(names.SPAN_SESSION)
    clock = StepClock(10 * MS, 15 * MS, 16 * MS, 18 * MS)
    round_ = a_round(span, is_hit=is_hit)
    trace.rounds([round_], [RoundTimes(draft=1.5, wire=0.5)], clock, batch_sessions=2)
    tracing.shutdown()
    spans = {one.name: one for one in exporter.get_finished_spans()}
    root = spans[names.SPAN_ROUND]
    shift = root.start_time - 8 * MS
    times = {
        name: ((one.start_time - shift) / MS, (one.end_time - shift) / MS)
        for name, one in spans.items()
    }
    assert times == {
        names.SPAN_ROUND: (8, 18),
        names.SPAN_QUEUE: (8, 10),
        names.SPAN_FORWARD: (10, 15),
        names.SPAN_WALK: (15, 16),
        names.SPAN_COMMIT: (16, 18),
    }
    hit = {} if is_hit is None else {names.ATTR_ROUND_IS_HIT: is_hit}
    assert dict(root.attributes) == hit | {
        names.ATTR_ROUND_NUMBER: 4,
        names.ATTR_BASE_LENGTH: 20,
        names.ATTR_ROUND_DRAFTED: 7,
        names.ATTR_ROUND_ADMITTED: 3,
        names.ATTR_ROUND_ACCEPTED: 2,
        names.ATTR_ROUND_EMITTED: 3,
        names.ATTR_ROUND_BATCH: 2,
        names.ATTR_ROUND_DRAFT_MS: 1.5,
        names.ATTR_ROUND_WIRE_MS: 0.5,
    }
