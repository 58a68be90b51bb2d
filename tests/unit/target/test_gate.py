"""Drafting is closed at loads where it does not pay, and what it loses is bounded."""

from itertools import pairwise
from types import SimpleNamespace

import pytest

from treedraft.target.finished_step import DraftedRound, FinishedStep
from treedraft.target.forecast import Forecast
from treedraft.target.gate import DraftGate
from treedraft.target.session_account import SessionAccount
from treedraft.target.settings import GateSettings
from treedraft.target.step_costs import StepCosts

PLAIN_MS = 20.0
NODES = 4


def session(*, num_tokens=100, tokens_left=1000):
    """Return as much of a session as the gate looks at."""
    return SimpleNamespace(
        spec=SimpleNamespace(prompt_length=100),
        draft_account=SessionAccount(),
        num_tokens=num_tokens,
        stop_checker=SimpleNamespace(tokens_left=tokens_left),
    )


class Engine:
    """Takes steps that the gate sees, and counts the time."""

    def __init__(self, *, overhead_ms=0.0, row_ms=0.0, travel_ms=0.0, takes_turns=True, **settings):
        costs = StepCosts()
        for rows in (1, 2, 4, 8, 16, 32, 64):
            costs.observe(rows, PLAIN_MS + row_ms * (rows - 1))
        self.costs = costs
        self.travel_ms = travel_ms
        self.gate = DraftGate(
            GateSettings(**settings),
            costs,
            Forecast(costs, takes_turns=takes_turns),
            travel_ms=lambda: self.travel_ms,
        )
        self.overhead_ms = overhead_ms
        self.elapsed_ms = self.num_tokens = 0.0

    def plain_ms(self, num_sessions):
        return self.costs.estimate(num_sessions, num_sessions) + self.overhead_ms

    def step(self, num_sessions, *, tokens, draft_ms, load=None, prompt_rows=0, missed=(0, 0.0)):
        """Take a step; with drafts it emits so many tokens a session and takes longer.

        It may hold rows of a prompt, and its drafter may compute tokens that it `missed` before.
        """
        load = num_sessions if load is None else load
        is_open = self.gate.is_open(load)
        num_tokens = num_sessions * (tokens if is_open else 1)
        num_missed, missed_ms = missed
        prompt_ms = self.costs.estimate(num_sessions + prompt_rows) - self.costs.estimate(
            num_sessions
        )
        pass_ms = self.plain_ms(num_sessions) - self.overhead_ms + prompt_ms
        elapsed_ms = pass_ms + self.overhead_ms + (draft_ms + missed_ms) * is_open
        drafted = [DraftedRound(session(), NODES, tokens - 1) for _ in range(num_sessions)]
        self.gate.step_finished(
            FinishedStep(
                load,
                num_sessions,
                num_tokens,
                elapsed_ms,
                pass_ms,
                drafted if is_open else [],
                num_prompt_rows=prompt_rows,
                num_passing=num_sessions + (prompt_rows > 0),
                num_missed=num_missed,
            )
        )
        self.elapsed_ms += elapsed_ms
        self.num_tokens += num_tokens
        return is_open

    def steps(self, count, num_sessions, **outcome):
        return [self.step(num_sessions, **outcome) for _ in range(count)]


def test_drafting_that_pays_stays_open():
    assert all(Engine().steps(2000, 1, tokens=2, draft_ms=10.0))


def test_drafting_that_never_pays_loses_its_deposit_and_the_allowance_and_no_more():
    engine = Engine(trial_steps=8.0, allowance=0.01)
    opened = engine.steps(20_000, 1, tokens=1, draft_ms=10.0)
    assert opened[0]
    assert any(opened[100:])  # it is tried again
    plain_ms = engine.num_tokens * PLAIN_MS
    assert engine.elapsed_ms - plain_ms <= 9 * PLAIN_MS + 0.0101 * engine.elapsed_ms


def test_a_trial_among_many_sessions_is_shorter():
    def lost_steps(num_sessions):
        engine = Engine()
        engine.steps(100, num_sessions, tokens=1, draft_ms=10.0)
        return (engine.elapsed_ms - engine.num_tokens / num_sessions * PLAIN_MS) / PLAIN_MS

    assert lost_steps(1) > 6.0
    assert lost_steps(16) <= 3.5


def test_what_did_not_pay_is_found_out_when_it_does():
    engine = Engine()
    engine.steps(100, 4, tokens=1, draft_ms=10.0)
    assert not engine.gate.is_open(4)
    opened = engine.steps(3000, 4, tokens=3, draft_ms=1.0)
    assert all(opened[-100:])


def test_one_text_that_nobody_foresees_does_not_close_a_single_stream_for_long():
    engine = Engine()
    engine.steps(20, 1, tokens=1, draft_ms=12.0)
    assert not engine.gate.is_open(1)
    opened = engine.steps(200, 1, tokens=3, draft_ms=12.0)
    assert opened.index(True) < 60
    assert all(opened[60:])


def test_trials_that_go_on_to_fail_become_rare():
    engine = Engine(forecast=False)
    opened = engine.steps(4000, 1, tokens=2, draft_ms=30.0)
    trials = [step for step in range(1, 4000) if opened[step] and not opened[step - 1]]
    pauses = [later - earlier for earlier, later in pairwise([0, *trials])]
    assert pauses[0] < 80
    assert pauses[1] > 1.5 * pauses[0]
    assert min(pauses[4:]) > 300


def test_loads_are_judged_apart():
    engine = Engine()
    engine.steps(100, 8, tokens=1, draft_ms=20.0)
    assert not engine.gate.is_open(8)
    engine.steps(50, 1, tokens=2, draft_ms=1.0)
    assert engine.gate.is_open(1)
    assert engine.gate.is_open(4)
    assert not engine.gate.is_open(8)


def test_a_step_is_booked_under_the_load_that_it_was_begun_for():
    engine = Engine()
    # Eight sessions are there, but four of them wait for their logs.
    engine.steps(100, 4, tokens=1, draft_ms=20.0, load=8)
    assert not engine.gate.is_open(8)
    engine.steps(50, 1, tokens=2, draft_ms=1.0)
    assert engine.gate.is_open(4)


def test_a_load_above_one_that_does_not_pay_is_not_tried_at_once():
    engine = Engine()
    engine.steps(100, 8, tokens=1, draft_ms=20.0)
    assert not engine.gate.is_open(16)
    engine.steps(100, 1, tokens=2, draft_ms=5.0)
    assert not engine.gate.is_open(32)
    opened = engine.steps(5000, 32, tokens=3, draft_ms=5.0)
    assert all(opened[-100:])


def test_where_rows_cost_what_they_bring_drafting_is_not_even_tried():
    engine = Engine(row_ms=1.5)
    assert engine.gate.is_open(1)
    # A session's token is worth 2.7 ms of a step, a node half a token and 1.5 ms.
    assert not any(engine.steps(300, 16, tokens=1, draft_ms=20.0))
    assert engine.gate.is_open(1)


def test_a_forecast_that_is_wrong_is_found_out():
    engine = Engine(row_ms=1.5)
    opened = engine.steps(4000, 16, tokens=3, draft_ms=1.0)
    assert not opened[0]
    assert all(opened[-100:])


def test_success_does_not_pay_for_endless_failure():
    engine = Engine(max_gain_steps=24.0)
    engine.steps(5000, 1, tokens=3, draft_ms=5.0)
    opened = engine.steps(100, 1, tokens=1, draft_ms=10.0)
    assert sum(opened) <= 52


def test_one_hiccup_closes_nothing_that_pays():
    engine = Engine()
    engine.steps(100, 1, tokens=2, draft_ms=5.0)
    engine.step(1, tokens=1, draft_ms=100 * PLAIN_MS)
    assert engine.gate.is_open(1)


def test_what_a_plain_step_takes_beside_its_pass_is_not_held_against_drafts():
    engine = Engine(overhead_ms=10.0)
    for _ in range(20):  # plain steps are seen as such
        engine.gate.step_finished(FinishedStep(1, 1, 1, PLAIN_MS + 10.0, PLAIN_MS))
    assert all(engine.steps(2000, 1, tokens=1.2, draft_ms=5.0))


def test_the_gate_can_be_turned_off():
    engine = Engine(enabled=False)
    assert all(engine.steps(200, 8, tokens=1, draft_ms=40.0))
    closed = session(tokens_left=1)
    closed.draft_account.resumes_at = 1000
    assert engine.gate.wants(closed, 500)


@pytest.mark.parametrize("num_sessions", [1, 3, 64, 500])
def test_any_load_has_an_account(num_sessions):
    assert Engine().step(num_sessions, tokens=2, draft_ms=0.0) in (True, False)


def test_a_session_that_is_not_foreseen_is_left_alone_while_others_go_on():
    gate = Engine().gate
    good, poor = session(), session()
    for _ in range(40):
        drafted = [DraftedRound(good, NODES, 2), DraftedRound(poor, NODES, 0)]
        gate.step_finished(FinishedStep(2, 2, 4, 1.6 * PLAIN_MS, 1.3 * PLAIN_MS, drafted))
    assert gate.is_open(2)
    assert gate.wants(good, 0)
    assert not gate.wants(poor, 0)


def test_the_end_of_a_text_is_not_worth_what_a_drafter_would_have_to_catch_up_with():
    gate = Engine().gate
    assert gate.is_open(1)
    assert gate.wants(session(tokens_left=1000), 4000)
    assert not gate.wants(session(tokens_left=20), 4000)
    assert gate.wants(session(tokens_left=2), 0)


def test_under_load_all_sessions_bear_what_a_drafter_catches_up_with():
    engine = Engine(row_ms=0.2)
    for _ in range(20):  # drafts pay at either load
        engine.step(1, tokens=2.5, draft_ms=0.0)
        engine.step(16, tokens=2.5, draft_ms=0.0)
    short = session(tokens_left=40)
    assert engine.gate.is_open(1)
    assert engine.gate.wants(short, 300)
    assert engine.gate.is_open(16)
    assert not engine.gate.wants(short, 300)
    assert engine.gate.wants(short, 20)


def test_steps_that_carry_prompts_are_in_the_books():
    engine = Engine()
    # A prompt comes with every step: all that drafts cost falls on such steps.
    opened = engine.steps(200, 4, tokens=1, draft_ms=10.0, prompt_rows=16)
    assert opened[0]
    assert not any(opened[20:])


def test_what_a_prompt_takes_is_not_held_against_drafts():
    engine = Engine(row_ms=1.5)
    assert all(engine.steps(200, 1, tokens=2, draft_ms=5.0, prompt_rows=60))


def test_a_step_of_prompts_alone_says_nothing():
    engine = Engine()
    before = engine.gate.is_open(1)
    engine.gate.step_finished(FinishedStep(1, 0, 0, 500.0, 480.0, num_prompt_rows=256))
    assert engine.gate.is_open(1) is before


def test_texts_that_drafters_catch_up_with_do_not_close_a_load_that_pays():
    engine = Engine()
    for _ in range(20):  # eight long texts begin at once, and at first nothing comes of it
        took_ms = 4000 * engine.gate.forecast.missed_token_ms
        assert engine.step(8, tokens=1, draft_ms=0.0, missed=(4000, took_ms))
        assert all(engine.steps(10, 8, tokens=2, draft_ms=5.0))


def test_catching_up_that_takes_longer_than_it_should_is_in_the_books():
    engine = Engine()
    opened = [
        engine.step(8, tokens=1, draft_ms=0.0, missed=(40, 3.0 * PLAIN_MS)) for _ in range(10)
    ]
    assert opened[0]
    assert not opened[-1]


def test_a_link_of_two_passes_begins_closed_and_trials_over_it_cost_less_than_a_hundredth():
    engine = Engine(travel_ms=2.0 * PLAIN_MS, row_ms=0.4)
    opened = engine.steps(10_000, 1, tokens=1, draft_ms=3.0 * PLAIN_MS)
    assert not any(opened[:1000])
    assert any(opened)  # the forecast is doubted
    lost_ms = engine.elapsed_ms - engine.num_tokens * PLAIN_MS
    assert lost_ms < 0.01 * engine.elapsed_ms


def test_a_link_that_becomes_short_is_drafted_over():
    engine = Engine(travel_ms=2.5 * PLAIN_MS)
    assert not any(engine.steps(200, 1, tokens=1, draft_ms=50.0))
    engine.travel_ms = 1.0
    assert all(engine.steps(200, 1, tokens=2, draft_ms=5.0)[40:])


def test_a_trial_over_a_long_way_is_shorter():
    def lost_steps(travel_ms):
        engine = Engine(travel_ms=travel_ms, takes_turns=False)
        engine.steps(100, 1, tokens=1, draft_ms=10.0)
        return (engine.elapsed_ms - engine.num_tokens * PLAIN_MS) / PLAIN_MS

    assert lost_steps(0.0) > 6.0
    assert 0.0 < lost_steps(2.0 * PLAIN_MS) < 4.0


@pytest.mark.parametrize("takes_turns", [True, False])
def test_a_text_is_caught_up_with_once_no_prompt_waits(takes_turns):
    gate, has_prompts = Engine(takes_turns=takes_turns).gate, True
    gate.has_prompts = lambda: has_prompts
    assert gate.is_open(8)
    new, old = session(num_tokens=101), session(num_tokens=116)
    assert gate.wants(new, 101) is not takes_turns
    assert gate.wants(new, 0) is not takes_turns  # the first of a burst came alone
    assert gate.wants(old, 116)  # there is always another prompt
    has_prompts = False
    assert gate.is_open(8)
    assert gate.wants(new, 101)
