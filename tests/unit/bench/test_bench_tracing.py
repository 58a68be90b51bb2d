import json
from datetime import UTC, datetime

import pytest

from treedraft.bench.prompts import conversations
from treedraft.bench.tracing import (
    ALL,
    DEFAULT,
    MODES,
    OFF,
    TracingPlan,
    TracingResult,
    _ask,
    markdown,
    measure_tracing,
    plan_cluster,
    to_json,
    traceparent,
)
from treedraft.core.errors import UnavailableError
from treedraft.inference.stamp import take_stamp
from treedraft.inference.toy import make_toy_model
from treedraft.telemetry.sampling import is_sampled


def result(**seconds):
    stamp = take_stamp(datetime(2026, 1, 1, tzinfo=UTC))
    number = len(seconds[OFF])
    return TracingResult(stamp, TracingPlan(), seconds, [10] * number, True)


def test_the_overhead_is_the_share_of_speed_that_is_lost():
    measured = result(off=[1.0, 2.0, 4.0], default=[1.0, 2.0, 4.0], all=[1.25, 2.5, 8.0])
    assert measured.speed(OFF) == 5.0
    assert measured.overhead(DEFAULT) == (0.0, 0.0, 0.0)
    overhead, low, high = measured.overhead(ALL)
    assert overhead == pytest.approx(0.2)
    assert low == pytest.approx(0.2)
    assert high == pytest.approx(0.5)
    assert measured.cost_us(DEFAULT) == (0.0, 0.0, 0.0)
    assert measured.cost_us(ALL)[0] == pytest.approx(0.5 / 10 * 1e6)


def test_the_table_and_the_file_say_the_same():
    measured = result(off=[1.0], default=[1.01], all=[1.05])
    assert "every request traced" in markdown(measured)
    document = json.loads(to_json(measured))
    assert document["modes"][ALL]["overhead"] == pytest.approx(1 - 1 / 1.05)
    assert document["table"] == markdown(measured)
    assert document["stamp"]["commit"]


def test_a_mode_is_asked_for_by_the_trace_context():
    assert is_sampled(traceparent(ALL))
    assert not is_sampled(traceparent(OFF))
    assert traceparent(OFF).endswith("-00")
    assert traceparent(DEFAULT) == ""
    assert traceparent(ALL) != traceparent(ALL)


def test_all_services_draw_with_the_rate_of_the_plan():
    settings = plan_cluster(TracingPlan(sample_ratio=0.25)).settings
    assert {value for name, value in settings.items() if "SAMPLE_RATIO" in name} == {"0.25"}


@pytest.mark.parametrize("is_plain", [True, False])
async def test_plain_decoding_is_asked_for_without_drafts(is_plain):
    asked = []

    class Client:
        async def generate(self, query, *, timeout_seconds=None, traceparent=""):
            asked.append(query)
            for event in ():
                yield event

    with pytest.raises(UnavailableError):
        await _ask(Client(), OFF, conversations(1)[0], TracingPlan(is_plain=is_plain))
    assert asked[0].speculation.enabled is not is_plain


async def test_a_run_measures_every_mode_on_the_same_texts(tmp_path):
    toy = str(make_toy_model(tmp_path / "toy", seed=3))
    plan = TracingPlan(target=toy, num_tokens=8, num_repeats=2)
    measured = await measure_tracing(plan, lambda _text: None)
    assert measured.is_identical
    assert measured.num_tokens == [8, 8]
    assert all(len(measured.seconds[mode]) == 2 for mode in MODES)
