"""One simulated target."""

import math

import pytest

from treedraft.simulation.run import Objective
from treedraft.simulation.service_times import ServiceTimes
from treedraft.simulation.strategies import policy_for
from treedraft.simulation.target_queue import ChunkRule, Request, RoundTable, TargetQueue

# A pass takes 10 ms and 1 ms a row; trees of one node make 1.5 tokens.
TIMES = ServiceTimes(
    source="made up",
    rows=(1.0, 1001.0),
    pass_seconds=(0.011, 1.011),
    budgets=(0, 1),
    tokens_per_round=(1.0, 1.5),
    draft_step_seconds=(0.001, 0.0001),
)
CHUNK_TOKENS = 64
# Always a whole chunk, however long others wait for it.
TABLE = RoundTable(TIMES, ChunkRule(CHUNK_TOKENS, max_stall_steps=1e6))
CHUNK_SECONDS = 0.010 + CHUNK_TOKENS / 1000.0


def a_queue():
    return TargetQueue(TABLE, 0.0)


def run(queue):
    """Settle every event; return the requests that ended, with their times."""
    ended = []
    while (when := queue.next_event()) < math.inf:
        ended += queue.settle(when)
    return ended


def test_a_request_alone_takes_its_chunks_and_its_rounds():
    queue = a_queue()
    queue.add(Request(1, 0.0, prompt=2 * CHUNK_TOKENS, output=11), 0.0)
    [request] = run(queue)
    assert request.first_token == pytest.approx(2 * CHUNK_SECONDS)
    assert request.finished - request.first_token == pytest.approx(10 * 0.011)
    assert queue.num_sessions == 0
    assert queue.kv_tokens == 0


def test_drafts_speed_up_what_is_decoded_alone():
    queue = a_queue()
    queue.cover(1.0)
    queue.add(Request(1, 0.0, prompt=CHUNK_TOKENS, output=16), 0.0)
    [request] = run(queue)
    assert request.finished - request.first_token == pytest.approx(15 / 1.5 * 0.012)


def test_prompts_wait_for_each_other_in_line():
    queue = a_queue()
    for number in (1, 2):
        queue.add(Request(number, 0.0, prompt=CHUNK_TOKENS, output=1), 0.0)
    first, second = sorted(run(queue), key=lambda request: request.number)
    assert first.first_token == pytest.approx(CHUNK_SECONDS)
    assert second.first_token == pytest.approx(2 * CHUNK_SECONDS, rel=0.2)


def test_decoding_slows_down_beside_a_prompt():
    def duration(*, with_prompt):
        queue = a_queue()
        queue.add(Request(1, 0.0, prompt=CHUNK_TOKENS, output=50), 0.0)
        queue.settle(queue.next_event())
        if with_prompt:
            queue.add(Request(2, 0.0, prompt=100 * CHUNK_TOKENS, output=1), queue.now)
        return next(request for request in run(queue) if request.number == 1).finished

    assert duration(with_prompt=True) > 3 * duration(with_prompt=False)


def test_the_earliest_due_prompt_is_computed_first_and_what_cannot_be_in_time_is_dropped():
    queue = a_queue()
    queue.add(Request(1, 0.0, prompt=10 * CHUNK_TOKENS, output=1), 0.0)
    queue.add(Request(2, 0.0, prompt=CHUNK_TOKENS, output=1, latest=5 * CHUNK_SECONDS), 0.0)
    queue.add(Request(3, 0.0, prompt=9 * CHUNK_TOKENS, output=1, latest=5 * CHUNK_SECONDS), 0.0)
    assert [request.number for request in run(queue)] == [2, 1]
    assert queue.num_expired == 1


def test_prompts_wait_while_all_places_are_taken():
    queue = TargetQueue(TABLE, 0.0, max_sessions=1)
    queue.add(Request(1, 0.0, prompt=CHUNK_TOKENS, output=11), 0.0)
    queue.add(Request(2, 0.0, prompt=CHUNK_TOKENS, output=1), 0.0)
    first, second = run(queue)
    assert (first.number, second.number) == (1, 2)
    assert second.first_token == pytest.approx(first.finished + CHUNK_SECONDS)


def test_a_dying_target_gives_up_what_it_holds_with_what_was_said():
    queue = a_queue()
    queue.add(Request(1, 0.0, prompt=CHUNK_TOKENS, output=101), 0.0)
    queue.settle(queue.next_event())
    queue.advance(queue.now + 50 * 0.011)
    [moved] = queue.empty()
    assert moved.prompt == pytest.approx(CHUNK_TOKENS + 50)
    assert moved.output == pytest.approx(51)
    assert queue.num_sessions == 0


def test_a_pass_carries_as_much_of_prompts_as_the_targets_settings_let_it():
    rule = ChunkRule(prefill_chunk=100, max_stall_steps=2.0)
    assert rule.rows(TIMES, 0) == 100
    assert rule.rows(TIMES, 5) == 30  # 3 times 15 ms, of which 10 ms are no row's, less 5 rows
    assert rule.rows(TIMES, 90) == 100
    assert ChunkRule(100, max_stall_steps=0.1).rows(TIMES, 5) == 8  # a prompt must get on


def test_rows_and_times_of_passes_are_each_others_inverse():
    for rows in (1.0, 7.5, 1001.0, 2000.0):
        assert TIMES.rows_within(TIMES.pass_of(rows)) == pytest.approx(rows)


def test_nodes_that_hold_up_prompts_do_not_pay():
    assert TIMES.best_round(1).nodes == 1
    dear = ServiceTimes("x", (1.0, 2.0), (0.011, 0.021), (0, 1), (1.0, 1.5), (0.001, 0.0001))
    assert dear.best_round(1, CHUNK_TOKENS).nodes == 0


def test_a_tree_pass_costs_what_it_does_on_the_measured_machine():
    assert TIMES.best_round(4).nodes == 1
    few = [(0.010 + 0.001 * 2 * n) / (0.010 + 0.001 * n) for n in (1, 2, 4)]
    assert TIMES.verification_cost == pytest.approx(sum(few) / 3)
    assert policy_for(Objective(), TIMES).draft.verification_cost == TIMES.verification_cost
