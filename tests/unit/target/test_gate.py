"""Drafting is closed at loads where it does not pay, and what it loses is bounded."""

import pytest

from treedraft.target.gate import DraftGate, FinishedStep
from treedraft.target.settings import GateSettings
from treedraft.target.step_costs import StepCosts

PLAIN_MS = 20.0


class Engine:
    """Takes steps that the gate sees, and counts the time."""

    def __init__(self, *, overhead_ms=0.0, **settings):
        costs = StepCosts()
        for rows in (1, 2, 4, 8, 16, 32):
            costs.observe(rows, PLAIN_MS)
        self.gate = DraftGate(GateSettings(**settings), costs)
        self.overhead_ms = overhead_ms
        self.elapsed_ms = self.num_tokens = 0.0

    def step(self, num_sessions, *, tokens, draft_ms):
        """Take a step; with drafts it emits so many tokens a session and takes longer."""
        is_open = self.gate.is_open(num_sessions)
        num_tokens = num_sessions * (tokens if is_open else 1)
        elapsed_ms = PLAIN_MS + self.overhead_ms + draft_ms * is_open
        self.gate.step_finished(
            FinishedStep(num_sessions, num_tokens, elapsed_ms, PLAIN_MS, is_open)
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
    opened = engine.steps(20_000, 8, tokens=1, draft_ms=10.0)
    assert opened[0]
    assert any(opened[100:])  # it is tried again
    plain_ms = engine.num_tokens / 8 * PLAIN_MS
    assert engine.elapsed_ms - plain_ms <= 9 * PLAIN_MS + 0.0101 * engine.elapsed_ms


def test_what_did_not_pay_is_found_out_when_it_does():
    engine = Engine()
    engine.steps(100, 4, tokens=1, draft_ms=10.0)
    assert not engine.gate.is_open(4)
    opened = engine.steps(1000, 4, tokens=3, draft_ms=10.0)
    assert all(opened[-100:])


def test_loads_are_judged_apart():
    engine = Engine()
    engine.steps(100, 8, tokens=1, draft_ms=20.0)
    assert not engine.gate.is_open(8)
    assert engine.gate.is_open(1)
    assert engine.gate.is_open(4)


def test_a_load_above_one_that_does_not_pay_is_not_tried_at_once():
    engine = Engine()
    engine.steps(100, 8, tokens=1, draft_ms=20.0)
    assert not engine.gate.is_open(16)
    engine.steps(100, 1, tokens=2, draft_ms=5.0)
    assert not engine.gate.is_open(32)
    opened = engine.steps(2000, 32, tokens=3, draft_ms=5.0)
    assert all(opened[-100:])


def test_success_does_not_pay_for_endless_failure():
    engine = Engine(max_gain_steps=24.0)
    engine.steps(5000, 1, tokens=3, draft_ms=5.0)
    opened = engine.steps(100, 1, tokens=1, draft_ms=10.0)
    assert sum(opened) <= 50


def test_one_hiccup_closes_nothing_that_pays():
    engine = Engine()
    engine.steps(100, 1, tokens=2, draft_ms=5.0)
    engine.step(1, tokens=1, draft_ms=100 * PLAIN_MS)
    assert engine.gate.is_open(1)


def test_what_a_plain_step_takes_beside_its_pass_is_not_held_against_drafts():
    engine = Engine(overhead_ms=10.0)
    for _ in range(20):  # plain steps are seen as such
        engine.gate.step_finished(FinishedStep(1, 1, PLAIN_MS + 10.0, PLAIN_MS, False))
    assert all(engine.steps(2000, 1, tokens=1.2, draft_ms=5.0))


def test_the_gate_can_be_turned_off():
    assert all(Engine(enabled=False).steps(200, 8, tokens=1, draft_ms=40.0))


@pytest.mark.parametrize("num_sessions", [1, 3, 64, 500])
def test_any_load_has_an_account(num_sessions):
    assert Engine().step(num_sessions, tokens=2, draft_ms=0.0)
