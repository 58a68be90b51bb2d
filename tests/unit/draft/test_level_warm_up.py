"""Steps of all sizes are run before sessions are, until they are replayed, and leave no trace."""

from treedraft.draft.level_warm_up import warm_up_levels
from treedraft.draft.model_children import DraftLimits
from treedraft.draft.settings import GrowthSettings
from treedraft.inference.block_pool import SlotPool

LIMITS = DraftLimits(97, 97, 512, frozenset({2}))
GROWTH = GrowthSettings(levels=2, max_rows_per_session=2, num_children=2)


class FakeGrower:
    def __init__(self):
        self.sizes = []
        self.level_ms = ()

    def grow(self, seeds, **rest):
        slots = [slot for seed in seeds for slot in (*seed.segment.write_slots, *seed.slots)]
        assert len(set(slots)) == len(slots)
        assert {len(seed.slots) for seed in seeds} == {rest["levels"] * rest["width"]}
        segment = seeds[0].segment
        assert len(segment.output_rows) == len(seeds[0].scores)
        self.sizes.append((len(seeds), segment.num_rows, len(seeds[0].scores)))
        # The first is compiled, the second recorded.
        pass_ms = {1: 500.0, 2: 50.0}.get(self.sizes.count(self.sizes[-1]), 1.0 + len(seeds))
        self.level_ms = [pass_ms] * (1 + rest["levels"])
        return [[] for _ in seeds]


def test_each_size_is_run_until_it_is_replayed():
    grower, pool = FakeGrower(), SlotPool(64)
    pass_ms = warm_up_levels(grower, pool, LIMITS, GROWTH, num_sessions=[1, 3])
    assert set(grower.sizes) == {
        (count, *size) for count in (1, 3) for size in [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2)]
    }
    assert all(grower.sizes.count(size) == 3 for size in grower.sizes)
    assert pool.num_free == 64
    # Of one session up to its four rows, then of three.
    assert pass_ms == {1: 2.0, 2: 2.0, 3: 2.0, 4: 2.0, 6: 4.0, 9: 4.0, 12: 4.0}


def test_what_does_not_fit_is_left_out():
    grower, pool = FakeGrower(), SlotPool(6)
    warm_up_levels(grower, pool, LIMITS, GROWTH, num_sessions=[1, 2])
    assert set(grower.sizes) == {(1, 1, 1), (1, 2, 1), (1, 2, 2)}
    assert pool.num_free == 6
