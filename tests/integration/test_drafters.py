"""Every kind of drafter through the same seam: the text is the target's own.

The drafters are real, engine and all; only the network is left out. In the
coupled rule a text is the same to the token with any drafter and with none. In
the rejection rule it follows the target's law, whoever drafted it.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.engine_harness import (
    EngineHarness,
    TieBook,
    assert_same_but_for_ties,
    load_toy,
    reference_logits,
    spec,
)
from tests.real_drafters import RealDrafter

from treedraft.core.errors import UnsupportedModelError
from treedraft.core.growth import TokenSource
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, Verification
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings
from treedraft.inference.drafter_folder import build_drafter_module, drafter_config, save_drafter
from treedraft.inference.models import load_model
from treedraft.inference.sampler import LawRow, target_probs
from treedraft.inference.toy import make_toy_model, truncate_model
from treedraft.target.settings import (
    BudgetSettings,
    GateSettings,
    KVSettings,
    PatienceSettings,
    TargetSettings,
)

LAWS = {
    "greedy": SamplingParameters(temperature=0.0, seed=1),
    "plain": SamplingParameters(temperature=1.0, seed=2**64 - 1),
    "warm": SamplingParameters(temperature=0.7, top_p=0.95, seed=7),
    "penalised": SamplingParameters(
        temperature=0.8,
        top_k=40,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        # One token that the reduced head has, one that it lacks.
        logit_bias=((6, 3.0), (7, 3.0)),
        seed=10,
    ),
}
# Text that repeats itself, for lookup to copy.
REPEATED = SamplingParameters(temperature=1.0, logit_bias=((6, 40.0),), seed=3)
PROMPT = [11, 42, 7, 99, 300, 5, 64, 8, 120, 33] * 2
DRAFTERS = ["unrelated", "first layers", "reduced", "lookup", "reduced and lookup"]
TARGET_SETTINGS = TargetSettings(
    kv=KVSettings(tokens=8192, block_size=8),
    budget=BudgetSettings(mode="fixed", max_nodes=16, max_depth=8),
    patience=PatienceSettings(enabled=False),
    gate=GateSettings(enabled=False),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folders of a target and of drafters for it."""
    folder = tmp_path_factory.mktemp("models")
    target = make_toy_model(folder / "target", layers=2, seed=3)
    make_toy_model(folder / "unrelated", layers=1, hidden=16, seed=99)
    truncate_model(target, folder / "first layers", 1)
    save_reduced(target, folder / "reduced")
    return folder


def save_reduced(target, folder):
    """Save the target itself as a drafter that has every other token only."""
    loaded = load_model(target, attention="sdpa", is_packed=False)
    token_ids = list(range(0, loaded.vocab_size, 2))
    weights = dict(loaded.module.state_dict())
    weights["lm_head.weight"] = weights["lm_head.weight"][token_ids]
    module = build_drafter_module(drafter_config(loaded.config, 2), len(token_ids))
    module.load_state_dict(weights)
    save_drafter(
        module,
        token_ids,
        folder,
        target_name=loaded.name,
        target_source=str(target),
        tokenizer_hash=loaded.tokenizer_hash,
        eos_token_ids=loaded.eos_token_ids,
    )


@pytest.fixture(scope="module")
def target(folders):
    return load_toy(folders / "target")


@pytest.fixture(scope="module")
def make_drafter(folders, target):
    """Return a maker of drafters by their names."""
    models = {name: load_model(folders / name) for name in ("unrelated", "first layers", "reduced")}
    assert {model.tokenizer_hash for model in models.values()} == {target.tokenizer_hash}

    def make(name):
        model = models.get(name.removesuffix(" and lookup"))
        settings = DraftSettings(
            model=name if model else "",
            kv_tokens=8192,
            lookup=LookupSettings(enabled="lookup" in name),
            growth=GrowthSettings(num_children=3, max_depth=6),
        )
        return RealDrafter(settings, model, vocab_size=target.vocab_size)

    return make


def run(target, specs, drafter=None):
    """Return the results of sessions, in lockstep with a drafter or without any."""
    with EngineHarness(target, TARGET_SETTINGS, drafter, is_lockstep=True) as harness:
        if drafter is None:
            specs = [replace(one, speculation=SpeculationOptions(enabled=False)) for one in specs]
        return harness.run(*specs)


def sessions(laws, **options):
    return [
        spec([number, *PROMPT], session_id=f"s{number}", sampling=law, **options)
        for number, law in enumerate(laws, 1)
    ]


@pytest.mark.parametrize("name", DRAFTERS)
def test_no_drafter_changes_a_token_in_the_coupled_rule(target, make_drafter, name):
    specs = sessions([*LAWS.values(), REPEATED], max_tokens=40)
    expected = run(target, specs)
    with EngineHarness(target, TARGET_SETTINGS, make_drafter(name), is_lockstep=True) as harness:
        results = harness.run(*specs)
        book = TieBook()
        for one, alone, drafted in zip(specs, expected, results, strict=True):
            assert drafted.failure is None
            assert_same_but_for_ties(
                target,
                one,
                alone.token_ids,
                lambda later: harness.run(later)[0].token_ids,
                drafted.token_ids,
                book,
            )
    assert book.num_ties <= 2
    admitted = sum(result.finish.statistics.admitted_nodes for result in results)
    assert admitted > 0


@pytest.mark.parametrize("law", LAWS)
def test_a_reduced_head_drafts_what_it_has_of_the_targets_words(target, make_drafter, law):
    """Its layers are the target's, so it fails where the target's token has no column."""
    specs = sessions([LAWS[law]], max_tokens=60)
    [result] = run(target, specs, make_drafter("reduced"))
    statistics = result.finish.statistics
    drafted = [
        token
        for token, source in zip(result.token_ids, result.sources, strict=True)
        if source is TokenSource.DRAFT_MODEL
    ]
    assert len(drafted) == statistics.accepted_nodes > 10
    assert all(token % 2 == 0 for token in drafted)
    in_vocabulary = sum(token % 2 == 0 for token in result.token_ids[1:])
    assert statistics.accepted_nodes > 0.5 * in_vocabulary


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("first layers", {TokenSource.DRAFT_MODEL}),
        ("lookup", {TokenSource.LOOKUP}),
    ],
)
def test_other_drafters_are_of_use_where_they_can_be(target, make_drafter, name, sources):
    specs = sessions([REPEATED], max_tokens=40)
    [result] = run(target, specs, make_drafter(name))
    accepted = [source for source in result.sources if source in sources]
    assert len(accepted) == result.finish.statistics.accepted_nodes > 20


@pytest.mark.parametrize("name", DRAFTERS)
def test_under_rejection_texts_follow_the_targets_law(target, make_drafter, name):
    texts, accepted = rejection_texts(target, make_drafter(name))
    assert goodness(target, texts, LAW) > 1e-3
    # The same texts do not pass for those of a law nearby.
    assert goodness(target, texts, replace(LAW, temperature=0.6)) < 1e-6
    if name in ("first layers", "reduced", "reduced and lookup"):
        assert accepted > 40


LAW = SamplingParameters(temperature=1.0, seed=0, verification=Verification.REJECTION)


def rejection_texts(target, drafter, num_sessions=16, max_tokens=40):
    specs = sessions(
        [replace(LAW, seed=seed) for seed in range(num_sessions)], max_tokens=max_tokens
    )
    results = run(target, specs, drafter)
    accepted = sum(result.finish.statistics.accepted_nodes for result in results)
    return [
        (list(one.token_ids), result.token_ids) for one, result in zip(specs, results, strict=True)
    ], accepted


def goodness(target, texts, law):
    """Return the p-value of texts under a law, over all their tokens together.

    If a token follows its law given those before it, then the mass of the
    tokens more likely than it, plus a random share of its own, is uniform and
    independent of all others (Rosenblatt 1952, made continuous at random).
    """
    rng = np.random.default_rng(0)
    shares = []
    for prompt, tokens in texts:
        logits = reference_logits(target, prompt + tokens)[len(prompt) - 1 : -1]
        probs = target_probs(logits, [LawRow(law, len(prompt) + i) for i in range(len(tokens))])
        own = probs[np.arange(len(tokens)), tokens]
        above = np.where(probs > own[:, None], probs, 0.0).sum(axis=1)
        shares.extend(above + rng.random(len(tokens)) * own)
    return stats.kstest(shares, "uniform").pvalue


def test_a_drafter_is_no_target(folders):
    drafter = load_model(folders / "reduced")
    with pytest.raises(UnsupportedModelError) as caught:
        EngineHarness(drafter, TARGET_SETTINGS)
    assert caught.value.reason == "NOT_A_TARGET"
