import os
from pathlib import Path

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


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_memory_is_taken_as_slots_are_used():
    before = resident_bytes()
    pool = KVPool(2, 131_072, 8, 64, dtype=torch.float32, device="cpu")
    assert pool.num_bytes == 1 << 30
    reserved = resident_bytes() - before
    pool.keys[:, : 131_072 // 2] = 1.0
    used = resident_bytes() - before
    assert reserved < 64 << 20
    assert used > 200 << 20
    assert not pool.keys[:, 131_072 // 2].any()


@pytest.mark.parametrize("num_slots", [1, 7, 4096])
def test_numbers_begin_at_a_cache_line(num_slots):
    pool = KVPool(1, num_slots, 1, 3, dtype=torch.bfloat16, device="cpu")
    assert pool.keys.data_ptr() % 64 == pool.values.data_ptr() % 64 == 0
