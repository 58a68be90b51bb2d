"""Whatever drafters do, the target says what it would have said alone."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine_harness import EngineHarness, reference_logits, spec
from tests.integration.toy_targets import LAWS, compare, drafter_for, plain, prompt, target_settings

from treedraft.core.growth import TokenSource
from treedraft.core.sampling import SamplingParameters, Verification
from treedraft.core.session import FinishReason
from treedraft.inference.sampler import CoupledDraws
from treedraft.target.settings import BudgetSettings, KVSettings
from treedraft.target.step import PassRunner


def test_greedy_without_drafts_is_what_transformers_says(model):
    tokens = prompt(0, model)
    texts = plain(model, spec(tokens, max_tokens=24))
    logits = reference_logits(model, tokens + texts["s"])
    drawn = logits[len(tokens) - 1 : -1].argmax(dim=-1).tolist()
    assert texts["s"] == drawn


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("depth", "width"), [(6, 1), (4, 3)], ids=["chain", "tree"])
def test_speculation_changes_no_token(model, law, depth, width):
    specs = [spec(prompt(1, model), sampling=LAWS[law], max_tokens=40)]
    texts = plain(model, *specs)
    drafter = drafter_for(model, specs, texts, depth=depth, width=width)
    with EngineHarness(model, target_settings(), drafter, is_lockstep=True) as harness:
        results = harness.run(*specs)
        compare(model, specs, texts, results, harness)
    statistics = results[0].finish.statistics
    assert statistics.accepted_nodes > 5
    assert statistics.tokens_per_round > 1.2
    assert statistics.emitted_tokens == 40


@pytest.mark.parametrize("max_nodes", [0, 1, 2, 5, 16, 64])
def test_no_budget_changes_a_token(llama, max_nodes):
    specs = [spec(prompt(2, llama), sampling=LAWS["hot"], max_tokens=40)]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts, depth=5, width=3)
    budget = BudgetSettings(mode="fixed", max_nodes=max_nodes)
    with EngineHarness(llama, target_settings(budget=budget), drafter, is_lockstep=True) as harness:
        results = harness.run(*specs)
        compare(llama, specs, texts, results, harness)
    assert (results[0].finish.statistics.admitted_nodes > 0) == (max_nodes > 0)


def test_goodput_budget_changes_no_token(llama):
    specs = [spec(prompt(2, llama), sampling=LAWS["hot"], max_tokens=40)]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts)
    with EngineHarness(llama, target_settings(budget=BudgetSettings()), drafter) as harness:
        compare(llama, specs, texts, harness.run(*specs), harness)


def test_a_batch_of_mixed_laws_is_the_sum_of_its_sessions(model):
    laws = list(LAWS.values())
    specs = [
        spec(
            prompt(i, model, length=5 + 7 * i),
            session_id=f"s{i}",
            sampling=replace(laws[i % len(laws)], seed=i),
            max_tokens=30,
        )
        for i in range(16)
    ]
    alone = {}
    for one in specs:
        alone.update(plain(model, one))
    drafter = drafter_for(model, specs, alone)
    with EngineHarness(model, target_settings(prefill_chunk=32), drafter) as harness:
        results = harness.run(*specs)
        compare(model, specs, alone, results, harness)
    assert sum(r.finish.statistics.accepted_nodes for r in results) > 100


def test_a_drafter_that_dies_half_way_costs_no_token(llama):
    specs = [
        spec(prompt(i, llama), session_id=f"s{i}", sampling=LAWS["warm"], max_tokens=60)
        for i in range(4)
    ]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts)
    with EngineHarness(llama, target_settings(), drafter) as harness:
        harness.start(*specs)
        harness.pump(lambda: len(harness.results["s0"].token_ids) > 20)
        harness.kill_drafter()
        harness.pump(lambda: len(harness.results["s0"].token_ids) > 35)
        harness.revive_drafter(drafter_for(llama, specs, texts, seed=5))
        harness.pump(lambda: all(harness.results[s.session_id].is_over for s in specs))
        results = [harness.results[s.session_id] for s in specs]
        compare(llama, specs, texts, results, harness)
    assert any(TokenSource.DRAFT_MODEL in r.sources[40:] for r in results)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    trouble=st.sampled_from([0.1, 0.4, 0.8]),
    law=st.sampled_from(sorted(LAWS)),
    max_nodes=st.sampled_from([1, 4, 16, 48]),
)
def test_no_interleaving_of_growth_commits_and_drops_changes_a_token(
    llama, seed, trouble, law, max_nodes
):
    specs = [
        spec(
            prompt(seed + i, llama, length=9),
            session_id=f"s{i}",
            sampling=replace(LAWS[law], seed=seed + i),
            max_tokens=24,
        )
        for i in range(3)
    ]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts, seed=seed, trouble=trouble, width=2)
    budget = BudgetSettings(mode="fixed", max_nodes=max_nodes, max_depth=6)
    with EngineHarness(llama, target_settings(budget=budget), drafter) as harness:
        compare(llama, specs, texts, harness.run(*specs), harness)
    assert not harness.refused_links, "an honest drafter was refused"


def test_preemption_changes_no_token(llama):
    kv = KVSettings(tokens=256, block_size=8)
    specs = [
        spec(prompt(i, llama), session_id=f"s{i}", sampling=LAWS["hot"], max_tokens=70)
        for i in range(5)
    ]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts)
    with EngineHarness(llama, target_settings(kv=kv), drafter) as harness:
        results = harness.run(*specs)
        compare(llama, specs, texts, results, harness)
        assert harness.pool.num_free == harness.pool.num_blocks
    num_preemptions = sum(r.finish.statistics.preemptions for r in results)
    counted = harness.metrics.observed.get_sample_value("treedraft_preemptions_total")
    assert counted >= num_preemptions > 0


def test_a_shared_prefix_changes_no_token_and_saves_prefill(llama):
    common = prompt(3, llama, length=64)
    first = spec([*common, 1, 2, 3], session_id="a", max_tokens=20)
    second = spec([*common, 4, 5], session_id="b", max_tokens=20)
    stranger = spec([*common, 4, 5], session_id="c", max_tokens=20, tenant_salt=b"other")
    texts = plain(llama, first)
    texts |= plain(llama, second)
    texts["c"] = texts["b"]
    specs = [first, second, stranger]
    with EngineHarness(llama, target_settings(), drafter_for(llama, specs, texts)) as harness:
        results = [harness.run(one)[0] for one in specs]
        compare(llama, specs, texts, results, harness)
    cached = [r.finish.statistics.cached_prompt_tokens for r in results]
    assert cached == [0, 64, 0]


def test_a_session_that_starts_further_on_says_the_rest(llama):
    whole = spec(prompt(4, llama), sampling=LAWS["penalised"], max_tokens=30)
    texts = plain(llama, whole)
    moved = replace(whole, token_ids=(*whole.token_ids, *texts["s"][:11]), epoch=2)
    with EngineHarness(llama, target_settings(), drafter_for(llama, [whole], texts)) as harness:
        [result] = harness.run(moved)
    assert result.token_ids == texts["s"][11:]


def test_a_session_that_moves_after_its_last_token_says_nothing_more(llama):
    whole = spec(prompt(4, llama), max_tokens=10)
    texts = plain(llama, whole)
    moved = replace(whole, token_ids=(*whole.token_ids, *texts["s"]), epoch=2)
    with EngineHarness(llama, target_settings()) as harness:
        [result] = harness.run(moved)
        assert harness.pool.num_free == harness.pool.num_blocks
    assert result.token_ids == []
    assert result.finish.reason is FinishReason.LENGTH


def test_rejection_sampling_runs_through_the_engine(llama):
    # Cold, so that the text stays near the greedy one that the drafter knows.
    law = SamplingParameters(temperature=0.02, seed=5, verification=Verification.REJECTION)
    specs = [spec(prompt(5, llama), sampling=law, max_tokens=60)]
    texts = plain(llama, spec(prompt(5, llama), max_tokens=60))
    drafter = drafter_for(llama, specs, texts, with_laws=True, width=2)
    # In step with its log, so that the drafter's answer is there before each pass.
    in_step = target_settings(max_unlogged_tokens=0)
    with EngineHarness(llama, in_step, drafter) as harness:
        [result] = harness.run(*specs)
    statistics = result.finish.statistics
    assert len(result.token_ids) == 60
    assert statistics.admitted_nodes > 0
    assert statistics.accepted_nodes > 0


def test_sixty_four_sessions_share_passes(llama):
    specs = [
        spec(prompt(i, llama, length=10), session_id=f"s{i}", sampling=LAWS["warm"], max_tokens=16)
        for i in range(64)
    ]
    texts = plain(llama, *specs)
    with EngineHarness(llama, target_settings(), drafter_for(llama, specs, texts)) as harness:
        results = harness.run(*specs)
        book = compare(llama, specs, texts, results, harness)
    assert book.num_tokens >= 64 * 16 - 16


def test_what_is_told_beside_the_next_pass_is_all_told_and_the_same(llama, monkeypatch):
    specs = [spec(prompt(1, llama), max_tokens=40)]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts, depth=4, width=2)
    monkeypatch.setattr(PassRunner, "waits_for_device", True)
    order = []
    draw = CoupledDraws.draw

    def drawn(self, logits, rows, meanwhile):
        return draw(self, logits, rows, lambda: (order.append("pass"), meanwhile()))

    monkeypatch.setattr(CoupledDraws, "draw", drawn)
    with EngineHarness(llama, target_settings(), drafter, is_lockstep=True) as harness:
        harness.on_published = lambda _, length: order.append(length)
        results = harness.run(*specs)
        compare(llama, specs, texts, results, harness)
    lengths = [one for one in order if one != "pass"]
    # The first tokens are told while the second pass runs, the last ones without another.
    assert order[:3] == ["pass", "pass", lengths[0]]
    assert order[-1] == len(specs[0].token_ids) + 40
    assert order.count("pass") == len(lengths)
