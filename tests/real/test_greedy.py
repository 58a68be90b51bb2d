"""The default model's greedy text is transformers' own, with and without drafts."""

import pytest
from tests.real.golden import compare_all, load_golden

from treedraft.core.sampling import SpeculationOptions
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan

pytestmark = pytest.mark.real_model

MAX_TIES = 4
# Every node that fits is verified, whether or not it pays on this machine.
VERIFY_ALL = {
    "TREEDRAFT_TARGET__GATE__ENABLED": "false",
    "TREEDRAFT_TARGET__BUDGET__MODE": "fixed",
    "TREEDRAFT_TARGET__BUDGET__MAX_NODES": "6",
}


def test_the_golden_file_has_what_was_asked_for():
    max_tokens, cases = load_golden()
    assert max_tokens == 128
    assert sorted({case.kind for case in cases}) == ["code", "prose", "question"]
    assert len(cases) == 24
    assert all(len(case.token_ids) == len(case.margins) for case in cases)


@pytest.mark.timeout(600)
async def test_without_speculation_and_with_lookup(default_model, capsys):
    async with LocalCluster(ClusterPlan(target=str(default_model), settings=VERIFY_ALL)) as cluster:
        plain_ties, plain = await compare_all(cluster.endpoint, SpeculationOptions(enabled=False))
        lookup_ties, lookup = await compare_all(cluster.endpoint, SpeculationOptions())
    report(capsys, "off", plain_ties, plain)
    report(capsys, "lookup", lookup_ties, lookup)
    assert sum(s.admitted_nodes for s in plain) == 0
    assert sum(s.accepted_nodes for s in lookup) > 50
    assert max(plain_ties, lookup_ties) <= MAX_TIES


@pytest.mark.timeout(600)
async def test_with_a_draft_model(default_model, shallow_draft, capsys):
    plan = ClusterPlan(target=str(default_model), draft=str(shallow_draft), settings=VERIFY_ALL)
    async with LocalCluster(plan) as cluster:
        ties, statistics = await compare_all(cluster.endpoint, SpeculationOptions())
    report(capsys, "draft model", ties, statistics)
    assert sum(s.accepted_nodes for s in statistics) > 50
    assert ties <= MAX_TIES


def report(capsys, mode, ties, statistics):
    emitted = sum(s.emitted_tokens for s in statistics)
    rounds = sum(s.rounds for s in statistics)
    with capsys.disabled():
        print(
            f"\n  greedy, {mode}: {len(statistics)} prompts, {emitted} tokens, identical but for "
            f"{ties} proven ties; tau {emitted / rounds:.2f}, "
            f"{sum(s.accepted_nodes for s in statistics)} of "
            f"{sum(s.admitted_nodes for s in statistics)} nodes accepted"
        )
