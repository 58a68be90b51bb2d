"""Toy models behind an engine, and what it says of them without drafts."""

import random
from dataclasses import replace

from tests.engine_harness import EngineHarness, TieBook, assert_same_but_for_ties
from tests.scripted_drafters import GuessingDrafter

from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.target.settings import BudgetSettings, GateSettings, KVSettings, TargetSettings

GREEDY = SamplingParameters(temperature=0.0, seed=1)
LAWS = {
    "greedy": GREEDY,
    "warm": SamplingParameters(temperature=0.6, top_p=0.95, seed=7),
    "hot": SamplingParameters(temperature=1.0, top_p=0.95, seed=8),
    "plain": SamplingParameters(temperature=1.0, seed=2**64 - 1),
    "cut": SamplingParameters(temperature=0.9, top_k=20, min_p=0.02, seed=9),
    "penalised": SamplingParameters(
        temperature=0.8,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias=((5, 2.0), (9, -3.0)),
        seed=10,
    ),
    "greedy, penalised": SamplingParameters(temperature=0.0, repetition_penalty=1.3, seed=1),
}


def target_settings(**changes) -> TargetSettings:
    return TargetSettings(
        kv=changes.pop("kv", KVSettings(tokens=8192, block_size=8)),
        budget=changes.pop("budget", BudgetSettings(mode="fixed", max_nodes=16, max_depth=8)),
        # Nothing pays where a pass takes less than a millisecond.
        gate=GateSettings(enabled=False),
        **changes,
    )


def prompt(seed: int, model, length: int = 20) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(model.vocab_size) for _ in range(length)]


def plain(model, *specs, **changes):
    """Return what the engine says without speculation."""
    with EngineHarness(model, target_settings(**changes)) as harness:
        off = SpeculationOptions(enabled=False)
        results = harness.run(*(replace(one, speculation=off) for one in specs))
    return {one.session_id: r.token_ids for one, r in zip(specs, results, strict=True)}


def drafter_for(model, specs, texts, seed=0, **options):
    truth = {one.session_id: [*one.token_ids, *texts[one.session_id]] for one in specs}
    return GuessingDrafter(truth, random.Random(seed), vocab_size=model.vocab_size, **options)


def compare(model, specs, texts, results, harness, book=None):
    book = book or TieBook()
    for one, result in zip(specs, results, strict=True):
        assert result.failure is None
        assert_same_but_for_ties(
            model,
            one,
            texts[one.session_id],
            lambda later: harness.run(later)[0].token_ids,
            result.token_ids,
            book,
        )
    return book
