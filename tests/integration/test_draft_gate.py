"""Drafting that does not pay is closed, costs nothing while it is, and comes back."""

import random
import time

import pytest
from tests.engine_harness import EngineHarness, spec
from tests.scripted_drafters import GuessingDrafter

from treedraft.inference.runner import Runner
from treedraft.target.settings import (
    BudgetSettings,
    GateSettings,
    KVSettings,
    PatienceSettings,
    TargetSettings,
)

PROMPT = list(range(3, 23))


@pytest.fixture
def passes_by_rows(monkeypatch):
    """Passes that take what their rows are worth, on a clock that nothing else moves."""
    now_ns, forward = [time.monotonic_ns()], Runner.forward

    def priced(runner, segments):
        now_ns[0] += 1_000_000 + 500_000 * sum(len(segment.token_ids) for segment in segments)
        return forward(runner, segments)

    monkeypatch.setattr(Runner, "forward", priced)
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns[0])


class Recorder:
    """Passes frames on to a drafter and keeps them."""

    def __init__(self, drafter):
        self.drafter = drafter
        self.frames = []

    def __call__(self, frame):
        self.frames.append(frame)
        return self.drafter(frame)


def settings(*, takes_turns=False, **gate):
    return TargetSettings(
        kv=KVSettings(tokens=8192, block_size=8),
        budget=BudgetSettings(mode="fixed", max_nodes=16),
        gate=GateSettings(**gate),
        # Drafts are there before the pass, or never.
        patience=PatienceSettings(enabled=False, takes_turns=takes_turns),
    )


def run(llama, gate, *, num_sessions=4, accuracy, max_tokens=200):
    """Return the frames, and the texts with and without drafts."""
    specs = [
        spec([n, *PROMPT], session_id=f"s{n}", max_tokens=max_tokens) for n in range(num_sessions)
    ]
    with EngineHarness(llama, settings()) as harness:
        truth = {
            one.session_id: [*one.token_ids, *result.token_ids]
            for one, result in zip(specs, harness.run(*specs), strict=True)
        }
    drafter = GuessingDrafter(truth, random.Random(5), vocab_size=512, accuracy=accuracy)
    recorder = Recorder(drafter)
    with EngineHarness(llama, settings(**gate), recorder, is_lockstep=True) as harness:
        results = harness.run(*specs)
    for one, result in zip(specs, results, strict=True):
        assert [*one.token_ids, *result.token_ids] == truth[one.session_id]
    return recorder.frames


@pytest.mark.usefixtures("passes_by_rows")
def test_useless_drafts_are_turned_down_to_nothing_and_tried_again(llama):
    # Guesses that never come true, in passes that are long for them.
    gate = {"trial_steps": 2.0, "allowance": 0.5, "forecast": False}
    frames = run(llama, gate, accuracy=0.0, max_tokens=400)
    commits = [commit for frame in frames for commit in frame.commits]
    assert any(frame.pauses for frame in frames)
    # Few steps were told to the drafter, and after a pause it gets all that it missed.
    assert len(commits) < 4 * 400 / 2
    assert any(len(commit.token_ids) > 20 for commit in commits)


def test_good_drafts_are_never_turned_down(llama):
    # So small a model's passes take as long as their rows do, whatever comes of these.
    gate = {"trial_steps": 1000.0, "session_trial_tokens": 1000.0, "forecast": False}
    frames = run(llama, gate, accuracy=1.0)
    assert not any(frame.pauses for frame in frames)


def test_frames_grow_with_links_and_not_with_sessions(llama):
    def frames_per_step(num_sessions):
        frames = run(
            llama, {"enabled": False}, num_sessions=num_sessions, accuracy=0.0, max_tokens=50
        )
        with_news = [frame for frame in frames if frame.commits]
        assert max(len(frame.commits) for frame in with_news) == num_sessions
        return len(frames) / len(with_news)

    # One a step, and a few where sessions begin and end.
    assert frames_per_step(1) <= 1.2
    assert frames_per_step(16) <= 1.2


@pytest.mark.parametrize(("takes_turns", "num_more"), [(False, 0), (True, 1)])
def test_on_shared_cores_drafters_are_told_of_texts_that_have_begun(llama, takes_turns, num_more):
    gate = {"enabled": False, "takes_turns": takes_turns}
    frames = run(llama, gate, accuracy=1.0, max_tokens=50)
    opened = [len(one.spec.token_ids) for frame in frames for one in frame.opens]
    assert opened == [1 + len(PROMPT) + num_more] * 4
