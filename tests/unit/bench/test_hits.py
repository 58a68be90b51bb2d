import json
from dataclasses import replace

from test_run import FakeClient

from treedraft.bench.hits import (
    HitsPlan,
    HitsPoint,
    HitsResult,
    _settings,
    markdown,
    measure,
    to_json,
)
from treedraft.core.generation import Delta
from treedraft.core.growth import TokenSource
from treedraft.core.session import RoundReport
from treedraft.draft.settings import DraftSettings
from treedraft.inference.stamp import take_stamp
from treedraft.target.settings import TargetSettings


async def test_hits_are_counted_over_all_prompts():
    client = FakeClient()
    plan = HitsPlan(num_prompts=3, num_tokens=8)
    found = await measure(client, plan, 0.0)
    assert found[:2] == (0.5, 4.0)  # a hit and a miss, 2 rounds
    assert all(query.watch_rounds for query in client.queries)
    assert len({query.conversation for query in client.queries}) == 3
    assert client.max_running == 1


async def test_rounds_are_ready_that_had_a_drafted_node_to_verify():
    class Watched(FakeClient):
        async def generate(self, query, **how):
            async for event in super().generate(query, **how):
                if isinstance(event, Delta):
                    nodes = {"parents": (-1,), "token_ids": (5,), "scores": (-0.5,)}
                    nodes |= {"sources": (TokenSource.DRAFT_MODEL,)}
                    report = RoundReport(0, **nodes) if event.base_length % 4 else RoundReport(0)
                    event = replace(event, rounds=(report,))
                yield event

    found = await measure(Watched(), HitsPlan(num_prompts=2, num_tokens=8), 0.0)
    assert found[3] == 0.75


def test_a_tree_is_grown_whole_and_a_part_of_it_verified(monkeypatch):
    for name, value in _settings(HitsPlan(num_verified=8), -4.5, 2).items():
        monkeypatch.setenv(name, value)
    target, draft = TargetSettings(), DraftSettings()
    assert target.patience.is_synchronous
    assert (target.budget.mode, target.budget.max_nodes) == ("fixed", 8)
    assert (draft.growth.max_live_nodes, draft.growth.num_children) == (320, 2)
    assert draft.growth.min_child_score == draft.growth.min_score == -4.5


def test_the_table_has_a_row_for_each_width():
    plan = HitsPlan(least_scores=(-4.0, -6.5), num_children=(1, 4), temperatures=(0.0, 0.7))
    points = tuple(
        HitsPoint(temperature, least_score, children, 0.25, 2.5, 31.0, 0.5)
        for children in plan.num_children
        for least_score in plan.least_scores
        for temperature in plan.temperatures
    )
    result = HitsResult(take_stamp(), plan, points)
    table = markdown(result)
    assert "| T = 0.7 | down to -4 | down to -6.5 |" in table
    assert (
        table.count(
            "| 4 children | 25%, ready 50%, τ 2.50, 31 nodes | 25%, ready 50%, τ 2.50, 31 nodes |"
        )
        == 2
    )
    assert len(json.loads(to_json(result))["points"]) == 8
