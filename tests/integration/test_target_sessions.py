"""How sessions of a target end, and what they leave behind."""

import time
from dataclasses import replace

import pytest
import torch
from tests.engine_harness import EngineHarness, spec
from tests.integration.toy_targets import LAWS, drafter_for, plain, prompt, target_settings

from treedraft.coordinator.failures import error_of
from treedraft.core.errors import OverloadedError
from treedraft.core.exchange import LogAcknowledgement
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.session import FinishReason
from treedraft.target.events import AcknowledgeLog, StartSession
from treedraft.telemetry import names


def test_a_session_whose_log_is_behind_pauses_and_does_not_spin(llama, monkeypatch):
    one = spec(prompt(6, llama), max_tokens=30)
    with EngineHarness(llama, target_settings(max_unlogged_tokens=4)) as harness:
        plans = []
        scheduler = harness.engine._scheduler
        plan = scheduler.plan
        monkeypatch.setattr(scheduler, "plan", lambda: plans.append(1) or plan())
        harness.acknowledges = False
        harness.start(one)
        harness.pump(lambda: len(harness.results["s"].token_ids) == 5)
        before = len(plans)
        time.sleep(0.3)
        assert len(harness.results["s"].token_ids) == 5
        assert len(plans) - before < 40, "the engine spins while there is nothing to do"
        harness.acknowledges = True
        harness.engine.post(AcknowledgeLog([LogAcknowledgement("s", len(one.token_ids) + 5)]))
        harness.pump(lambda: harness.results["s"].is_over)
    assert len(harness.results["s"].token_ids) == 30


def test_cancelling_frees_all_pages(llama):
    one = spec(prompt(7, llama), max_tokens=2000, session_id="long")
    with EngineHarness(llama, target_settings()) as harness:
        harness.start(one)
        harness.pump(lambda: len(harness.results["long"].token_ids) > 3)
        harness.cancel("long")
        harness.pump(lambda: harness.results["long"].is_over)
        assert harness.results["long"].finish.reason is FinishReason.CANCELLED
        assert harness.pool.num_free == harness.pool.num_blocks


def test_a_deadline_ends_a_session_and_no_other(llama):
    hurried = spec(prompt(8, llama), max_tokens=2000, session_id="a", time_limit_seconds=0.2)
    patient = spec(prompt(8, llama), max_tokens=10, session_id="b")
    with EngineHarness(llama, target_settings()) as harness:
        first, second = harness.run(hurried, patient)
    assert first.finish.reason is FinishReason.CANCELLED
    assert len(second.token_ids) == 10


def due_and_missed(harness):
    value = harness.metrics.registry.get_sample_value
    labels = {"role": "target"}
    return tuple(
        value(name, labels)
        for name in (names.METRIC_FIRST_TOKENS_DUE, names.METRIC_FIRST_TOKENS_MISSED)
    )


def test_a_first_token_that_cannot_be_in_time_is_refused_and_one_that_moved_here_is_not(llama):
    settings = target_settings(first_token={"seconds": 1e-9, "prompt_factor": 0.0})
    words = prompt(8, llama)
    late = spec(words, max_tokens=10, session_id="late")
    moved = spec([*words, 5], prompt_length=len(words), max_tokens=10, session_id="moved")
    with EngineHarness(llama, settings) as harness:
        refused, served = harness.run(late, moved)
        assert harness.pool.num_free == harness.pool.num_blocks
    assert refused.failure.reason == "FIRST_TOKEN_LATE"
    assert not refused.token_ids
    assert isinstance(error_of(refused.failure), OverloadedError)
    assert len(served.token_ids) == 9
    # The one that moved had its first token elsewhere: it is due to nobody here.
    assert due_and_missed(harness) == (1, 1)


def test_first_tokens_are_counted_as_due_only_where_a_limit_says_so(llama):
    one = spec(prompt(8, llama), max_tokens=5)
    with EngineHarness(llama, target_settings(first_token={"seconds": 600.0})) as harness:
        harness.run(one)
        assert due_and_missed(harness) == (1, 0)
    with EngineHarness(llama, target_settings()) as harness:
        harness.run(one)
        assert due_and_missed(harness) == (0, 0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (spec([]), "EMPTY_PROMPT"),
        (spec([1, 2, 10**6]), "TOKEN_OUT_OF_RANGE"),
        (spec([1] * 9000), "PROMPT_TOO_LONG"),
        (spec([1, 2], sampling=SamplingParameters()), "INVALID_REQUEST"),
        (
            spec([1, 2], sampling=SamplingParameters(seed=1, logit_bias=((10**6, 1.0),))),
            "TOKEN_OUT_OF_RANGE",
        ),
    ],
)
def test_bad_input_fails_its_session_alone(llama, bad, reason):
    good = spec(prompt(9, llama), session_id="good", max_tokens=5)
    with EngineHarness(llama, target_settings()) as harness:
        failed, fine = harness.run(replace(bad, session_id="bad"), good)
        assert failed.failure.reason == reason
        assert len(fine.token_ids) == 5
        assert harness.pool.num_free == harness.pool.num_blocks


def test_an_older_owner_loses_against_a_newer_one(llama):
    tokens = prompt(10, llama)
    with EngineHarness(llama, target_settings()) as harness:
        harness.start(spec(tokens, max_tokens=500, epoch=5))
        harness.pump(lambda: len(harness.results["s"].token_ids) > 2)
        [late] = harness.run(spec(tokens, max_tokens=5, epoch=4))
    assert late.failure.reason == "SESSION_CONFLICT"


def test_an_owner_whose_session_a_newer_one_starts_is_told_so(llama):
    tokens = prompt(10, llama)
    with EngineHarness(llama, target_settings()) as harness:
        harness.start(spec(tokens, max_tokens=500, epoch=4))
        harness.pump(lambda: len(harness.results["s"].token_ids) > 2)
        older = harness.results["s"]
        harness.engine.post(StartSession(2, spec(tokens, max_tokens=5, epoch=5)))
        harness.pump(lambda: older.is_over)
    assert older.finish is None  # cut off is not finished
    assert older.failure.reason == "SESSION_CONFLICT"


@pytest.mark.parametrize("speculate", [False, True])
def test_stop_tokens_and_limits_end_the_walk(llama, speculate):
    one = spec(prompt(11, llama), max_tokens=30)
    texts = plain(llama, one)
    stop_at = texts["s"][12]
    first = texts["s"].index(stop_at)
    stopping = StoppingCriteria(max_tokens=30, ignore_eos=True, stop_token_ids=frozenset({stop_at}))
    drafter = drafter_for(llama, [one], texts, accuracy=1.0) if speculate else None
    with EngineHarness(llama, target_settings(), drafter) as harness:
        [result] = harness.run(replace(one, stopping=stopping))
    assert result.token_ids == texts["s"][: first + 1]
    assert result.finish.reason is FinishReason.STOP


def test_a_forward_that_fails_ends_its_sessions_and_frees_their_pages(llama, monkeypatch):
    with EngineHarness(llama, target_settings()) as harness:
        runner = harness.engine._runner._runner
        forward = runner.forward

        def broken(segments):
            monkeypatch.setattr(runner, "forward", forward)
            raise RuntimeError("the device fell off the bus")

        monkeypatch.setattr(runner, "forward", broken)
        [failed] = harness.run(spec(prompt(12, llama), session_id="bad"))
        [fine] = harness.run(spec(prompt(12, llama), session_id="good", max_tokens=4))
        assert failed.failure.reason == "PASS_FAILED"
        assert len(fine.token_ids) == 4
        assert harness.pool.num_free == harness.pool.num_blocks


def test_the_reference_is_deterministic(llama):
    torch.manual_seed(0)
    one = spec(prompt(13, llama), sampling=LAWS["plain"], max_tokens=20)
    assert plain(llama, one) == plain(llama, one)
