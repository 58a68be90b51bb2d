"""Drafters that lie, send too much or come too late cost no token."""

import random
from dataclasses import replace

import pytest
from tests.engine_harness import EngineHarness, spec
from tests.integration.toy_targets import plain, prompt, target_settings
from tests.scripted_drafters import GuessingDrafter

from treedraft.core.exchange import DraftFrame
from treedraft.core.growth import Growth, TokenSource


class LyingDrafter:
    """Answers the first frame with a growth that breaks a rule."""

    def __init__(self, growth):
        self.growth = growth

    def __call__(self, frame):
        return [
            DraftFrame(growths=[replace(self.growth, session_number=opened.session_number)])
            for opened in frame.opens
        ]


def growth(**changes) -> Growth:
    honest = Growth(
        session_number=0,
        base_length=20,
        first_node_id=0,
        parent_offsets=(0, 1),
        token_ids=(1, 2),
        scores=(-0.1, -0.2),
        sources=(TokenSource.LOOKUP,) * 2,
    )
    return replace(honest, **changes)


@pytest.mark.parametrize(
    "lie",
    [
        growth(parent_offsets=(0, 7)),
        growth(token_ids=(1, 10**6)),
        growth(scores=(0.5, -1.0)),
        growth(scores=(-1.0, -0.5)),
        growth(scores=(float("nan"), -1.0)),
        growth(base_length=10**6),
        growth(parent_offsets=(0,)),
        growth(
            parent_offsets=(0,) * 100_000,
            token_ids=(1,) * 100_000,
            scores=(-1.0,) * 100_000,
            sources=(TokenSource.LOOKUP,) * 100_000,
        ),
    ],
    ids=["parent", "token", "positive", "rising", "nan", "ahead", "ragged", "flood"],
)
def test_a_lying_drafter_is_refused_and_costs_no_token(llama, lie):
    one = spec(prompt(6, llama), max_tokens=20)
    texts = plain(llama, one)
    with EngineHarness(llama, target_settings(), LyingDrafter(lie), is_lockstep=True) as harness:
        [result] = harness.run(one)
    assert result.token_ids == texts["s"]
    assert harness.refused_links.keys() == {"fake:1"}


class FloodingDrafter:
    """Sends honest nodes, but far more of them than it was granted."""

    def __call__(self, frame):
        return [
            DraftFrame(
                growths=[
                    growth(
                        session_number=opened.session_number,
                        first_node_id=1000 * index,
                        parent_offsets=(0,) * 1000,
                        token_ids=tuple(range(500)) * 2,
                        scores=(-1.0,) * 1000,
                        sources=(TokenSource.LOOKUP,) * 1000,
                    )
                ]
            )
            for opened in frame.opens
            for index in range(20)
        ]


def test_a_drafter_that_sends_beyond_its_credit_is_refused(llama):
    one = spec(prompt(6, llama), max_tokens=20)
    texts = plain(llama, one)
    with EngineHarness(llama, target_settings(), FloodingDrafter(), is_lockstep=True) as harness:
        [result] = harness.run(one)
    assert result.token_ids == texts["s"]
    assert "granted" in harness.refused_links["fake:1"]


def test_a_stale_tree_is_dropped_and_counted(llama):
    one = spec(prompt(6, llama), max_tokens=20)
    texts = plain(llama, one)
    wrong = (texts["s"][0] + 1) % llama.vocab_size
    drafter = GuessingDrafter({}, random.Random(0), vocab_size=llama.vocab_size)
    late = []

    def delayed(frame):
        frames = drafter(frame)
        late.extend(frames)
        # The first answers come when their base is long gone.
        return [late.pop(0)] if len(late) > 4 else []

    # Answers are counted in rounds, so the drafter answers on the engine's own thread.
    with EngineHarness(llama, target_settings(), delayed, is_lockstep=True) as harness:
        [result] = harness.run(one)
    assert result.token_ids == texts["s"]
    assert result.finish.statistics.dropped_nodes > 0
    assert wrong not in texts["s"][:1]
    assert not harness.refused_links
