import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from treedraft.settings import TelemetrySettings
from treedraft.telemetry import names
from treedraft.telemetry.spans import ChildSpan
from treedraft.telemetry.tracing import Tracing


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.requests = []

    def Export(self, request, context):  # noqa: N802  name of the RPC
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector():
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector
    server.stop(None).wait()


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_spans_reach_a_collector_as_one_trace(collector, scheme):
    settings = TelemetrySettings(
        otlp_endpoint=f"{scheme}127.0.0.1:{collector.port}", sample_ratio=1.0
    )
    tracing = Tracing("target", settings, "i1")
    with tracing.start(names.SPAN_SESSION) as session:
        tracing.record(
            names.SPAN_ROUND,
            session.traceparent,
            1,
            9,
            {names.ATTR_ROUND_IS_HIT: True, names.ATTR_PLACE_DRAFTERS: ("a", "b")},
            [ChildSpan(names.SPAN_WALK, 2, 3)],
        )
    tracing.shutdown()
    resources = [r for request in collector.requests for r in request.resource_spans]
    spans = {s.name: s for r in resources for scope in r.scope_spans for s in scope.spans}
    assert set(spans) == {names.SPAN_SESSION, names.SPAN_ROUND, names.SPAN_WALK}
    assert spans[names.SPAN_ROUND].parent_span_id == spans[names.SPAN_SESSION].span_id
    assert spans[names.SPAN_WALK].parent_span_id == spans[names.SPAN_ROUND].span_id
    assert {a.key: a.value.string_value for a in resources[0].resource.attributes}[
        names.ATTR_SERVICE_NAME
    ] == "target"


def test_a_dead_collector_does_not_hold_up_the_end():
    with grpc_port_nobody_serves() as port:
        tracing = Tracing("target", TelemetrySettings(otlp_endpoint=f"http://127.0.0.1:{port}"))
        tracing.start(names.SPAN_SESSION).end()
        began = time.monotonic()
        tracing.shutdown(timeout_seconds=0.5)
        assert time.monotonic() - began < 5.0


class grpc_port_nobody_serves:  # noqa: N801  used like a function
    def __enter__(self):
        import socket

        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        return self.socket.getsockname()[1]

    def __exit__(self, *_):
        self.socket.close()
