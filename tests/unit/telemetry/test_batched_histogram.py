import math

from prometheus_client import CollectorRegistry

from treedraft.telemetry.batched_histogram import BatchedHistogram

AMOUNTS = [0.5, 0.5, 1.0, 1.0, 1.0001, 3.0, 2.0, 0.5, -1.0, 99.0, math.inf]


def samples(observe) -> dict[str, float]:
    registry = CollectorRegistry()
    histogram = BatchedHistogram("h", "text", ["part"], buckets=(1, 2, 3), registry=registry)
    observe(histogram.labels("a"))
    [family] = registry.collect()
    values = {f"{one.name}{one.labels}": one.value for one in family.samples}
    return {name: value for name, value in values.items() if "_created" not in name}


def test_many_observations_at_once_are_those_one_by_one():
    one_by_one = samples(lambda histogram: [histogram.observe(amount) for amount in AMOUNTS])
    assert samples(lambda histogram: histogram.observe_all(iter(AMOUNTS))) == one_by_one
    assert one_by_one["h_count{'part': 'a'}"] == len(AMOUNTS)


def test_nothing_is_nothing():
    assert samples(lambda histogram: histogram.observe_all([]))["h_count{'part': 'a'}"] == 0
