"""Telemetry: names, logs, metrics, traces and the local store of spans.

Metrics are always on and cost about a microsecond an observation. Spans exist
for sampled requests only; for the others `Tracing.record` returns at once. No
prompt and no token ever becomes a log field, a label or an attribute: counts,
times, reasons and names of sessions and workers only.
"""
