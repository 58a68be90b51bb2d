import math

import pytest

from treedraft.core.errors import InvalidRequestError
from treedraft.core.sampling import (
    MAX_LOGIT_BIAS,
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", ((-1, 0.0),)),
        ("logit_bias", ((3, 100.5),)),
        ("logit_bias", tuple((i, 0.0) for i in range(MAX_LOGIT_BIAS + 1))),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParameters(**{name: value})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("top_p", 1.0),
        ("min_p", 1.0),
        ("presence_penalty", -2.0),
        ("seed", 2**64 - 1),
        ("logit_bias", ((0, -100.0), (7, 100.0))),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    assert getattr(SamplingParameters(**{name: value}), name) == value


def test_what_the_law_depends_on_is_told():
    assert SamplingParameters(temperature=0.0).is_greedy
    assert not SamplingParameters(temperature=1e-9).is_greedy
    assert not SamplingParameters(logit_bias=((1, 1.0),)).has_penalties
    assert SamplingParameters(repetition_penalty=1.1).has_penalties
    assert SamplingParameters(presence_penalty=0.1).has_penalties
    assert SamplingParameters(frequency_penalty=-0.1).has_penalties


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_tokens", 0), ("stop_strings", ("",)), ("stop_strings", ("x",) * 17)],
)
def test_stopping_criteria_are_checked(name, value):
    with pytest.raises(InvalidRequestError) as caught:
        StoppingCriteria(**{name: value})
    assert caught.value.field == name


@pytest.mark.parametrize("name", ["max_nodes", "max_depth"])
@pytest.mark.parametrize("value", [-1, 10_000])
def test_speculation_options_are_checked(name, value):
    with pytest.raises(InvalidRequestError) as caught:
        SpeculationOptions(**{name: value})
    assert caught.value.field == name
