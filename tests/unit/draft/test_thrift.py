import math

import pytest

from treedraft.draft.thrift import Thrift, survival

CERTAIN = [0.0]


def test_a_drafter_with_a_device_of_its_own_never_stops():
    thrift = Thrift(is_sharing=False)
    thrift.token_costs(1)
    thrift.step_finished(1000.0, 1.0, 0.0)
    assert thrift.pays([-50.0])


def test_nothing_is_held_back_before_costs_are_known():
    thrift = Thrift(is_sharing=True)
    assert thrift.pays([-50.0])
    thrift.token_costs(20_000)
    assert thrift.pays([-50.0])


def test_a_step_pays_if_it_brings_more_than_the_target_makes_meanwhile():
    thrift = Thrift(is_sharing=True)
    for _ in range(100):
        thrift.step_finished(5.0, 1.0, 0.5)
    thrift.token_costs(20_000)  # 5 ms are worth a quarter of a token, half a node expanded
    assert thrift.pays([math.log(0.51)])
    assert not thrift.pays([math.log(0.49)])
    assert thrift.pays([math.log(0.3), math.log(0.3)])
    thrift.token_costs(5_000)
    assert not thrift.pays(CERTAIN)


def test_one_hiccup_does_not_end_all_growth():
    thrift = Thrift(is_sharing=True)
    thrift.token_costs(20_000)
    for _ in range(20):
        thrift.step_finished(5.0, 1.0, 0.8)
    thrift.step_finished(5000.0, 1.0, 0.8)
    assert thrift.pays(CERTAIN)


def test_steps_beside_a_pass_of_the_target_do_not_set_the_price():
    thrift = Thrift(is_sharing=True)
    thrift.token_costs(20_000)
    for _ in range(60):
        for elapsed_ms in (20.0, 6.0, 6.0):
            thrift.step_finished(elapsed_ms, 1.0, 0.8)
    assert thrift.pays([math.log(0.6)])  # 9.6 ms of the target's time


def test_survival_is_the_expected_number_of_accepted_nodes():
    assert survival([math.log(0.5), math.log(0.25)]) == pytest.approx(0.75)
