"""What is told of a token's chances: the target's own law, whatever drafters do."""

import random
from dataclasses import replace
from itertools import zip_longest

import pytest
import torch
from tests.engine_harness import EngineHarness, law_after, load_toy, reference_logits, spec
from tests.scripted_drafters import GuessingDrafter

from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.session import FinishReason
from treedraft.inference.law import processed_logits
from treedraft.inference.toy import make_toy_model
from treedraft.target.settings import BudgetSettings, GateSettings, KVSettings, TargetSettings

PROMPT = [5, 9, 17, 3, 8, 21, 40, 2]
LAWS = {
    "greedy": SamplingParameters(temperature=0.0, seed=1),
    "warm": SamplingParameters(temperature=0.7, seed=7),
    "cut": SamplingParameters(temperature=0.9, top_k=3, seed=9),
    "penalised": SamplingParameters(
        temperature=0.8, repetition_penalty=1.3, logit_bias=((5, 2.0),), seed=10
    ),
}
SETTINGS = TargetSettings(
    kv=KVSettings(tokens=4096, block_size=8),
    budget=BudgetSettings(mode="fixed", max_nodes=16, max_depth=8),
    gate=GateSettings(enabled=False),  # drafted whether or not it pays
)
OFF = SpeculationOptions(enabled=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_toy(make_toy_model(tmp_path_factory.mktemp("toy") / "llama", seed=3))


def run_plain(model, session):
    with EngineHarness(model, SETTINGS) as harness:
        return harness.run(replace(session, speculation=OFF))[0]


def run_drafted(model, session, text):
    truth = {session.session_id: [*session.token_ids, *text]}
    drafter = GuessingDrafter(
        truth, random.Random(0), vocab_size=model.vocab_size, depth=4, width=3
    )
    with EngineHarness(model, SETTINGS, drafter, is_lockstep=True) as harness:
        return harness.run(session)[0]


@pytest.mark.parametrize("law", LAWS)
def test_they_are_those_of_the_law_that_was_drawn_from(model, law):
    session = replace(spec(PROMPT, sampling=LAWS[law], max_tokens=24), num_logprobs=5)
    plain = run_plain(model, session)
    drafted = run_drafted(model, session, plain.token_ids)
    assert drafted.token_ids == plain.token_ids
    assert drafted.finish.statistics.accepted_nodes > 3
    logits = reference_logits(model, [*PROMPT, *plain.token_ids])
    for index, token_id in enumerate(plain.token_ids):
        before = [*PROMPT, *plain.token_ids[:index]]
        row = law_after(model, session, before)
        scores = processed_logits(logits[len(before) - 1][None], [row]).double()
        expected = torch.log_softmax(scores, dim=-1)[0]
        for result in (plain, drafted):
            told = result.logprobs[index]
            assert told.logprob == pytest.approx(float(expected[token_id]), abs=1e-3)
            values = [value for _, value in told.top]
            assert values == pytest.approx(expected.topk(len(values)).values.tolist(), abs=1e-3)
            assert len(values) == (3 if law == "cut" else 5)
    assert len(drafted.logprobs) == len(drafted.token_ids)


def test_none_are_told_unasked_and_no_others_with_zero(model):
    session = spec(PROMPT, max_tokens=4)
    assert run_plain(model, session).logprobs == []
    told = run_plain(model, replace(session, num_logprobs=0)).logprobs
    assert [item.top for item in told] == [()] * 4


@pytest.mark.parametrize("law", LAWS)
def test_nothing_ends_a_text_before_its_least_length(model, law):
    free = run_plain(model, spec(PROMPT, sampling=LAWS[law], max_tokens=24))
    ends = frozenset(free.token_ids[:4])
    stopping = StoppingCriteria(max_tokens=60, stop_token_ids=ends, ignore_eos=True)
    early = run_plain(model, spec(PROMPT, sampling=LAWS[law], stopping=stopping))
    assert len(early.token_ids) == 1
    session = spec(PROMPT, sampling=LAWS[law], stopping=replace(stopping, min_tokens=12))
    plain = run_plain(model, session)
    assert not ends.intersection(plain.token_ids[:12])
    assert len(plain.token_ids) > 12
    if plain.finish.reason is FinishReason.STOP:
        assert plain.token_ids[-1] in ends
    drafted = run_drafted(model, session, plain.token_ids)
    assert drafted.token_ids == plain.token_ids
    assert drafted.finish.statistics.accepted_nodes > 0
    lengths = drafted.finish.statistics.accepted_lengths
    assert sum(lengths) == drafted.finish.statistics.rounds
    assert sum(i * n for i, n in enumerate(lengths)) == drafted.finish.statistics.accepted_nodes
    by_depth = drafted.finish.statistics.accepted_lengths_by_depth
    assert [sum(n) for n in zip_longest(*by_depth, fillvalue=0)] == list(lengths)
    assert all(len(counts) <= depth + 1 for depth, counts in enumerate(by_depth))
