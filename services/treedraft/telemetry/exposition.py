"""What a scrape sees: the metrics of a service, labelled, and all that follows from them.

Numbers that can be had from others are worked out here, when Prometheus asks,
and cost the engine nothing: acceptance by position out of the histogram of
accepted lengths, and the names that dashboards for vLLM look for.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from treedraft.telemetry import names
from treedraft.telemetry.aliases import ALIASES, AliasSpec
from treedraft.telemetry.catalogue import NUM_POSITIONS, TARGET

_ENGINE = "0"
_HISTOGRAM_PARTS = ("_bucket", "_count", "_sum")


class Exposition(Collector):
    """Collects a registry with `role` on every series; at a target, aliases besides.

    `model_name` is the label of the aliases, empty until a model is there.
    """

    def __init__(self, registry: CollectorRegistry, role: str) -> None:
        """Read `registry` at every scrape."""
        self.model_name = ""
        self._registry = registry
        self._role = role

    def collect(self) -> Iterator[Metric]:
        """Yield all families, as Prometheus scrapes them."""
        families = list(self._registry.collect())
        numbers = _Numbers(families)
        if self._role == TARGET:
            families.append(_by_position(numbers))
        for family in families:
            family.samples = [
                sample._replace(labels={names.LABEL_ROLE: self._role, **sample.labels})
                for sample in family.samples
            ]
            yield family
        if self._role == TARGET:
            labels = {names.LABEL_MODEL_NAME: self.model_name, names.LABEL_ENGINE: _ENGINE}
            for alias in ALIASES:
                yield _alias(alias, numbers, labels)


class _Numbers:
    """The samples of one scrape by name."""

    def __init__(self, families: list[Metric]) -> None:
        self._samples: dict[str, list[Sample]] = {}
        self._families = {family.name: family for family in families}
        for family in families:
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append(sample)

    def total(self, name: str) -> float:
        """Return a number, summed over its labels."""
        return sum(sample.value for sample in self._samples.get(name, ()))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return a number by a label."""
        return {sample.labels[label]: sample.value for sample in self._samples.get(name, ())}

    def above(self, name: str, limit: float) -> float:
        """Return how many observations of a histogram are greater than one of its limits."""
        up_to = self.by(name + "_bucket", "le")
        return self.total(name + "_count") - up_to.get(str(float(limit)), 0.0)

    def family(self, name: str) -> Metric:
        """Return a histogram."""
        return self._families[name]


def _by_position(numbers: _Numbers) -> Metric:
    name = names.METRIC_ACCEPTED_AT_POSITION
    text = f"Rounds that accepted a drafted node at this depth, 0 to {NUM_POSITIONS - 1}."
    family = CounterMetricFamily(name, text, labels=[names.LABEL_POSITION])
    for position in range(NUM_POSITIONS):
        # A round of n accepted nodes has one at each of the positions 0 to n-1.
        count = numbers.above(names.METRIC_ACCEPTED_LENGTH, position)
        family.add_metric([str(position)], count)
    return family


def _kv_use(numbers: _Numbers) -> float:
    total = numbers.total(names.METRIC_KV_BLOCKS)
    return 1.0 - numbers.total(names.METRIC_KV_BLOCKS_FREE) / total if total else 0.0


def _prompt_tokens(numbers: _Numbers) -> float:
    return numbers.total(names.METRIC_TOKENS_PREFILLED) + numbers.total(names.METRIC_TOKENS_CACHED)


_VALUES: Mapping[str, Callable[[_Numbers], float]] = {
    names.ALIAS_NUM_DRAFTS: lambda numbers: numbers.above(names.METRIC_TREE_NODES, 0),
    names.ALIAS_PROMPT_TOKENS: _prompt_tokens,
    names.ALIAS_PREFIX_QUERIES: _prompt_tokens,
    names.ALIAS_KV_USE: _kv_use,
}


def _alias(alias: AliasSpec, numbers: _Numbers, labels: Mapping[str, str]) -> Metric:
    if alias.name.endswith("_seconds"):
        return _histogram_alias(alias, numbers.family(alias.of), labels)
    label_names, label_values = [*labels, *alias.labels], list(labels.values())
    family: CounterMetricFamily | GaugeMetricFamily
    if alias.name.endswith("_total"):
        family = CounterMetricFamily(alias.name, alias.text, labels=label_names)
    else:
        family = GaugeMetricFamily(alias.name, alias.text, labels=label_names)
    if alias.labels:
        for value, number in _labelled_values(alias, numbers).items():
            family.add_metric([*label_values, value], number)
    else:
        value_of = _VALUES.get(alias.name)
        number = value_of(numbers) if value_of else numbers.total(alias.of)
        family.add_metric(label_values, number)
    return family


def _labelled_values(alias: AliasSpec, numbers: _Numbers) -> Mapping[str, float]:
    if alias.name == names.ALIAS_ACCEPTED_PER_POS:
        return {
            str(position): numbers.above(names.METRIC_ACCEPTED_LENGTH, position)
            for position in range(NUM_POSITIONS)
        }
    return numbers.by(alias.of, names.LABEL_REASON)


def _histogram_alias(alias: AliasSpec, family: Metric, labels: Mapping[str, str]) -> Metric:
    copy = Metric(alias.name, alias.text, "histogram")
    for sample in family.samples:
        for part in _HISTOGRAM_PARTS:
            if sample.name == alias.of + part:
                own = {key: value for key, value in sample.labels.items() if key == "le"}
                copy.add_sample(alias.name + part, {**labels, **own}, sample.value)
    return copy
