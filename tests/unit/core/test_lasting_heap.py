import gc

import pytest

from treedraft.core.lasting_heap import keep_heap


@pytest.fixture
def collector():
    thresholds = gc.get_threshold()
    yield gc
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_there_lasts_and_what_comes_after_is_still_collected(collector):
    lasting = [[number] for number in range(1000)]
    keep_heap()
    assert collector.get_freeze_count() > len(lasting)
    assert collector.isenabled()
    circle: list[object] = []
    circle.append(circle)
    del circle
    assert collector.collect() >= 1
