import timeit

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from treedraft.core.errors import OverloadedError
from treedraft.settings import TelemetrySettings
from treedraft.telemetry import names
from treedraft.telemetry.local_store import SpanRecord, load_trace, wait_for_trace
from treedraft.telemetry.spans import ChildSpan, RequestSpan
from treedraft.telemetry.tracing import Tracing, is_sampled

SAMPLED = f"00-{'a1' * 16}-{'b2' * 8}-01"
UNSAMPLED = f"00-{'a1' * 16}-{'b2' * 8}-00"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    settings = TelemetrySettings(sample_ratio=1.0)
    tracing = Tracing("target", settings, "incarnation-1", exporter=exporter)
    yield tracing
    tracing.shutdown()


def finished(tracing: Tracing, exporter: InMemorySpanExporter):
    tracing.flush()
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.parametrize(
    ("traceparent", "expected"),
    [
        (SAMPLED, True),
        (SAMPLED[:-2] + "03", True),
        (UNSAMPLED, False),
        (SAMPLED[:-2] + "02", False),
        ("", False),
        ("01", False),
        (SAMPLED + "-x", False),
    ],
)
def test_sampled_is_the_last_bit_of_the_flags(traceparent, expected):
    assert is_sampled(traceparent) is expected


def test_record_keeps_a_span_with_its_parts_under_the_remote_parent(tracing, exporter):
    tracing.record(
        names.SPAN_ROUND,
        SAMPLED,
        100,
        900,
        {names.ATTR_ROUND_NUMBER: 3},
        [
            ChildSpan(names.SPAN_QUEUE, 100, 200),
            ChildSpan(names.SPAN_FORWARD, 200, 800, children=[ChildSpan("inner", 300, 400)]),
        ],
    )
    spans = finished(tracing, exporter)
    root = spans[names.SPAN_ROUND]
    assert f"{root.parent.span_id:016x}" == "b2" * 8
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {"a1" * 16}
    assert spans[names.SPAN_FORWARD].parent.span_id == root.context.span_id
    assert spans["inner"].parent.span_id == spans[names.SPAN_FORWARD].context.span_id
    assert (root.start_time, root.end_time) == (100, 900)
    assert dict(root.attributes) == {names.ATTR_ROUND_NUMBER: 3}
    assert root.resource.attributes[names.ATTR_SERVICE_NAME] == "target"
    assert root.resource.attributes[names.ATTR_SERVICE_INSTANCE] == "incarnation-1"


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        UNSAMPLED,
        "x" * 53 + "01",
        f"00-{'0' * 32}-{'b2' * 8}-01",
        f"00-{'a1' * 16}-{'0' * 16}-01",
    ],
)
def test_record_ignores_what_is_not_sampled_or_no_context(tracing, exporter, traceparent):
    tracing.record(names.SPAN_ROUND, traceparent, 1, 2)
    assert finished(tracing, exporter) == {}


def test_record_of_an_unsampled_round_is_cheap(tracing):
    children = [ChildSpan(names.SPAN_QUEUE, 1, 2)]
    attributes = {names.ATTR_ROUND_NUMBER: 1}

    def record():
        tracing.record(names.SPAN_ROUND, UNSAMPLED, 1, 2, attributes, children)

    best = min(timeit.repeat(record, number=2000, repeat=20)) / 2000
    assert best < 2e-6  # about 0.3 µs on a quiet machine


def test_a_started_span_carries_its_context_on(tracing, exporter):
    generate = tracing.start(names.SPAN_GENERATE, attributes={names.ATTR_REQUEST_MODEL: "m"})
    session = tracing.start(names.SPAN_SESSION, generate.traceparent, start_ns=5)
    session.end()
    generate.set({names.ATTR_OUTPUT_TOKENS: 7}, **{names.ATTR_HITS: 2})
    generate.event(names.EVENT_FIRST_TOKEN, {names.ATTR_BASE_LENGTH: 4})
    generate.end()
    generate.end("SECOND_END_IS_IGNORED")
    spans = finished(tracing, exporter)
    root, child = spans[names.SPAN_GENERATE], spans[names.SPAN_SESSION]
    assert root.parent is None
    assert child.parent.span_id == root.context.span_id
    assert child.start_time == 5
    assert generate.trace_id == session.trace_id == f"{root.context.trace_id:032x}"
    assert dict(root.attributes) == {
        names.ATTR_REQUEST_MODEL: "m",
        names.ATTR_OUTPUT_TOKENS: 7,
        names.ATTR_HITS: 2,
    }
    assert [event.name for event in root.events] == [names.EVENT_FIRST_TOKEN]
    assert root.status.is_ok or root.status.is_unset


def test_an_unreadable_context_starts_a_new_trace(tracing, exporter):
    tracing.start(names.SPAN_SESSION, "not a context").end()
    assert finished(tracing, exporter)[names.SPAN_SESSION].parent is None


def test_who_begins_decides_and_the_others_follow(tracing, exporter):
    settings = TelemetrySettings(sample_ratio=0.0, slow_seconds=0)
    never = Tracing("coordinator", settings, exporter=exporter)
    try:
        root = never.start(names.SPAN_GENERATE)
        assert not root.is_sampled
        assert root.trace_id == ""
        assert len(root.traceparent) == 55
        below = tracing.start(names.SPAN_SESSION, root.traceparent)
        assert not below.is_sampled
        assert not tracing.is_recorded(below.traceparent)
        below.set({names.ATTR_HITS: 1})
        below.event(names.EVENT_PREEMPTED)
        below.end("SOME_REASON")
        root.end()
        followed = never.start(names.SPAN_ADMIT, SAMPLED)
        assert followed.is_sampled
        followed.end()
        never.flush()
    finally:
        never.shutdown()
    assert [span.name for span in exporter.get_finished_spans()] == [names.SPAN_ADMIT]


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (OverloadedError("pool full", reason="KV_POOL_FULL"), "KV_POOL_FULL", "pool full"),
        ("TARGET_LOST", "TARGET_LOST", "TARGET_LOST"),
        (ValueError("bug"), "ValueError", "bug"),
    ],
)
def test_an_error_names_its_reason(tracing, exporter, error, reason, message):
    tracing.start(names.SPAN_SESSION).end(error)
    span = finished(tracing, exporter)[names.SPAN_SESSION]
    assert span.attributes[names.ATTR_ERROR_TYPE] == reason
    assert span.status.description == message


def test_an_error_that_leaves_the_block_ends_the_span(tracing, exporter):
    def fail(span: RequestSpan):
        with span:
            raise OverloadedError("full")

    with pytest.raises(OverloadedError):
        fail(tracing.start(names.SPAN_ADMIT))
    assert (
        finished(tracing, exporter)[names.SPAN_ADMIT].attributes[names.ATTR_ERROR_TYPE]
        == "OVERLOADED"
    )


def test_three_services_share_one_store_and_one_trace(tmp_path):
    settings = TelemetrySettings(
        store_path=str(tmp_path / "deep" / "spans.sqlite"), sample_ratio=1.0
    )
    coordinator, target, draft = (
        Tracing(role, settings, role + "-1") for role in ("coordinator", "target", "draft")
    )
    generate = coordinator.start(names.SPAN_GENERATE)
    session = target.start(names.SPAN_SESSION, generate.traceparent)
    drafting = draft.start(names.SPAN_DRAFT_SESSION, session.traceparent)
    target.record(names.SPAN_ROUND, session.traceparent, 1, 2)
    draft.record(names.SPAN_GROW, drafting.traceparent, 1, 2)
    for span in (drafting, session, generate):
        span.end()
    # Nothing is flushed by hand: the store fills by itself, and soon.
    spans = wait_for_trace(settings.store_path, generate.trace_id, timeout_seconds=20)
    for tracing in (coordinator, target, draft):
        tracing.shutdown()
    assert edges(spans) == {
        ("", "coordinator generate"),
        ("coordinator generate", "target session"),
        ("target session", "target round"),
        ("target session", "draft draft session"),
        ("draft draft session", "draft grow"),
    }


def test_shutdown_exports_what_is_left(tmp_path):
    path = tmp_path / "spans.sqlite"
    tracing = Tracing("target", TelemetrySettings(store_path=str(path)))
    for number in range(3000):
        tracing.record(
            names.SPAN_ROUND, SAMPLED, number, number + 1, {names.ATTR_ROUND_NUMBER: number}
        )
    tracing.shutdown()
    numbers = [span.attributes[names.ATTR_ROUND_NUMBER] for span in load_trace(path, "a1" * 16)]
    assert numbers == list(range(3000))


def edges(spans: list[SpanRecord]) -> set[tuple[str, str]]:
    labels = {span.span_id: f"{span.service} {span.name}" for span in spans}
    return {(labels.get(span.parent_id, ""), labels[span.span_id]) for span in spans}
