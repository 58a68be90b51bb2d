from itertools import count

from tests.unit.coordinator.support import a_spec

from treedraft.coordinator.request import GenerationRequest
from treedraft.coordinator.request_book import RequestBook
from treedraft.coordinator.tenant import Tenant
from treedraft.core.session import FinishReason, SessionFinish, SessionStatistics
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

TRACING = Tracing("coordinator", TelemetrySettings(sample_ratio=0.0))
numbers = count()


def a_request(tenant="acme", *, trace_id=""):
    span = TRACING.start("generate")
    span.trace_id = trace_id
    request = GenerationRequest(span, Metrics("coordinator"), lambda: 0.0, None, Tenant(tenant))
    request.show(a_spec(f"session-{next(numbers)}-secret-rest"), "toy")
    return request


def test_a_request_is_seen_while_it_runs_and_after():
    book = RequestBook(now=lambda: 77.0)
    request = a_request()
    book.enter(request)
    (view,) = book.running("acme")
    assert (view.began_at, view.model, view.outcome, view.prompt_tokens) == (77.0, "toy", "", 3)
    request.on_tokens(5)
    assert book.running("acme")[0].output_tokens == 5
    request.finish(SessionFinish(FinishReason.STOP, SessionStatistics(rounds=2, emitted_tokens=5)))
    book.leave(request)
    assert book.running("acme") == []
    (ended,) = book.recent("acme")
    assert (ended.outcome, ended.output_tokens, ended.tokens_per_round) == ("stop", 5, 2.5)


def test_nobody_sees_another_tenants_requests():
    book = RequestBook()
    mine, other = a_request("acme", trace_id="aa"), a_request("other", trace_id="bb")
    for request in (mine, other):
        book.enter(request)
    assert [view.trace_id for view in book.running("acme")] == ["aa"]
    assert not book.spans_in("acme", "bb")
    assert not book.spans_in("acme", "")
    book.leave(other)
    assert book.recent("acme") == []
    assert book.spans_in("other", "bb") == {other.span.span_id}


def test_two_tenants_in_one_trace_have_each_their_own_spans():
    book = RequestBook()
    mine, other = a_request("acme", trace_id="aa"), a_request("other", trace_id="aa")
    for request in (mine, other):
        book.enter(request)
    assert book.spans_in("acme", "aa") == {mine.span.span_id}
    assert book.spans_in("other", "aa") == {other.span.span_id}


def test_the_name_of_a_session_is_not_told_whole():
    book = RequestBook()
    book.enter(a_request())
    assert len(book.running("acme")[0].session) == 8


def test_the_newest_come_first_and_the_oldest_go():
    book = RequestBook(max_recent=2, max_tenants=2)
    requests = [a_request(trace_id=str(number)) for number in range(3)]
    for request in requests:
        book.enter(request)
    assert [view.trace_id for view in book.running("acme")] == ["2", "1", "0"]
    for request in requests:
        book.leave(request)
    assert [view.trace_id for view in book.recent("acme")] == ["2", "1"]
    for tenant in ("b", "c"):
        later = a_request(tenant)
        book.enter(later)
        book.leave(later)
    assert book.recent("acme") == []
    assert len(book.recent("c")) == 1


def test_a_request_that_never_came_in_is_no_error():
    book = RequestBook()
    book.leave(a_request())
    assert book.recent("acme") == []
