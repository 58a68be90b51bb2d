import math

import pytest

from treedraft.core.exchange import Economics
from treedraft.draft.thrift import Thrift


def log(*probabilities):
    return [math.log(probability) for probability in probabilities]


def learned(*, step_ms=5.0, share=0.5, num_rows=1, count=100):
    """Return a thrift that saw steps in which every node had one child of that share."""
    thrift = Thrift(is_sharing=True)
    for _ in range(count):
        thrift.step_finished(step_ms, [(0.0, log(share))] * num_rows)
    return thrift


def test_a_drafter_with_a_device_of_its_own_never_stops():
    thrift = Thrift(is_sharing=False)
    thrift.target_says(Economics(token_us=1, row_us=1))
    thrift.step_finished(1000.0, [(0.0, [])])
    assert thrift.num_worth_it([-50.0]) == 1


def test_nothing_is_held_back_before_costs_are_known():
    thrift = Thrift(is_sharing=True)
    assert thrift.num_worth_it([-50.0]) == 1
    thrift.target_says(Economics(token_us=20_000))
    assert thrift.num_worth_it([-50.0, -60.0]) == 2


def test_a_step_pays_if_it_brings_more_than_the_target_makes_meanwhile():
    thrift = learned(step_ms=5.0, share=0.5)
    # 5 ms are worth a quarter of a token, half a node expanded.
    thrift.target_says(Economics(token_us=20_000))
    assert thrift.num_worth_it(log(0.51)) == 1
    assert thrift.num_worth_it(log(0.49)) == 0
    assert thrift.num_worth_it(log(0.3, 0.3)) == 2
    thrift.target_says(Economics(token_us=5_000))
    assert thrift.num_worth_it(log(1.0)) == 0


def test_a_node_brings_no_more_than_what_its_row_leaves_of_it():
    thrift = learned(step_ms=5.0, share=0.8)
    thrift.target_says(Economics(token_us=20_000, row_us=0))
    assert thrift.num_worth_it(log(0.6)) == 1
    thrift.target_says(Economics(token_us=20_000, row_us=6_000))  # 0.3 tokens a row
    assert thrift.num_worth_it(log(0.6)) == 0
    assert thrift.num_worth_it(log(0.9)) == 1


def test_as_many_nodes_are_expanded_as_pay_for_their_rows():
    thrift = learned(step_ms=4.0, share=0.8)
    for _ in range(50):
        thrift.step_finished(12.0, [(0.0, log(0.8))] * 4)
    thrift.target_says(Economics(token_us=20_000))
    assert thrift.num_worth_it(log(0.9, 0.1, 0.1, 0.1)) == 1
    assert thrift.num_worth_it(log(0.9, 0.9, 0.9, 0.9)) == 4


def test_a_step_of_several_levels_has_to_pay_for_all_of_them():
    thrift = learned(step_ms=5.0, share=0.5)
    thrift.target_says(Economics(token_us=20_000))
    # 1/2 + 1/4 + 1/8 + 1/16 for four passes of a quarter each; one alone would pay.
    assert thrift.num_worth_it(log(1.0)) == 1
    assert not thrift.is_worth_levels(log(1.0), levels=3, width=1)
    assert thrift.is_worth_levels(log(1.0), levels=1, width=1)
    thrift.target_says(Economics(token_us=22_000))
    assert thrift.is_worth_levels(log(1.0), levels=3, width=1)
    assert not thrift.is_worth_levels(log(0.9), levels=3, width=1)


def test_levels_run_the_best_of_all_children_so_far():
    thrift = learned(step_ms=5.0, share=0.5)
    for _ in range(200):
        thrift.step_finished(5.0, [(0.0, log(0.5, 0.25))])
    thrift.target_says(Economics(token_us=10_000))
    # Two roots bring 3/4 each, two children of theirs 3/8 each, two grandchildren 3/16 each.
    for survivals, pays in [((1.0, 1.0), True), ((0.5, 0.5), False)]:
        assert thrift.is_worth_levels(log(*survivals), levels=2, width=2) is pays


def test_levels_are_always_worth_it_where_nobody_waits():
    thrift = Thrift(is_sharing=False)
    thrift.calibrate({1: 100.0})
    thrift.target_says(Economics(token_us=1))
    assert thrift.is_worth_levels([-5.0], levels=3, width=4)


def test_one_hiccup_does_not_end_all_growth():
    thrift = learned(step_ms=5.0, share=0.8, count=20)
    thrift.target_says(Economics(token_us=20_000))
    thrift.step_finished(5000.0, [(0.0, log(0.8))])
    assert thrift.num_worth_it(log(1.0)) == 1


def test_steps_beside_a_pass_of_the_target_do_not_set_the_price():
    thrift = learned(step_ms=6.0, share=0.8)
    thrift.target_says(Economics(token_us=20_000))
    for _ in range(60):
        for elapsed_ms in (20.0, 6.0, 6.0):
            thrift.step_finished(elapsed_ms, [(0.0, log(0.8))])
    assert thrift.num_worth_it(log(0.6)) == 1  # 9.6 ms of the target's time


@pytest.mark.parametrize("children", [[], log(0.5, 0.3, 0.1, 0.05, 0.01)])
def test_nodes_without_children_and_with_many_are_learned_from(children):
    thrift = Thrift(is_sharing=True)
    for _ in range(100):
        thrift.step_finished(5.0, [(math.log(0.5), [math.log(0.5) + c for c in children])])
    thrift.target_says(Economics(token_us=20_000))
    assert thrift.num_worth_it(log(0.9)) == bool(children)


def test_what_steps_take_is_known_from_the_start():
    thrift = Thrift(is_sharing=True)
    thrift.calibrate({1: 2.0, 4: 2.5})
    thrift.target_says(Economics(token_us=20_000))
    assert thrift.num_worth_it(log(0.5)) == 1
    assert thrift.num_worth_it(log(0.05)) == 0


def test_a_first_step_that_took_long_is_not_believed_for_ever():
    thrift = Thrift(is_sharing=True)
    thrift.calibrate({1: 2.0, 4: 2.5})
    thrift.target_says(Economics(token_us=20_000))
    for _ in range(300):  # steps of four nodes beside a busy machine
        thrift.step_finished(80.0, [(0.0, log(0.8))] * 4)
    assert thrift.num_worth_it(log(0.3, 0.3, 0.3, 0.3)) < 4
    for _ in range(300):  # roots alone are run from then on
        thrift.step_finished(2.0, [(0.0, log(0.8))])
    assert thrift.num_worth_it(log(0.3, 0.3, 0.3, 0.3)) == 4
