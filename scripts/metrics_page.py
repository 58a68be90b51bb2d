"""The page of metrics, made from the catalogue that the services register them from."""

from collections.abc import Iterable

from treedraft.telemetry import names
from treedraft.telemetry.aliases import ALIASES
from treedraft.telemetry.catalogue import METRICS, MetricKind, MetricSpec
from treedraft.telemetry.scaling import SCALING_METRICS

INTRODUCTION = """\
<!-- Made from telemetry/names.py and telemetry/catalogue.py by `make docs`. -->
# Metrics

Every service has a Prometheus endpoint, off until it is given a port:

```sh
export TREEDRAFT_COORDINATOR__TELEMETRY__METRICS_PORT=9464   # likewise TARGET and DRAFT
export TREEDRAFT_COORDINATOR__TELEMETRY__METRICS_HOST=0.0.0.0
```

Without a host it listens where gRPC listens, which is loopback unless told otherwise. `treedraft
up --metrics-port 9464` gives the coordinator this port and each worker one of the next. The
endpoint is plain HTTP and says how much is asked, never what: let Prometheus alone reach it.

The coordinator's HTTP door shows the same at `/metrics`, for whoever scrapes that port anyway.

Dashboards and rules are in [deploy/observability](../deploy/observability/README.md); what to do
when one fires is in the [runbook](runbook.md).

Every metric has the label `role`: `coordinator`, `target`,
`draft` or `autoscaler`, the service that exports
it. What a client feels is measured at the coordinator, what an engine does at the target, so pick
one of them: a sum over both counts twice. Counting costs about a microsecond an observation and
is always on.
"""

VLLM = """
## vLLM's names

For dashboards and load generators that know vLLM. Targets alone export them, with the labels
`model_name` and `engine` (always `0`), from the same numbers; they cost nothing between scrapes.

| name | made from | meaning |
| --- | --- | --- |
"""


def metrics_page() -> str:
    """Return docs/metrics.md."""
    parts = [INTRODUCTION]
    for title, kind in (
        ("Histograms", MetricKind.HISTOGRAM),
        ("Counters", MetricKind.COUNTER),
        ("Gauges", MetricKind.GAUGE),
    ):
        parts.append(
            f"\n## {title}\n\n"
            "| name | labels | exported by | meaning |\n| --- | --- | --- | --- |\n"
        )
        specs = (*METRICS, *SCALING_METRICS)
        parts.extend(row(spec) for spec in specs if spec.kind is kind)
    parts.append(VLLM)
    for alias in ALIASES:
        extra = "".join(f" By `{label}`." for label in alias.labels)
        parts.append(f"| `{alias.name}` | `{alias.of}` | {alias.text}{extra} |\n")
    parts.append(spans())
    return "".join(parts)


def row(spec: MetricSpec) -> str:
    """Return one line of a table."""
    return f"| `{spec.name}` | {code(spec.labels)} | {', '.join(spec.roles)} | {spec.text} |\n"


def spans() -> str:
    """Return the section on spans."""
    constants = {name: value for name, value in vars(names).items() if isinstance(value, str)}

    def of(prefix: str) -> str:
        return code(value for name, value in constants.items() if name.startswith(prefix))

    return (
        "\n## Spans\n\n"
        "One trace a request, see [architecture](architecture.md) and `treedraft trace`.\n\n"
        f"- spans: {of('SPAN_')}\n"
        f"- events: {of('EVENT_')}\n"
        f"- attributes: {of('ATTR_')}\n\n"
        "`gen_ai.*` follow OpenTelemetry's semantic conventions; there are none for speculation, "
        "hence `specdec.*`. Spans say how long a text is, never what it says.\n"
    )


def code(words: Iterable[str]) -> str:
    """Return words as code, with commas between them."""
    return ", ".join(f"`{word}`" for word in words)
