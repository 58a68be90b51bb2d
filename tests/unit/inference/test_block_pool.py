import pytest

from treedraft.core.errors import OverloadedError
from treedraft.inference.block_pool import BlockPool, SlotPool, slots_of


def published(pool: BlockPool, *hashes: bytes) -> list[int]:
    """Allocate and publish one page per hash."""
    blocks = pool.allocate(len(hashes))
    for block, page_hash in zip(blocks, hashes, strict=True):
        assert pool.publish(block, page_hash)
    return blocks


def test_slots_follow_the_pages():
    assert slots_of([7, 2, 9], 4, 0, 12).tolist() == [28, 29, 30, 31, 8, 9, 10, 11, 36, 37, 38, 39]
    assert slots_of([7, 2, 9], 4, 3, 9).tolist() == [31, 8, 9, 10, 11, 36]
    assert slots_of([7, 2, 9], 4, 12, 12).tolist() == []
    assert slots_of([], 4, 0, 0).tolist() == []


def test_slots_beyond_the_pages_are_a_bug():
    with pytest.raises(AssertionError):
        slots_of([7], 4, 0, 5)


def test_allocate_takes_neighbours_and_all_or_nothing():
    pool = BlockPool(4, 16)
    assert pool.allocate(3) == [0, 1, 2]
    with pytest.raises(OverloadedError) as caught:
        pool.allocate(2)
    assert caught.value.reason == "KV_POOL_FULL"
    assert pool.num_free == 1
    pool.release([1])
    assert pool.allocate(2) == [1, 3]
    pool.check_integrity()


def test_published_pages_outlive_their_session_and_are_found_again():
    pool = BlockPool(4, 16)
    blocks = published(pool, b"a", b"b")
    pool.release(blocks)
    assert pool.num_free == 4
    assert pool.cached_hashes() == {b"a", b"b"}
    assert pool.match_prefix([b"a", b"b", b"c"]) == blocks
    assert pool.num_free == 2
    pool.check_integrity()


def test_a_match_ends_at_the_first_unknown_page():
    pool = BlockPool(4, 16)
    blocks = published(pool, b"a", b"b")
    assert pool.match_prefix([b"a", b"x", b"b"]) == blocks[:1]
    assert pool.match_prefix([b"x"]) == []


def test_two_users_need_two_releases():
    pool = BlockPool(2, 16)
    blocks = published(pool, b"a")
    assert pool.match_prefix([b"a"]) == blocks
    pool.release(blocks)
    assert pool.num_free == 1
    pool.release(blocks)
    assert pool.num_free == 2
    with pytest.raises(AssertionError):
        pool.release(blocks)


def test_the_oldest_text_goes_first_and_of_a_text_its_end():
    pool = BlockPool(4, 16)
    old = published(pool, b"old 1", b"old 2")
    new = published(pool, b"new 1", b"new 2")
    pool.release(old)
    pool.release(new)
    assert pool.allocate(1) == [old[1]]
    assert pool.cached_hashes() == {b"old 1", b"new 1", b"new 2"}
    pool.allocate(2)
    assert pool.cached_hashes() == {b"new 1"}
    pool.check_integrity()


def test_use_makes_a_page_young_again():
    pool = BlockPool(2, 16)
    first, second = published(pool, b"a"), published(pool, b"b")
    pool.release(first)
    pool.release(second)
    pool.release(pool.match_prefix([b"a"]))
    assert pool.allocate(1) == second


def test_pages_in_use_are_never_evicted():
    pool = BlockPool(2, 16)
    published(pool, b"a", b"b")
    with pytest.raises(OverloadedError):
        pool.allocate(1)
    assert pool.cached_hashes() == {b"a", b"b"}


def test_the_first_page_of_a_hash_stays_and_the_second_stays_private():
    pool = BlockPool(3, 16)
    first = published(pool, b"a")
    (second,) = pool.allocate(1)
    assert not pool.publish(second, b"a")
    assert not pool.is_shared(second)
    assert pool.is_shared(first[0])
    pool.release([second])
    assert pool.match_prefix([b"a"]) == first
    assert pool.publish(first[0], b"a")
    pool.check_integrity()


def test_a_published_page_cannot_change_its_content():
    pool = BlockPool(1, 16)
    (block,) = published(pool, b"a")
    with pytest.raises(AssertionError):
        pool.publish(block, b"b")


def test_integrity_notices_a_lost_page():
    pool = BlockPool(2, 16)
    pool.check_integrity()
    pool._free.pop()
    with pytest.raises(AssertionError):
        pool.check_integrity()


def test_slot_pool_is_all_or_nothing_and_knows_double_release():
    pool = SlotPool(5)
    assert pool.allocate(3) == [0, 1, 2]
    with pytest.raises(OverloadedError) as caught:
        pool.allocate(3)
    assert caught.value.reason == "KV_POOL_FULL"
    assert pool.num_free == 2
    pool.release([1])
    assert pool.allocate(2) == [1, 3]
    pool.release([0])
    with pytest.raises(AssertionError):
        pool.release([0])
