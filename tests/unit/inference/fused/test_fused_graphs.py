"""A size that comes once is launched, one that comes again is recorded and replayed."""

import pytest

from treedraft.inference.fused import graphs
from treedraft.inference.fused.graphs import PassGraphs


class FakeGraph:
    def __init__(self, launch):
        self.launch = launch
        self.num_replays = 0

    def replay(self):
        self.num_replays += 1


@pytest.fixture
def passes(monkeypatch):
    passes = PassGraphs()
    monkeypatch.setattr(passes, "_record", FakeGraph)
    monkeypatch.setattr(graphs.torch.cuda, "synchronize", lambda: None)
    return passes


def test_the_first_pass_is_launched_and_later_ones_are_replayed(passes):
    launched = []
    for _ in range(4):
        passes.run((1, 1), lambda: launched.append(1))
    assert len(launched) == 1
    assert passes._graphs[1, 1].num_replays == 3


def test_the_size_that_was_not_used_longest_is_dropped(passes, monkeypatch):
    monkeypatch.setattr(graphs, "_MAX_GRAPHS", 2)
    for key in (1, 2, 1, 3):
        passes.run((key,), lambda: None)
    assert list(passes._graphs) == [(1,), (3,)]


def test_a_cleared_size_is_launched_again(passes):
    launched = []
    for _ in range(2):
        passes.run((1,), lambda: launched.append(1))
    passes.clear()
    passes.run((1,), lambda: launched.append(1))
    assert len(launched) == 2
