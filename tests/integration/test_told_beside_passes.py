"""Where a pass runs on a device, a step is booked and told of while the next one runs.

Nobody may see that: what comes of a session, and in which order, is the same.
"""

import pytest
from tests.engine_harness import EngineHarness, spec
from tests.integration.toy_targets import drafter_for, plain, prompt, target_settings

from treedraft.core.session import FinishReason
from treedraft.target.settings import PatienceSettings
from treedraft.target.step import PassRunner


@pytest.fixture(autouse=True)
def passes_run_on_a_device(monkeypatch):
    monkeypatch.setattr(PassRunner, "waits_for_device", True)


def test_each_round_is_counted_and_told_once(llama):
    specs = [spec(prompt(n, llama), session_id=f"s{n}", max_tokens=20 + n) for n in (3, 5, 8)]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts)
    with EngineHarness(llama, target_settings(), drafter) as harness:
        results = harness.run(*specs)
    for one, result in zip(specs, results, strict=True):
        assert result.token_ids == texts[one.session_id]
        assert result.finish.statistics.emitted_tokens == len(result.token_ids)
        lengths = result.finish.statistics.accepted_lengths
        assert sum(lengths) == result.finish.statistics.rounds


def test_the_last_round_is_told_before_the_end_of_a_cancelled_session(llama):
    one = spec(prompt(7, llama), max_tokens=200)
    with EngineHarness(llama, target_settings()) as harness:
        harness.start(one)
        harness.pump(lambda: len(harness.results["s"].token_ids) > 3)
        harness.cancel("s")
        harness.pump(lambda: harness.results["s"].is_over)
        assert harness.pool.num_free == harness.pool.num_blocks
    result = harness.results["s"]
    assert result.finish.reason is FinishReason.CANCELLED
    assert result.finish.statistics.emitted_tokens == len(result.token_ids)
    assert result.token_ids == plain(llama, one)["s"][: len(result.token_ids)]


def test_a_step_that_no_other_follows_is_told_all_the_same(llama):
    one = spec(prompt(6, llama), max_tokens=30)
    with EngineHarness(llama, target_settings(max_unlogged_tokens=4)) as harness:
        harness.acknowledges = False
        harness.start(one)
        harness.pump(lambda: len(harness.results["s"].token_ids) == 5)


def test_a_pass_that_fails_takes_nothing_from_the_step_before(llama, monkeypatch):
    one = spec(prompt(6, llama), max_tokens=30)
    with EngineHarness(llama, target_settings()) as harness:
        runner = harness.engine._runner._runner
        forward, calls = runner.forward, []

        def fails_at_the_fifth(segments):
            calls.append(1)
            if len(calls) == 5:
                raise RuntimeError("the device is gone")
            return forward(segments)

        monkeypatch.setattr(runner, "forward", fails_at_the_fifth)
        harness.start(one)
        harness.pump(lambda: harness.results["s"].is_over)
    result = harness.results["s"]
    assert result.failure.reason == "PASS_FAILED"
    assert result.token_ids == plain(llama, one)["s"][:4]


def breaks_once(monkeypatch, *, at_call):
    """Let what is measured of one pass raise, as nothing known does."""
    measure, calls = PassRunner.measure, []

    def breaks(runner, ran):
        calls.append(ran)
        if len(calls) == at_call:
            raise RuntimeError("cannot be booked")
        return measure(runner, ran)

    monkeypatch.setattr(PassRunner, "measure", breaks)
    return calls


@pytest.mark.parametrize("waits_for_device", [True, False])
def test_a_step_that_cannot_be_booked_ends_its_sessions_and_no_others(
    llama, monkeypatch, waits_for_device
):
    monkeypatch.setattr(PassRunner, "waits_for_device", waits_for_device)
    first, second = (spec(prompt(6, llama), session_id=name, max_tokens=30) for name in "ab")
    with EngineHarness(llama, target_settings()) as harness:
        breaks_once(monkeypatch, at_call=5)
        harness.start(first)
        harness.pump(lambda: harness.results["a"].is_over)
        (later,) = harness.run(second)
        assert harness.pool.num_free == harness.pool.num_blocks
    result = harness.results["a"]
    assert result.failure.reason == "PASS_FAILED"
    text = plain(llama, first)["a"]
    assert result.token_ids == text[: len(result.token_ids)]
    assert later.token_ids == plain(llama, second)["b"]


def test_a_token_that_could_not_be_booked_is_not_stepped_over(llama, monkeypatch):
    one = spec(prompt(6, llama), max_tokens=30)
    with EngineHarness(llama, target_settings(max_unlogged_tokens=4)) as harness:
        harness.acknowledges = False
        breaks_once(monkeypatch, at_call=5)  # the last step before its log is full
        harness.start(one)
        harness.pump(lambda: harness.results["s"].is_over)
    assert harness.results["s"].failure.reason == "PASS_FAILED"


@pytest.mark.parametrize("is_awaited", [True, False])
def test_drafters_are_told_before_the_next_pass_only_if_it_may_wait_for_them(
    llama, monkeypatch, is_awaited
):
    events = []

    def drafter(frame):
        events.extend("told" for _ in frame.commits)
        return []

    one = spec(prompt(6, llama), max_tokens=5)
    settings = target_settings(patience=PatienceSettings(enabled=is_awaited))
    with EngineHarness(llama, settings, drafter, is_lockstep=True) as harness:
        runner = harness.engine._runner._runner
        forward = runner.forward
        monkeypatch.setattr(
            runner, "forward", lambda segments: events.append("pass") or forward(segments)
        )
        (result,) = harness.run(one)
    assert result.token_ids == plain(llama, one)["s"]
    # The last token ends the text: nobody drafts on.
    expected = ["pass", "told"] * 4 if is_awaited else ["pass", *["pass", "told"] * 4]
    assert events[: len(expected)] == expected
    assert len(events) == 5 + 4
