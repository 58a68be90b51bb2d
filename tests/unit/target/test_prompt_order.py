"""The order that keeps most first tokens in time."""

import itertools
import random

import pytest

from treedraft.target.prompt_order import PromptOrder, WaitingPrompt, order_prompts


def in_time(now, prompts, order):
    """How many of the prompts are done when they are due, in that order."""
    done = 0
    for index in order:
        now += prompts[index].seconds
        done += now <= prompts[index].due
    return done


def test_without_due_dates_they_are_served_as_they_came():
    prompts = [WaitingPrompt(seconds) for seconds in (5.0, 1.0, 3.0)]
    assert order_prompts(7.0, prompts) == PromptOrder((0, 1, 2))


def test_the_earliest_due_comes_first_where_all_can_be_in_time():
    prompts = [WaitingPrompt(1.0, 30.0), WaitingPrompt(1.0, 10.0), WaitingPrompt(1.0, 20.0)]
    assert order_prompts(0.0, prompts).line == (1, 2, 0)


def test_the_longest_stands_back_where_not_all_can_be_in_time():
    prompts = [WaitingPrompt(8.0, 10.0), WaitingPrompt(4.0, 11.0), WaitingPrompt(3.0, 11.0)]
    order = order_prompts(0.0, prompts)
    assert order == PromptOrder((1, 2, 0))
    assert order_prompts(3.0, prompts).hopeless == (0,)


def test_who_is_read_already_goes_first_and_is_never_refused():
    prompts = [WaitingPrompt(1.0, 5.0), WaitingPrompt(9.0, 0.0, is_owed=True)]
    order = order_prompts(3.0, prompts)
    assert order.line == (1, 0)
    assert order.hopeless == ()
    assert order_prompts(4.5, prompts).hopeless == (0,)


def test_nobody_is_named_twice_or_forgotten():
    rng = random.Random(1)
    for _ in range(200):
        prompts = [
            WaitingPrompt(rng.expovariate(0.5), rng.uniform(0, 12), is_owed=rng.random() < 0.1)
            for _ in range(rng.randrange(12))
        ]
        order = order_prompts(1.0, prompts)
        assert sorted((*order.line, *order.hopeless)) == list(range(len(prompts)))


@pytest.mark.parametrize("seed", range(30))
def test_no_other_order_serves_more(seed):
    rng = random.Random(seed)
    prompts = [WaitingPrompt(rng.uniform(0.2, 4.0), rng.uniform(0.5, 8.0)) for _ in range(6)]
    best = max(in_time(0.0, prompts, order) for order in itertools.permutations(range(6)))
    assert in_time(0.0, prompts, order_prompts(0.0, prompts).line) == best
