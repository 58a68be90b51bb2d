import random

import pytest
import torch

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.tree_attention import (
    ATTENTION_NAME,
    AttentionGroup,
    AttentionPlan,
    attend,
    group_shapes,
)


class Layer(torch.nn.Module):
    layer_idx = 1


def one_group_plan(num_rows: int, mask: torch.Tensor | None) -> AttentionPlan:
    pool = KVPool(2, 10, 2, 4, dtype=torch.float32, device="cpu")
    group = AttentionGroup(1, slice(0, num_rows), None, None, slice(3, 3 + num_rows), mask)
    return AttentionPlan(pool, slice(3, 3 + num_rows), (group,), max_position=num_rows)


def test_the_name_is_what_models_are_loaded_with():
    from transformers import AttentionInterface

    assert ATTENTION_NAME == "treedraft"
    assert AttentionInterface()[ATTENTION_NAME] is attend


def test_attention_equals_its_definition_and_stores_the_rows():
    torch.manual_seed(0)
    query = torch.randn(1, 6, 3, 4)
    key, value = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    seen = torch.tensor([[True, False, False], [True, True, False], [True, False, True]])
    mask = torch.zeros(1, 1, 9, 3).masked_fill_(~seen.repeat(3, 1), -torch.inf)
    plan = one_group_plan(3, mask)
    output, weights = attend(Layer(), query, key, value, None, scaling=0.3, tree_plan=plan)
    scores = query @ key.repeat_interleave(3, dim=1).mT * 0.3
    scores = scores.masked_fill(~seen, -torch.inf)
    expected = scores.softmax(-1) @ value.repeat_interleave(3, dim=1)
    torch.testing.assert_close(output, expected.transpose(1, 2))
    assert weights is None
    assert torch.equal(plan.pool.keys[1, 3:6], key[0].transpose(0, 1))
    assert torch.equal(plan.pool.values[1, 3:6], value[0].transpose(0, 1))
    assert not plan.pool.keys[0].any()
    assert not plan.pool.keys[1, :3].any()
    assert not plan.pool.keys[1, 6:].any()


@pytest.mark.parametrize(
    "options", [{"softcap": 30.0}, {"s_aux": torch.zeros(6)}, {"sliding_window": 3}]
)
def test_attention_of_another_kind_is_refused(options):
    rows, plan = torch.zeros(1, 2, 3, 4), one_group_plan(3, None)
    with pytest.raises(UnsupportedModelError) as caught:
        attend(Layer(), rows, rows, rows, None, scaling=1.0, tree_plan=plan, **options)
    assert caught.value.reason == "UNSUPPORTED_ATTENTION"


def test_options_that_change_nothing_are_taken():
    rows, plan = torch.ones(1, 2, 3, 4), one_group_plan(3, None)
    options = {"softcap": None, "sliding_window": 4, "position_ids": None}
    output, _ = attend(Layer(), rows, rows, rows, None, scaling=1.0, tree_plan=plan, **options)
    assert torch.equal(output, torch.ones(1, 3, 2, 4))


def test_a_model_that_drops_the_plan_is_refused():
    rows = torch.zeros(1, 2, 3, 4)
    with pytest.raises(UnsupportedModelError, match="keyword arguments"):
        attend(Layer(), rows, rows, rows, None, scaling=1.0)


def test_sessions_of_one_shape_share_a_call():
    assert group_shapes([(1, 300)] * 64) == [list(range(64))]


def test_a_long_prompt_chunk_is_not_padded_to():
    groups = group_shapes([(1, 200), (512, 512), (1, 210), (1, 190)])
    assert sorted(map(sorted, groups)) == [[0, 2, 3], [1]]


def test_sixty_four_mixed_sessions_need_few_calls():
    rng = random.Random(0)
    shapes = [(rng.randint(1, 16), rng.randint(100, 1200)) for _ in range(64)]
    groups = group_shapes(shapes)
    assert sorted(index for group in groups for index in group) == list(range(64))
    assert len(groups) <= 32
    padded = sum(
        len(g) * max(shapes[i][0] for i in g) * max(shapes[i][1] for i in g) for g in groups
    )
    assert padded <= 2 * sum(rows * keys for rows, keys in shapes)
    assert len(group_shapes(shapes, is_on_cpu=False)) <= 4


def test_no_sessions_no_calls():
    assert group_shapes([]) == []
