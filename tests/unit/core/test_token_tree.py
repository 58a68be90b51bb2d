"""Grafting, re-rooting and flattening, case by case; random cases are in `properties`."""

from dataclasses import replace

import numpy as np
import pytest

from treedraft.core.errors import InvalidGrowthError
from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import ROOT, Growth, SiblingLaw, TokenSource
from treedraft.core.token_tree import TokenTree

MODEL = TokenSource.DRAFT_MODEL
VOCAB = 100


def growth(base_length, first_node_id, nodes, *, laws=()):
    """Build a growth of (parent offset, token, score) triples."""
    offsets, tokens, scores = zip(*nodes, strict=True) if nodes else ((), (), ())
    return Growth(
        session_number=1,
        base_length=base_length,
        first_node_id=first_node_id,
        parent_offsets=tuple(offsets),
        token_ids=tuple(tokens),
        scores=tuple(scores),
        sources=(MODEL,) * len(nodes),
        sibling_laws=tuple(laws),
    )


def two_level_tree():
    """Root with children 10 (-0.5) and 11 (-1.5); 10 has 20 (-1.0), 20 has 30 (-1.25)."""
    tree = TokenTree(3)
    a = tree.add(ROOT, 10, -0.5, MODEL)
    b = tree.add(ROOT, 11, -1.5, MODEL)
    c = tree.add(a, 20, -1.0, MODEL)
    d = tree.add(c, 30, -1.25, MODEL)
    return tree, (a, b, c, d)


def test_adding_a_sibling_of_the_same_token_changes_nothing():
    tree, (a, *_) = two_level_tree()
    assert tree.add(a, 20, -0.7, MODEL) is None
    assert len(tree) == 4
    assert tree.next_node_id == 4


def test_a_full_tree_takes_no_more():
    tree = TokenTree(1, max_nodes=1)
    assert tree.add(ROOT, 5, -0.1, MODEL) == 0
    assert tree.add(ROOT, 6, -0.1, MODEL) is None
    assert tree.graft(growth(1, 1, [(0, 6, -0.2)]), [9]).num_dropped == 1


def test_rerooting_at_a_child_keeps_its_subtree_and_ids():
    tree, (a, b, c, d) = two_level_tree()
    moved = tree.reroot([10])
    assert moved.is_hit
    assert moved.path == (a,)
    assert moved.removed_ids == (b,)
    assert tree.base_length == 4
    assert tree.children(ROOT) == {20: c}
    assert tree.path(d) == [c, d]


def test_rerooting_makes_scores_count_from_the_new_root():
    tree, (_, _, c, d) = two_level_tree()
    tree.reroot([10])
    assert tree.score(c) == pytest.approx(-0.5)
    assert tree.score(d) == pytest.approx(-0.75)
    tree.reroot([20])
    assert tree.score(d) == pytest.approx(-0.25)


def test_a_miss_clears_the_tree_but_reports_the_part_of_the_path_it_held():
    tree, (a, b, c, d) = two_level_tree()
    moved = tree.reroot([10, 20, 99])
    assert not moved.is_hit
    assert moved.path == (a, c)
    assert moved.removed_ids == (b, d)
    assert len(tree) == 0
    assert tree.base_length == 6


def test_a_bare_root_moves_and_growth_from_before_still_counts_from_where_it_began():
    tree = TokenTree(3)
    moved = tree.reroot([7, 8])
    assert (moved.is_hit, moved.path, moved.removed_ids) == (False, (), ())
    assert tree.base_length == 5
    assert tree.reroot([]).is_hit
    # Grown under the first root: 7, 8 and what follows; it scores from the present root.
    late = Growth(
        0, 3, 0, (0, 1, 1), (7, 8, 9), (-0.5, -0.75, -1.0), (TokenSource.DRAFT_MODEL,) * 3
    )
    added = tree.graft(late, [1, 2, 3, 7, 8]).added_ids
    assert [(tree[i].token_id, tree[i].score) for i in added] == [(9, pytest.approx(-0.25))]


def test_ids_are_not_used_again_after_a_miss():
    tree, _ = two_level_tree()
    tree.reroot([99])
    assert tree.add(ROOT, 1, -0.1, MODEL) == 4


def test_growth_on_a_stale_base_is_rerooted_with_its_scores():
    tree = TokenTree(2)
    committed = [1, 2]
    tree.graft(growth(2, 0, [(0, 10, -0.5)]), committed)
    committed.append(10)
    tree.reroot([10])
    # Sent before the drafter heard of the commit: scores count from length 2.
    stale = growth(2, 1, [(1, 20, -0.75), (2, 21, -1.5), (0, 11, -1.0), (1, 22, -1.0)])
    grafted = tree.graft(stale, committed)
    assert grafted.added_ids == (1, 2)
    assert grafted.num_dropped == 2
    assert tree.base_length == 3
    assert tree.score(1) == pytest.approx(-0.25)
    assert tree.score(2) == pytest.approx(-1.0)


def test_growth_that_foresaw_a_commit_the_tree_missed_is_still_of_use():
    tree = TokenTree(2)
    committed = [1, 2, 10, 20]
    assert not tree.reroot([10, 20]).is_hit
    late = growth(2, 0, [(0, 10, -0.5), (1, 20, -1.0), (1, 30, -1.5), (3, 31, -1.25)])
    grafted = tree.graft(late, committed)
    assert grafted.added_ids == (2,)
    assert grafted.num_dropped == 3
    assert tree.children(ROOT) == {30: 2}
    assert tree.score(2) == pytest.approx(-0.5)
    # A later frame may hang nodes under an id that is the root by now.
    assert tree.graft(growth(2, 4, [(3, 32, -2.0)]), committed).added_ids == (4,)
    assert tree.score(4) == pytest.approx(-1.0)
    assert tree.graft(growth(4, 5, [(0, 33, -2.0)]), committed).added_ids == (5,)


def test_children_of_dropped_nodes_are_dropped():
    tree = TokenTree(2)
    committed = [1, 2, 10]
    tree.reroot([10])
    grafted = tree.graft(growth(2, 0, [(0, 11, -0.1), (1, 12, -0.2)]), committed)
    assert grafted.added_ids == ()
    assert tree.graft(growth(3, 2, [(1, 13, -0.3)]), committed).num_dropped == 1


def test_a_growth_ahead_of_all_commits_is_refused():
    with pytest.raises(InvalidGrowthError):
        TokenTree(2).graft(growth(3, 0, [(0, 1, -0.1)]), [1, 2])


def test_node_ids_must_count_up():
    tree = TokenTree(2)
    tree.graft(growth(2, 7, [(0, 1, -0.1)]), [1, 2])
    with pytest.raises(InvalidGrowthError):
        tree.graft(growth(2, 7, [(0, 2, -0.1)]), [1, 2])


def test_a_grafted_child_never_scores_above_its_parent():
    tree = TokenTree(2)
    tree.graft(growth(2, 0, [(0, 1, -2.0)]), [1, 2])
    tree.graft(growth(2, 1, [(1, 3, -0.5)]), [1, 2])
    assert tree.score(1) == -2.0


def test_a_new_score_moves_what_hangs_below_and_stays_under_the_parents():
    tree = TokenTree(1)
    a = tree.add(ROOT, 5, -1.0, MODEL)
    b = tree.add(a, 6, -1.5, MODEL)
    c = tree.add(b, 7, -2.0, MODEL)
    tree.rescore(b, -3.0)
    assert [tree.score(node) for node in (a, b, c)] == [-1.0, -3.0, -3.5]
    tree.rescore(b, -0.5)
    assert [tree.score(node) for node in (a, b, c)] == [-1.0, -1.0, -1.5]


def test_new_scores_come_before_new_nodes_and_those_of_gone_nodes_are_ignored():
    tree = TokenTree(1)
    tree.graft(growth(1, 0, [(0, 5, -1.0), (0, 6, -1.0)]), [0])
    news = replace(growth(1, 2, [(2, 7, -2.5)]), rescored_ids=(0, 1), rescored_scores=(-2.0, -0.5))
    tree.graft(news, [0])
    assert [node.score for node in tree] == [-2.0, -0.5, -2.5]
    tree.reroot([6])
    gone = replace(growth(2, 3, []), rescored_ids=(0,), rescored_scores=(-0.1,))
    assert tree.graft(gone, [0, 6]).num_dropped == 0


def test_a_new_score_of_a_node_that_was_committed_meanwhile_counts_for_what_follows():
    tree = TokenTree(1)
    tree.graft(growth(1, 0, [(0, 5, -1.0), (1, 6, -1.5)]), [0])
    tree.reroot([5])
    # The drafter did not know of the commit: both scores count from the root before.
    late = replace(growth(1, 2, [(1, 7, -0.75)]), rescored_ids=(0,), rescored_scores=(-0.25,))
    tree.graft(late, [0, 5])
    assert tree[1].score == pytest.approx(-0.5)
    assert tree[2].score == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("ids", "scores"),
    [
        ((0, 1), (-0.1,)),
        ((1, 0), (-0.1, -0.1)),
        ((1, 1), (-0.1, -0.1)),
        ((9,), (-0.1,)),  # not an earlier node
        ((-1,), (-0.1,)),
        ((0,), (0.1,)),
        ((0,), (float("nan"),)),
        (tuple(range(2000)), (-0.1,) * 2000),
    ],
)
def test_new_scores_must_be_of_earlier_nodes(ids, scores):
    first = 5000 if len(ids) > 10 else 9
    good = growth(1, first, [(0, 5, -0.5)])
    good.check(VOCAB)
    with pytest.raises(InvalidGrowthError):
        replace(good, rescored_ids=ids, rescored_scores=scores).check(VOCAB)


def test_a_long_session_forgets_old_ids_and_stays_bounded():
    tree = TokenTree(1)
    committed = [0]
    for step in range(2000):
        node = tree.add(ROOT, step % VOCAB, -1.0, MODEL)
        tree.reroot([step % VOCAB])
        committed.append(step % VOCAB)
        assert node == step
    # Length 1 is long forgotten: its nodes are dropped, present ones are taken.
    assert tree.graft(growth(1, 2000, [(0, 5, -0.5)]), committed).num_dropped == 1
    assert tree.graft(growth(2001, 2001, [(0, 5, -0.5)]), committed).added_ids == (2001,)
    assert tree.score(2001) == -0.5


def test_flatten_puts_the_best_path_first():
    tree, (a, b, c, d) = two_level_tree()
    e = tree.add(a, 21, -0.9, MODEL)
    flat = tree.flatten([a, b, c, d, e])
    assert flat.node_ids == (a, e, c, d, b)
    assert flat.parents == (ROOT, 0, 0, 2, ROOT)
    assert flat.depths == (1, 2, 2, 3, 1)
    assert flat.path(3) == [0, 2, 3]
    assert flat.children() == [[0, 4], [1, 2], [], [3], [], []]


def test_flatten_refuses_a_set_without_its_ancestors():
    tree, (_, _, c, _) = two_level_tree()
    with pytest.raises(ValueError, match="closed under ancestors"):
        tree.flatten([c])


def test_flatten_of_equal_scores_puts_the_older_node_first():
    tree = TokenTree(1)
    first, second = tree.add(ROOT, 8, -1.0, MODEL), tree.add(ROOT, 3, -1.0, MODEL)
    assert tree.flatten([second, first]).node_ids == (first, second)


def test_the_mask_of_a_bare_root_is_one_cell():
    assert FlatTree().ancestor_mask().tolist() == [[True]]


def test_the_mask_row_of_a_node_is_its_path():
    tree, ids = two_level_tree()
    flat = tree.flatten(ids)
    expected = np.array(
        [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0],
            [1, 0, 0, 0, 1],
        ],
        dtype=bool,
    )
    assert (flat.ancestor_mask() == expected).all()


@pytest.mark.parametrize(
    "bad",
    [
        growth(1, 0, [(1, 5, -0.1)]),  # a parent before all ids
        growth(1, 0, [(0, VOCAB, -0.1)]),
        growth(1, 0, [(0, -1, -0.1)]),
        growth(1, 0, [(0, 5, 0.5)]),
        growth(1, 0, [(0, 5, float("nan"))]),
        growth(1, 0, [(0, 5, float("-inf"))]),
        growth(1, 0, [(0, 5, -1.0), (1, 6, -0.5)]),  # above its parent
        growth(0, 0, [(0, 5, -0.1)]),
        growth(1, -1, [(0, 5, -0.1)]),
        Growth(1, 1, 0, (0,), (5, 6), (-0.1,), (MODEL,)),
    ],
)
def test_what_no_tree_can_be_is_refused(bad):
    with pytest.raises(InvalidGrowthError):
        bad.check(VOCAB)


@pytest.mark.parametrize(
    "law",
    [
        SiblingLaw(0, 3, (5, 6), (0.5, 0.5)),  # more children than sent
        SiblingLaw(0, 2, (5, 7), (0.5, 0.5)),  # a child outside the support
        SiblingLaw(0, 2, (5, 6), (0.5, 0.6)),
        SiblingLaw(0, 2, (5, 6, 7), (0.5, 0.5)),
        SiblingLaw(0, 2, (5, 6, 6), (0.5, 0.25, 0.25)),
        SiblingLaw(0, 2, (5, 6, 7), (0.5, 0.5, 0.0)),
        SiblingLaw(0, 2, (5, 6, VOCAB), (0.5, 0.25, 0.25)),
        SiblingLaw(0, 0, (5, 6), (0.5, 0.5)),
    ],
)
def test_a_sibling_law_must_fit_its_children(law):
    siblings = [(0, 5, -0.5), (0, 6, -1.0)]
    growth(1, 0, siblings, laws=[SiblingLaw(0, 2, (5, 6, 7), (0.5, 0.25, 0.25))]).check(VOCAB)
    with pytest.raises(InvalidGrowthError):
        growth(1, 0, siblings, laws=[law]).check(VOCAB)


def test_a_sibling_law_covers_children_of_one_parent_only():
    law = SiblingLaw(0, 2, (5, 6), (0.5, 0.5))
    with pytest.raises(InvalidGrowthError):
        growth(1, 0, [(0, 5, -0.5), (1, 6, -1.0)], laws=[law]).check(VOCAB)
