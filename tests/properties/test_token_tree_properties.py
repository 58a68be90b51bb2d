"""Random trees, commits and delays: what must hold of a tree however it came about.

The reference is a plain set of token paths under the committed text. A drafter
tree and a target tree are driven by the same commits, with frames that arrive
late, and must agree with it and with each other.
"""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treedraft.core.errors import InvalidGrowthError
from treedraft.core.growth import ROOT, Growth, TokenSource
from treedraft.core.token_tree import TokenTree

MODEL, LOOKUP = TokenSource.DRAFT_MODEL, TokenSource.LOOKUP
TOKENS = st.integers(0, 2)
# (which parent, token, log-probability given the parent, source)
PLANNED_NODES = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        TOKENS,
        st.floats(-3.0, 0.0, allow_nan=False),
        st.sampled_from([MODEL, LOOKUP]),
    ),
    max_size=12,
)


def rescore(tree, planned):
    """Give planned nodes other scores; return their ids."""
    ids = [node.node_id for node in tree]
    rescored = set()
    for pick, increment in planned if ids else ():
        node_id = ids[pick % len(ids)]
        tree.rescore(node_id, tree.score(tree[node_id].parent_id) + increment)
        rescored.add(node_id)
    return sorted(rescored)


def grow(tree, planned, rescored=()):
    """Add planned nodes at living places; return the growth that tells of them."""
    first, added = tree.next_node_id, []
    for pick, token_id, increment, source in planned:
        places = [ROOT, *(node.node_id for node in tree)]
        parent = places[pick % len(places)]
        node_id = tree.add(parent, token_id, tree.score(parent) + increment, source)
        if node_id is not None:
            added.append(tree[node_id])
    return Growth(
        session_number=1,
        base_length=tree.base_length,
        first_node_id=first,
        parent_offsets=tuple(0 if n.parent_id == ROOT else n.node_id - n.parent_id for n in added),
        token_ids=tuple(node.token_id for node in added),
        scores=tuple(node.score for node in added),
        sources=tuple(node.source for node in added),
        rescored_ids=tuple(rescored),
        rescored_scores=tuple(tree.score(node_id) for node_id in rescored),
    )


def token_path(tree, node_id):
    return tuple(tree[i].token_id for i in tree.path(node_id))


def living_paths(tree):
    return {token_path(tree, node.node_id): node.score for node in tree}


def check_invariants(tree):
    for place in (ROOT, *(node.node_id for node in tree)):
        for token_id, child_id in tree.children(place).items():
            child = tree[child_id]
            assert child.parent_id == place
            assert child.token_id == token_id
            assert child.score <= tree.score(place)
            assert child_id > place
    assert len(living_paths(tree)) == len(tree)
    ids = [node.node_id for node in tree]
    assert ids == sorted(ids)
    assert not ids or tree.next_node_id > ids[-1]


RESCORED = st.lists(
    st.tuples(st.integers(0, 10**6), st.floats(-3.0, 0.0, allow_nan=False)), max_size=3
)
# A run: each step rescores and grows, then maybe commits; frames reach the target late.
STEPS = st.lists(
    st.tuples(PLANNED_NODES, RESCORED, st.lists(TOKENS, max_size=3), st.integers(0, 3)), max_size=8
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_a_target_that_hears_late_holds_what_the_drafter_holds(steps):
    """The target commits on its own; drafter and target hear of each other late."""
    committed = [0, 1]
    drafter, target = TokenTree(2), TokenTree(2)
    frames, commits = [], []  # on their way
    all_paths = {}  # absolute path of every node ever drafted -> log-probability by step
    for planned, rescored, tokens, num_delivered in steps:
        growth = grow(drafter, planned, rescore(drafter, rescored))
        base = tuple(committed[: drafter.base_length])
        new_ids = range(growth.first_node_id, drafter.next_node_id)
        for node_id in (*growth.rescored_ids, *new_ids):
            node = drafter[node_id]
            all_paths[(*base, *token_path(drafter, node_id))] = node.score - drafter.score(
                node.parent_id
            )
        growth.check(3)
        frames.append(growth)
        for _ in range(min(num_delivered, len(frames))):
            target.graft(frames.pop(0), committed)
        if tokens:
            committed.extend(tokens)
            target.reroot(tokens)
            commits.append(tokens)
        while commits and num_delivered != 1:
            drafter.reroot(commits.pop(0))
        check_invariants(drafter)
        check_invariants(target)
        assert target.base_length == len(committed)
        for path in living_paths(target):
            assert (*committed, *path) in all_paths
    for growth in frames:
        target.graft(growth, committed)
    for tokens in commits:
        drafter.reroot(tokens)
    check_invariants(target)
    expected, found = living_paths(drafter), living_paths(target)
    # The target may know more: the drafter forgets a root that it missed.
    assert expected.keys() <= found.keys()
    for path, score in found.items():
        prefixes = [(*committed, *path[: i + 1]) for i in range(len(path))]
        assert score == pytest.approx(sum(all_paths[p] for p in prefixes), abs=1e-6)
        if path in expected:
            assert expected[path] == pytest.approx(score, abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(PLANNED_NODES, st.lists(TOKENS, min_size=1, max_size=4))
def test_rerooting_keeps_exactly_the_paths_below(planned, tokens):
    tree = TokenTree(5)
    grow(tree, planned)
    before = {node.node_id: token_path(tree, node.node_id) for node in tree}
    scores = {node.node_id: node.score for node in tree}
    by_path = {path: node_id for node_id, path in before.items()}
    moved = tree.reroot(tokens)
    walked = tuple(tokens)
    kept = {i: path[len(walked) :] for i, path in before.items() if path[: len(walked)] == walked}
    held = [by_path[walked[: i + 1]] for i in range(len(walked)) if walked[: i + 1] in by_path]
    assert list(moved.path) == held
    assert moved.is_hit == (walked in by_path)
    kept = {i: path for i, path in kept.items() if path}
    assert {node.node_id: token_path(tree, node.node_id) for node in tree} == kept
    assert set(moved.removed_ids) == set(before) - set(kept) - set(held)
    for node_id in kept:
        expected = scores[node_id] - scores[by_path[walked]]
        assert tree.score(node_id) == pytest.approx(min(0.0, expected), abs=1e-9)
    check_invariants(tree)


@settings(max_examples=200, deadline=None)
@given(PLANNED_NODES, st.data())
def test_flattening_any_closed_set_keeps_paths_and_masks(planned, data):
    tree = TokenTree(5)
    grow(tree, planned)
    ids = [node.node_id for node in tree]
    picked = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    admitted = {ancestor for node_id in picked for ancestor in tree.path(node_id)}
    flat = tree.flatten(admitted)
    assert set(flat.node_ids) == admitted
    for index, node_id in enumerate(flat.node_ids):
        path = [flat.node_ids[i] for i in flat.path(index)]
        assert path == tree.path(node_id)
        assert flat.depths[index] == len(path)
        assert flat.parents[index] < index
        assert flat.token_ids[index] == tree[node_id].token_id
        assert flat.sources[index] == tree[node_id].source
    # The mask by its definition: a row sees the root, its ancestors and itself.
    mask = flat.ancestor_mask()
    expected = np.zeros_like(mask)
    expected[:, 0] = True
    for index in range(flat.num_nodes):
        for ancestor in flat.path(index):
            expected[index + 1, ancestor + 1] = True
    assert (mask == expected).all()
    # Best path first: following the best child from the root is the first rows.
    rows, place = [], ROOT
    while children := [c for c in tree.children(place).values() if c in admitted]:
        place = max(children, key=lambda child: (tree.score(child), -child))
        rows.append(place)
    assert list(flat.node_ids[: len(rows)]) == rows


NUMBERS = st.integers(-2, 12)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            NUMBERS,
            NUMBERS,
            st.lists(
                st.tuples(NUMBERS, NUMBERS, st.floats(-5, 1) | st.just(float("nan"))),
                max_size=6,
            ),
            st.lists(TOKENS, max_size=2),
        ),
        max_size=8,
    )
)
def test_a_liar_is_refused_or_harmless(frames):
    """Whatever arrives, the tree keeps its invariants and its root."""
    committed = [1, 2, 0]
    tree = TokenTree(len(committed), max_nodes=9)
    for base_length, first_node_id, nodes, tokens in frames:
        growth = Growth(
            session_number=1,
            base_length=base_length,
            first_node_id=first_node_id,
            parent_offsets=tuple(offset for offset, _, _ in nodes),
            token_ids=tuple(token for _, token, _ in nodes),
            scores=tuple(score for _, _, score in nodes),
            sources=(MODEL,) * len(nodes),
        )
        with contextlib.suppress(InvalidGrowthError):
            growth.check(3)
            grafted = tree.graft(growth, committed)
            assert len(grafted.added_ids) + grafted.num_dropped == growth.num_nodes
        check_invariants(tree)
        assert len(tree) <= 9
        assert tree.base_length == len(committed)
        committed.extend(tokens)
        tree.reroot(tokens)


@given(PLANNED_NODES)
def test_grafting_a_growth_twice_is_refused(planned):
    drafter, target = TokenTree(2), TokenTree(2)
    growth = grow(drafter, planned)
    target.graft(growth, [0, 1])
    assert living_paths(target) == living_paths(drafter)
    again = replace(growth, session_number=2)
    if growth.num_nodes:
        with pytest.raises(InvalidGrowthError, match="count up"):
            target.graft(again, [0, 1])
