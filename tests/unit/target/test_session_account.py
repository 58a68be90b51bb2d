"""Drafting for one session: closed when it costs more than it brings, and tried again."""

import pytest

from treedraft.target.session_account import SessionAccount, is_worth_catching_up


def run(account, count, *, change, start=100):
    """Enter a change for each token at which the account is open; return which were."""
    opened = []
    for num_tokens in range(start, start + count):
        opened.append(account.is_open(num_tokens))
        if opened[-1]:
            account.enter(change, num_tokens, trial_tokens=5.0)
    return opened


def test_what_pays_is_never_left_alone():
    assert all(run(SessionAccount(), 500, change=0.1))


def test_what_never_pays_costs_ever_less():
    opened = run(SessionAccount(), 2000, change=-0.5)
    assert opened[0]
    assert not all(opened[:64])
    assert any(opened[100:1000])  # it is tried again
    assert 0.5 * sum(opened) <= 5.5 + 2.5 * 6
    assert sum(opened[:64]) <= 20


def test_a_text_that_becomes_predictable_is_drafted_for_again():
    account = SessionAccount()
    run(account, 200, change=-0.5)
    assert all(run(account, 400, change=1.0, start=300)[-200:])


def test_success_is_forgotten_after_some_steps():
    account = SessionAccount()
    run(account, 1000, change=2.0)
    assert not all(run(account, 40, change=-0.5, start=1100))


def test_one_hiccup_closes_nothing():
    account = SessionAccount()
    account.enter(-100.0, 100, trial_tokens=5.0)
    assert account.is_open(101)


@pytest.mark.parametrize(
    ("num_missed", "tokens_left", "is_worth"),
    [(0, 1, True), (50, 64, True), (100, 4, False), (4000, 1000, True), (4000, 100, False)],
)
def test_the_rest_of_a_text_has_to_pay_for_what_was_missed(num_missed, tokens_left, is_worth):
    assert is_worth_catching_up(num_missed, tokens_left, gain=0.3, cost=0.01) is is_worth
