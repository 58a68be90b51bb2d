import json

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
from treedraft.draft.settings import DraftSettings
from treedraft.inference.stamp import take_stamp
from treedraft.target.settings import TargetSettings


async def test_hits_are_counted_over_all_prompts():
    client = FakeClient()
    plan = HitsPlan(num_prompts=3, num_tokens=8)
    assert await measure(client, plan, 0.0) == (0.5, 4.0)  # a hit and a miss, 8 tokens in 2 rounds
    assert len({query.conversation for query in client.queries}) == 3
    assert client.max_running == 1


def test_a_tree_is_grown_whole_and_a_part_of_it_verified(monkeypatch):
    for name, value in _settings(HitsPlan(num_verified=8), 32, 2).items():
        monkeypatch.setenv(name, value)
    target, draft = TargetSettings(), DraftSettings()
    assert target.patience.is_synchronous
    assert (target.budget.mode, target.budget.max_nodes) == ("fixed", 8)
    assert (draft.growth.max_live_nodes, draft.growth.num_children) == (32, 2)


def test_the_table_has_a_row_for_each_width():
    plan = HitsPlan(num_grown=(8, 16), num_children=(1, 4), temperatures=(0.0, 0.7))
    points = tuple(
        HitsPoint(temperature, grown, children, 0.25, 2.5)
        for children in plan.num_children
        for grown in plan.num_grown
        for temperature in plan.temperatures
    )
    result = HitsResult(take_stamp(), plan, points)
    table = markdown(result)
    assert "| T = 0.7 | 0 beyond | 8 beyond |" in table
    assert table.count("| 4 children | 25%, τ 2.50 | 25%, τ 2.50 |") == 2
    assert len(json.loads(to_json(result))["points"]) == 8
