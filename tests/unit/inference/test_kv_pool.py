import pytest
import torch

from treedraft.inference.kv_pool import KVPool


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def pool(request) -> KVPool:
    pool = KVPool(3, 8, 2, 4, dtype=request.param, device="cpu")
    pool.keys.copy_(torch.randn_like(pool.keys))
    pool.values.copy_(torch.randn_like(pool.values))
    return pool


def test_overlapping_copies_read_before_they_write(pool):
    keys, values = pool.keys.clone(), pool.values.clone()
    pool.copy_slots([5, 1, 2], [1, 2, 5])
    for before, after in ((keys, pool.keys), (values, pool.values)):
        assert torch.equal(after[:, [1, 2, 5]], before[:, [5, 1, 2]])
        assert torch.equal(after[:, [0, 3, 4, 6, 7]], before[:, [0, 3, 4, 6, 7]])


def test_copying_nothing_changes_nothing(pool):
    before = pool.keys.clone()
    pool.copy_slots([], [])
    assert torch.equal(pool.keys, before)


def test_two_tokens_cannot_go_to_one_slot(pool):
    with pytest.raises(AssertionError):
        pool.copy_slots([1, 2], [3, 3])


def test_layers_are_views_of_the_whole(pool):
    pool.key_layers[2][7] = 1.5
    pool.value_layers[0][0] = 2.5
    assert (pool.keys[2, 7] == 1.5).all()
    assert (pool.values[0, 0] == 2.5).all()


def test_geometry_and_size():
    pool = KVPool(3, 8, 2, 4, dtype=torch.bfloat16, device="cpu")
    assert (pool.num_layers, pool.num_slots, pool.num_kv_heads, pool.head_dim) == (3, 8, 2, 4)
    assert pool.num_bytes == 2 * 3 * 8 * 2 * 4 * 2
    assert not pool.keys.any()
