"""Windows, cooldowns and steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treedraft.autoscaler.pace import PaceMemory, follow
from treedraft.autoscaler.settings import PaceSettings

# Windows and steps by themselves: needs as they are.
PACE = PaceSettings(smoothing_seconds=0)


class Pool:
    def __init__(self, size, pace=PACE):
        self.size, self.pace, self.memory, self.now = size, pace, PaceMemory(), 0.0
        self.held = ""

    def during(self, seconds, need):
        end = self.now + seconds
        while self.now < end:
            step = follow(self.pace, self.memory, now=self.now, current=self.size, need=need)
            self.size, self.held, self.memory = step.replicas, step.held, step.memory
            self.now += 5.0
        return self.size


def test_a_need_that_lasts_is_met():
    pool = Pool(4)
    assert pool.during(25, 7.0) == 4
    assert "not for 30 s yet" in pool.held
    assert pool.during(15, 7.0) == 7


def test_a_peak_shorter_than_the_window_moves_nothing():
    pool = Pool(4)
    pool.during(60, 4.0)
    pool.during(25, 12.0)
    assert pool.during(600, 4.0) == 4


def test_a_dip_shorter_than_the_window_moves_nothing():
    pool = Pool(8)
    pool.during(600, 8.0)
    pool.during(250, 2.0)
    assert pool.during(60, 8.0) == 8


def test_needs_are_averaged_so_that_chance_moves_little():
    calm, nervous = Pool(20, PaceSettings()), Pool(20, PACE)
    for number in range(600):
        need = 17.0 + 6.0 * (-1) ** (number // 8)
        for pool in (calm, nervous):
            pool.during(5, need)
    assert calm.size < nervous.size
    assert calm.size >= 17


def test_an_average_follows_what_stays():
    pool = Pool(4, PaceSettings())
    pool.during(60, 4.0)
    assert pool.during(300, 8.0) == 8


def test_growth_comes_in_steps_with_pauses():
    pool = Pool(2)
    sizes = []
    for _ in range(30):
        pool.during(5, 40.0)
        sizes.append(pool.size)
    assert sizes[-1] == 40
    assert [size for i, size in enumerate(sizes) if i == 0 or size != sizes[i - 1]] == [
        *(2, 6, 12, 24, 40)
    ]


def test_shrinking_takes_single_steps_with_pauses():
    pool = Pool(10)
    pool.during(300, 1.0)
    assert pool.size == 10
    assert pool.during(130, 1.0) == 7


def test_a_pool_shrinks_to_what_holds_the_need_and_grows_only_well_beyond_it():
    pool = Pool(10)
    assert pool.during(3000, 7.9) == 8
    assert pool.during(600, 8.7) == 8
    assert pool.during(600, 8.9) == 9


@given(
    size=st.integers(1, 50),
    needs=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=60),
)
def test_no_step_overshoots_what_was_needed_within_the_windows(size, needs):
    pool = Pool(size)
    for need in needs:
        before = pool.size
        pool.during(5, need)
        if pool.size > before:
            assert pool.size <= max(needs) + 1
            assert pool.size - before <= max(4, before)
        if pool.size < before:
            assert pool.size >= min(needs) - 1
            assert before - pool.size <= max(1, before // 10)


@given(needs=st.lists(st.sampled_from([3.0, 5.0]), min_size=200, max_size=200))
def test_memory_stays_bounded(needs):
    pool = Pool(4)
    for need in needs:
        pool.during(5, need)
        assert len(pool.memory.needs) <= 300 / 5 + 3


def test_a_level_is_remembered_by_its_ends():
    pool = Pool(4)
    pool.during(3000, 4.0)
    assert len(pool.memory.needs) <= 3


@pytest.mark.parametrize("size", [1, 3, 17])
def test_the_same_need_never_makes_a_pool_swing(size):
    for tenths in range(1, 300):
        pool = Pool(size)
        settled = pool.during(4000, tenths / 10)
        assert pool.during(1200, tenths / 10) == settled
