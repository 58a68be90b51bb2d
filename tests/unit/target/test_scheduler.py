"""Who takes part in a pass: decoding goes on while prompts come, and nobody is passed over."""

import pytest
from tests.engine_harness import spec

from treedraft.inference.block_pool import BlockPool, slots_of
from treedraft.settings import TelemetrySettings
from treedraft.target.budget import Budget, SurvivalCalibrator
from treedraft.target.prompt_line import FirstTokenLimit, PromptLine
from treedraft.target.scheduler import Scheduler, SchedulerLimits
from treedraft.target.session import TargetSession
from treedraft.target.step_costs import StepCosts
from treedraft.target.stopping import StopChecker
from treedraft.telemetry.tracing import Tracing

FIXED_MS, ROW_MS = 20.0, 2.0
TRACING = Tracing("target", TelemetrySettings(sample_ratio=0.0))


def pass_ms(num_rows):
    return FIXED_MS + ROW_MS * num_rows


def make_scheduler(*, num_tokens=16_384, **limits):
    costs = StepCosts()
    for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        costs.observe(rows, pass_ms(rows))
    known = {
        "max_sessions": 64,
        "max_waiting": 64,
        "prefill_chunk": 256,
        "max_stall_steps": 2.0,
        "max_nodes": 0,
        "max_depth": 0,
        "max_unlogged_tokens": 10_000,
    }
    return Scheduler(
        BlockPool(num_tokens // 16, 16),
        Budget(costs, SurvivalCalibrator(), max_step_nodes=0),
        SchedulerLimits(**{**known, **limits}),
        fingerprint="f",
        on_preempted=lambda: None,
    )


def make_session(name, num_tokens):
    session = spec([hash(name) % 500 + 1, *range(1, num_tokens)], session_id=name, max_tokens=9999)
    checker = StopChecker(
        session.stopping, eos_token_ids=frozenset(), max_output_tokens=9999, tokenizer=None
    )
    return TargetSession(
        session,
        stop_checker=checker,
        fingerprint="f",
        span=TRACING.start("session", ""),
        now_ns=0,
        max_live_nodes=8,
        vocab_size=10_000,
    )


def run(passes):
    """Do to the sessions what a pass does; return how many rows it had."""
    for one in passes:
        one.session.num_computed += one.num_new
        if one.reaches_end:
            one.session.commit((7,))
    return sum(one.num_new for one in passes)


@pytest.fixture
def decoding():
    """A scheduler with three sessions that decode."""
    scheduler = make_scheduler()
    sessions = [make_session(f"d{i}", 10) for i in range(3)]
    for session in sessions:
        scheduler.add(session)
    while any(session.num_pending != 1 for session in sessions):
        run(scheduler.plan())
    return scheduler, sessions


def test_a_long_prompt_stalls_nobody_by_more_than_two_steps(decoding):
    scheduler, sessions = decoding
    newcomer = make_session("long", 4000)
    scheduler.add(newcomer)
    num_passes = 0
    while newcomer.num_tokens == 4000:
        before = [session.num_tokens for session in sessions]
        num_rows = run(scheduler.plan())
        # Everyone gets a token from each pass, and none takes three steps' time.
        assert [session.num_tokens for session in sessions] == [n + 1 for n in before]
        assert pass_ms(num_rows) <= 3.0 * pass_ms(len(sessions))
        num_passes += 1
    assert num_passes < 4000 / 16  # and it gets on


def test_who_decodes_is_known_beside_a_prompt_too(decoding):
    scheduler, sessions = decoding
    assert scheduler.decoding() == sessions
    scheduler.add(make_session("long", 4000))
    assert scheduler.decoding() == []
    assert scheduler.decoding(beside_prompts=True) == sessions


def test_a_prompt_alone_takes_whole_chunks():
    scheduler = make_scheduler()
    scheduler.add(make_session("long", 4000))
    assert run(scheduler.plan()) == 256


def test_a_prompt_gets_on_where_every_row_is_too_dear():
    scheduler = make_scheduler(max_stall_steps=0.001)
    first, second = make_session("a", 10), make_session("b", 400)
    scheduler.add(first)
    run(scheduler.plan())
    scheduler.add(second)
    for _ in range(400 // 8):
        run(scheduler.plan())
    assert second.num_tokens > 400


def test_sessions_get_as_many_tokens_as_each_other():
    scheduler = make_scheduler()
    sessions = [make_session(f"s{i}", 20 + 7 * i) for i in range(24)]
    for session in sessions:
        scheduler.add(session)
    while any(session.num_pending != 1 for session in sessions):
        run(scheduler.plan())
    before = [session.num_tokens for session in sessions]
    for _ in range(50):
        run(scheduler.plan())
    assert [session.num_tokens for session in sessions] == [n + 50 for n in before]


def test_the_first_to_come_is_never_put_back_for_a_later_one():
    scheduler = make_scheduler(num_tokens=320)
    sessions = [make_session(f"s{i}", 60) for i in range(5)]
    for session in sessions:
        scheduler.add(session)
    while sessions[0].num_tokens < 200:
        run(scheduler.plan())
    assert sessions[0].counts.preemptions == 0
    assert sum(session.counts.preemptions for session in sessions) > 0
    scheduler.remove(sessions[0])
    start = sessions[1].num_tokens
    run(scheduler.plan())
    run(scheduler.plan())
    assert sessions[1].num_tokens > start


def names(sessions):
    return [one.session_id for one in sessions]


def make_line(limit, now_ns=0):
    costs = StepCosts()
    for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        costs.observe(rows, pass_ms(rows))
    budget = Budget(costs, SurvivalCalibrator(), max_step_nodes=0)
    return PromptLine(limit, budget, lambda num_decoding: 256, now_ns=lambda: now_ns)


def test_without_a_limit_prompts_are_computed_as_they_came():
    line = make_line(FirstTokenLimit())
    sessions = [make_session("long", 2000), make_session("short", 20)]
    first, late = line.order(sessions, 0)
    assert (names(first), late) == (["long", "short"], [])


def test_a_session_that_comes_with_tokens_of_its_own_is_computed_first():
    moved = make_session("moved", 30)
    moved.commit((7,))
    first, _ = make_line(FirstTokenLimit()).order([make_session("new", 30), moved], 0)
    assert names(first) == ["moved", "new"]


def test_under_overload_the_longest_prompt_stands_back_and_is_refused_when_it_is_too_late():
    # A pass of 256 rows takes 532 ms, so 2,560 tokens take 5.3 s and 512 take 1.1 s.
    limit = FirstTokenLimit(seconds=6.0, prompt_factor=1.0)
    sessions = [make_session("long", 2560), make_session("a", 512), make_session("b", 512)]
    first, late = make_line(limit).order(sessions, 0)
    assert (names(first), late) == (["a", "b", "long"], [])
    first, late = make_line(limit, now_ns=int(1e9)).order(sessions, 0)
    assert (names(first), names(late)) == (["a", "b"], ["long"])


def test_a_long_prompt_has_the_longer_time_that_it_takes_anyway():
    sessions = [make_session("long", 2560)]
    late = [
        make_line(FirstTokenLimit(1.0, factor), now_ns=int(2e9)).order(sessions, 0)[1]
        for factor in (1.0, 3.0)
    ]
    assert [names(one) for one in late] == [["long"], []]


def test_pages_of_prompts_are_reported_until_they_are_computed():
    scheduler = make_scheduler()
    sessions = [make_session("a", 512), make_session("b", 512)]
    for session in sessions:
        scheduler.add(session)
    assert scheduler.num_pending_pages == 64
    run(scheduler.plan())
    assert scheduler.num_pending_pages == 48
    while any(session.num_pending != 1 for session in sessions):
        run(scheduler.plan())
    assert scheduler.num_pending_pages == 0


def test_what_waits_for_pages_is_hopeless_too_and_leaves():
    scheduler = make_scheduler(max_sessions=1, first_token=FirstTokenLimit(1e-9, 0.0))
    running, waiting = make_session("a", 64), make_session("b", 64)
    running.commit((7,))
    for session in (running, waiting):
        scheduler.add(session)
    scheduler.plan()
    assert names(scheduler.hopeless()) == ["b"]
    scheduler.remove(waiting)
    assert scheduler.num_waiting == 0


def test_the_slots_that_a_session_keeps_are_those_of_its_pages():
    scheduler = make_scheduler(num_tokens=160)
    session = make_session("s", 30)
    scheduler.add(session)
    for _ in range(40):  # over several pages
        run(scheduler.plan())
        length = session.num_computed
        assert list(session.slots(16, length)) == list(slots_of(session.blocks, 16, 0, length))
    pages = session.drop_kv()
    assert len(session.slots(16, 0)) == 0
    session.blocks = pages[::-1]  # as many as before, and others
    assert list(session.slots(16, 20)) == list(slots_of(session.blocks, 16, 0, 20))
