"""The engine waits for drafts that pay, and for nothing else."""

import threading
import time

import pytest
from tests.engine_harness import FAKE_DRAFTER, EngineHarness, spec

from treedraft.core.exchange import DraftFrame, Rest
from treedraft.core.growth import Growth, TokenSource
from treedraft.core.session import FinishReason
from treedraft.inference.runner import Runner
from treedraft.target.events import FrameArrived
from treedraft.target.settings import (
    BudgetSettings,
    GateSettings,
    KVSettings,
    PatienceSettings,
    TargetSettings,
)

PROMPT = list(range(3, 23))
PASS_MS = 20.0  # long against what a busy machine adds to a timer


def settings(**patience):
    return TargetSettings(
        kv=KVSettings(tokens=4096, block_size=8),
        budget=BudgetSettings(mode="fixed", max_nodes=8),
        gate=GateSettings(enabled=False),
        patience=PatienceSettings(**patience),
    )


def waits_of(harness):
    value = harness.metrics.observed.get_sample_value
    return (
        value("treedraft_draft_wait_seconds_count"),
        value("treedraft_draft_wait_seconds_sum"),
    )


class KnowingDrafter:
    """Sends the right chain, but not before some milliseconds have gone by."""

    def __init__(self, truth, *, delay_ms):
        self.truth = truth
        self.delay_ms = delay_ms
        self.length = 0
        self.next_id = 0
        self.harness = None

    def __call__(self, frame):
        self.length += sum(len(opened.spec.token_ids) for opened in frame.opens)
        self.length += sum(len(commit.token_ids) for commit in frame.commits)
        if frame.opens or frame.commits:
            number = [*frame.opens, *frame.commits][0].session_number
            timer = threading.Timer(self.delay_ms / 1e3, self.send, [self.answer(number)])
            timer.daemon = True
            timer.start()
        return []

    def answer(self, number):
        tokens = tuple(self.truth[self.length : self.length + 4])
        first, self.next_id = self.next_id, self.next_id + len(tokens)
        growth = Growth(
            session_number=number,
            base_length=self.length,
            first_node_id=first,
            parent_offsets=(0, 1, 1, 1)[: len(tokens)],
            token_ids=tokens,
            scores=tuple(-0.02 * (i + 1) for i in range(len(tokens))),
            sources=(TokenSource.DRAFT_MODEL,) * len(tokens),
            held_us=int(self.delay_ms * 1e3),
        )
        return DraftFrame(growths=[growth] if tokens else [], rests=[Rest(number, self.length)])

    def send(self, frame):
        self.harness.engine.post(FrameArrived(FAKE_DRAFTER.endpoint, frame, time.monotonic_ns()))


def plain_text(llama, max_tokens):
    with EngineHarness(llama, settings()) as harness:
        [result] = harness.run(spec(PROMPT, max_tokens=max_tokens))
    return result.token_ids


@pytest.fixture
def make_slow(monkeypatch):
    """Return what makes passes take as long as those of a real model."""
    forward = Runner.forward

    def slowly(runner, segments):
        time.sleep(PASS_MS / 1e3)
        return forward(runner, segments)

    return lambda: monkeypatch.setattr(Runner, "forward", slowly)


def test_a_chain_that_comes_a_little_late_is_waited_for(llama, make_slow):
    text = plain_text(llama, 80)
    make_slow()
    rounds = {}
    for enabled in (False, True):
        drafter = KnowingDrafter([*PROMPT, *text], delay_ms=0.25 * PASS_MS)
        with EngineHarness(
            llama, settings(enabled=enabled, takes_turns=True, max_pass_share=10.0), drafter
        ) as harness:
            drafter.harness = harness
            [result] = harness.run(spec(PROMPT, max_tokens=80))
            num_waits, _ = waits_of(harness)
        assert result.token_ids == text
        assert bool(num_waits) is enabled
        rounds[enabled] = result.finish.statistics.rounds
    assert rounds[True] < rounds[False]


def test_a_drafter_that_never_answers_is_hardly_waited_for(llama):
    with EngineHarness(llama, settings(max_pass_share=10.0), lambda frame: []) as harness:
        [result] = harness.run(spec(PROMPT, max_tokens=300))
        num_waits, _ = waits_of(harness)
    assert result.finish.statistics.rounds == 300
    # Each wait in vain doubles the steps until the next one.
    assert num_waits <= 10


def test_control_events_are_heard_during_a_wait(llama):
    # Ten passes long, and the drafter never comes: only the cancellation ends it soon.
    with EngineHarness(llama, settings(max_pass_share=10.0), lambda frame: []) as harness:
        harness.start(spec(PROMPT, max_tokens=2000))
        harness.pump(lambda: len(harness.results["s"].token_ids) > 3)
        harness.cancel("s")
        harness.pump(lambda: harness.results["s"].is_over)
    assert harness.results["s"].finish.reason is FinishReason.CANCELLED


@pytest.mark.parametrize("limit", ["max_nodes", "max_depth", "max_step_nodes"])
def test_a_target_that_verifies_nothing_asks_no_drafter(llama, limit):
    frames = []

    def drafter(frame):
        frames.append(frame)
        return []

    plain = TargetSettings(
        kv=KVSettings(tokens=4096, block_size=8), budget=BudgetSettings(**{limit: 0})
    )
    with EngineHarness(llama, plain, drafter) as harness:
        (result,) = harness.run(spec(PROMPT, max_tokens=8))
    assert len(result.token_ids) == 8
    assert not any(frame.opens or frame.commits for frame in frames)
