"""Children that are held back until they are likely."""

import pytest

from treedraft.core.growth import ROOT, TokenSource
from treedraft.core.token_tree import TokenTree
from treedraft.draft.held_children import HeldChildren


@pytest.fixture
def tree():
    tree = TokenTree(5)
    first = tree.add(ROOT, 10, -1.0, TokenSource.DRAFT_MODEL)
    tree.add(first, 20, -3.0, TokenSource.DRAFT_MODEL)
    return tree


def test_the_likeliest_are_released_first_and_once(tree):
    held = HeldChildren()
    held.hold(0, [(31, -5.0), (30, -2.0)])
    held.hold(1, [(40, -0.5), (41, -9.0)])
    assert held.release(tree, min_score=-4.0, max_nodes=9) == [(0, 30, -2.0), (1, 40, -0.5)]
    assert held.release(tree, min_score=-4.0, max_nodes=9) == []
    assert held.release(tree, min_score=-6.0, max_nodes=9) == [(0, 31, -5.0)]


def test_no_more_are_released_than_asked_for(tree):
    held = HeldChildren()
    held.hold(0, [(30, -2.0), (31, -2.5)])
    assert held.release(tree, min_score=-4.0, max_nodes=0) == []
    assert held.release(tree, min_score=-4.0, max_nodes=1) == [(0, 30, -2.0)]
    assert held.release(tree, min_score=-4.0, max_nodes=1) == [(0, 31, -2.5)]


def test_they_move_with_the_root_and_become_likely(tree):
    held = HeldChildren()
    held.hold(ROOT, [(11, -5.0)])
    held.hold(0, [(30, -3.5)])
    held.hold(1, [(40, -3.0)])
    assert held.release(tree, min_score=-4.0, max_nodes=9) == []
    held.follow(tree.reroot([10]))
    assert held.release(tree, min_score=-4.0, max_nodes=9) == [(ROOT, 30, -3.5)]
    held.follow(tree.reroot([20]))
    assert held.release(tree, min_score=-4.0, max_nodes=9) == [(ROOT, 40, -3.0)]


def test_nothing_is_left_where_the_root_went_another_way(tree):
    held = HeldChildren()
    for place in (ROOT, 0, 1):
        held.hold(place, [(50, -0.1)])
    held.follow(tree.reroot([10, 99]))
    assert held.release(tree, min_score=-20.0, max_nodes=9) == []
