"""Makes the counters, gauges and histograms of one service, as `catalogue` describes them.

What a service does not export is made all the same, outside of its registry: it can be
observed, and nobody sees it.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from treedraft.core.growth import TokenSource
from treedraft.telemetry.batched_histogram import BatchedHistogram
from treedraft.telemetry.catalogue import METRICS, MetricSpec

_SPECS: Mapping[str, MetricSpec] = {spec.name: spec for spec in METRICS}


class Instruments:
    """The instruments of one role."""

    def __init__(self, role: str, registry: CollectorRegistry) -> None:
        """Register those that `role` exports in `registry`."""
        self._role = role
        self._registry = registry

    def _registry_of(self, spec: MetricSpec) -> CollectorRegistry | None:
        return self._registry if self._role in spec.roles else None

    def histogram(self, name: str) -> BatchedHistogram:
        """Return a histogram, by its name."""
        spec = _SPECS[name]
        return BatchedHistogram(
            name, spec.text, spec.labels, buckets=spec.buckets, registry=self._registry_of(spec)
        )

    def counter(self, name: str) -> Counter:
        """Return a counter, by its name; labels that are known are there at zero."""
        spec = _SPECS[name]
        counter = Counter(name, spec.text, spec.labels, registry=self._registry_of(spec))
        for values in spec.known:
            counter.labels(*values)
        return counter

    def gauge(self, name: str) -> Gauge:
        """Return a gauge, by its name."""
        spec = _SPECS[name]
        return Gauge(name, spec.text, spec.labels, registry=self._registry_of(spec))

    def by_source(self, name: str) -> dict[TokenSource, Counter]:
        """Return a counter for each source of nodes."""
        counter = self.counter(name)
        return {source: counter.labels(source.value) for source in TokenSource}
