from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from treedraft.autoscaler.report import DecisionReport
from treedraft.settings import TelemetrySettings
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.scaling import AUTOSCALER, SCALING_METRICS
from treedraft.telemetry.tracing import Tracing


def test_the_autoscaler_exports_what_is_written_of_it_with_its_role():
    metrics = Metrics(AUTOSCALER)
    tracing = Tracing(AUTOSCALER, TelemetrySettings(), exporter=InMemorySpanExporter())
    report = DecisionReport(metrics.observed, tracing)
    report.led(is_leader=True)
    report.failed("UNAVAILABLE")
    tracing.shutdown()
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in metrics.registry.collect()
        if family.name.startswith("treedraft_")
    }
    assert set(families) == {spec.name for spec in SCALING_METRICS}
    for spec in SCALING_METRICS:
        assert families[spec.name].documentation == spec.text
    sample = metrics.registry.get_sample_value
    assert sample(names.SCALING_LEADER, {"role": AUTOSCALER}) == 1
    assert sample(names.SCALING_FAILURES, {"role": AUTOSCALER, "reason": "UNAVAILABLE"}) == 1
