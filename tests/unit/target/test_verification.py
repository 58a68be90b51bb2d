import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import ROOT, SiblingLaw, TokenSource
from treedraft.core.noise import Domain
from treedraft.target.verification import coupled_walk, rejection_walk


def flat_tree(parents, token_ids, node_ids=None):
    depths = []
    for parent in parents:
        depths.append(1 if parent == ROOT else depths[parent] + 1)
    return FlatTree(
        node_ids=tuple(node_ids or range(len(parents))),
        token_ids=tuple(token_ids),
        parents=tuple(parents),
        depths=tuple(depths),
        sources=(TokenSource.DRAFT_MODEL,) * len(parents),
    )


def noise_of(**by_domain):
    """Uniform numbers: one constant per domain, or a map from (depth, token)."""

    def draw(depth, token_id, domain):
        value = by_domain[domain.name.lower()]
        return value[depth, token_id] if isinstance(value, dict) else value

    return draw


#      root -> 10 -> 20 -> 30
#           -> 11 -> 20
TREE = flat_tree([ROOT, 0, 1, ROOT, 3], [10, 20, 30, 11, 20])


@pytest.mark.parametrize(
    ("drawn", "tokens", "accepted"),
    [
        ([99, 0, 0, 0, 0, 0], (99,), ()),
        ([10, 99, 0, 0, 0, 0], (10, 99), (0,)),
        ([10, 20, 30, 7, 0, 0], (10, 20, 30, 7), (0, 1, 2)),
        ([11, 0, 0, 0, 20, 5], (11, 20, 5), (3, 4)),
        ([11, 0, 0, 0, 30, 5], (11, 30), (3,)),
        ([20, 0, 0, 0, 0, 0], (20,), ()),
    ],
)
def test_coupled_walk_follows_the_draws(drawn, tokens, accepted):
    walk = coupled_walk(TREE, drawn)
    assert walk.token_ids == tokens
    assert walk.accepted == accepted


def test_a_bare_root_emits_its_own_draw():
    assert coupled_walk(FlatTree(), [4]).token_ids == (4,)
    probs = np.array([[0.25, 0.25, 0.5]])
    walk = rejection_walk(FlatTree(), {}, probs, noise_of(residual_draw=0.3))
    assert walk.token_ids == (1,)
    assert walk.accepted == ()


@st.composite
def trees(draw, vocab=4):
    parents, tokens, taken = [], [], set()
    for index in range(draw(st.integers(0, 12))):
        parent = draw(st.integers(ROOT, index - 1)) if parents else ROOT
        parent = min(parent, len(parents) - 1)
        token = draw(st.integers(0, vocab - 1))
        if (parent, token) not in taken:
            taken.add((parent, token))
            parents.append(parent)
            tokens.append(token)
    return flat_tree(parents, tokens)


@given(tree=trees(), seed=st.integers(0, 10_000))
def test_coupled_walk_emits_what_plain_steps_would(tree, seed):
    """The emitted tokens are those of one token a step, whatever the tree."""

    def draw_after(path):
        return int(np.random.default_rng([seed, *path]).integers(4))

    paths = [(), *(tuple(tree.token_ids[i] for i in tree.path(n)) for n in range(tree.num_nodes))]
    walk = coupled_walk(tree, [draw_after(path) for path in paths])
    plain = []
    while len(plain) < len(walk.token_ids):
        plain.append(draw_after(plain))
    assert list(walk.token_ids) == plain
    assert [tree.token_ids[node] for node in walk.accepted] == plain[:-1]
    # The walk ended because the tree did, not before.
    end = walk.accepted[-1] + 1 if walk.accepted else 0
    assert plain[-1] not in [tree.token_ids[node] for node in tree.children()[end]]


def test_a_draft_is_accepted_with_the_ratio_of_p_to_q():
    tree = flat_tree([ROOT], [1])
    law = SiblingLaw(0, 1, (1, 2), (0.8, 0.2))
    probs = np.array([[0.4, 0.4, 0.2], [1.0, 0.0, 0.0]])
    below = noise_of(acceptance=0.499, residual_draw=0.5)
    above = noise_of(acceptance=0.501, residual_draw=0.9999)
    assert rejection_walk(tree, {0: law}, probs, below).token_ids == (1, 0)
    # norm(max(p - q, 0)) = (1, 0, 0): token 1 has no residual, nor has 2.
    assert rejection_walk(tree, {0: law}, probs, above).token_ids == (0,)


def test_the_second_sibling_meets_the_residual_and_the_rest_of_q():
    tree = flat_tree([ROOT, ROOT], [0, 1])
    law = SiblingLaw(0, 2, (0, 1, 2), (0.5, 0.25, 0.25))
    probs = np.array([[0.2, 0.4, 0.4], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    # After the first: p = (0, 1/2, 1/2), q = (-, 1/2, 1/2): the second always holds.
    noise = noise_of(acceptance={(0, 0): 0.41, (0, 1): 0.999}, residual_draw=0.5)
    assert rejection_walk(tree, {0: law}, probs, noise).accepted == (1,)


def test_siblings_are_tried_in_the_order_of_their_draw_not_of_their_rows():
    law = SiblingLaw(4, 2, (0, 1), (0.5, 0.5))
    probs = np.array([[0.5, 0.5], [1.0, 0.0], [1.0, 0.0]])
    noise = noise_of(acceptance=0.9, residual_draw=0.5)
    tree = flat_tree([ROOT, ROOT], [1, 0], node_ids=[5, 4])
    assert rejection_walk(tree, {0: law}, probs, noise).accepted == (1,)


@pytest.mark.parametrize(
    "law",
    [None, SiblingLaw(0, 3, (1, 2, 0), (0.9, 0.05, 0.05))],
    ids=["no law", "incomplete group"],
)
def test_children_without_a_whole_group_are_point_masses(law):
    tree = flat_tree([ROOT, ROOT], [1, 2])
    probs = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    laws = {} if law is None else {0: law}

    def walk(first, second):
        noise = noise_of(acceptance={(0, 1): first, (0, 2): second}, residual_draw=0.9999)
        return rejection_walk(tree, laws, probs, noise)

    assert walk(0.299, 0.0).token_ids == (1, 0)
    assert walk(0.301, 0.285).token_ids == (2, 0)  # 0.2 / 0.7 = 0.2857
    assert walk(0.301, 0.287).token_ids == (0,)


def test_a_sure_greedy_target_accepts_its_token_and_nothing_else():
    probs = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for noise in (1e-16, 0.5, 1.0 - 2**-53):
        uniforms = noise_of(acceptance=noise, residual_draw=noise)
        hit = rejection_walk(flat_tree([ROOT], [1]), {}, probs, uniforms)
        miss = rejection_walk(flat_tree([ROOT], [2]), {}, probs, uniforms)
        assert hit.token_ids == (1, 2)
        assert miss.token_ids == (1,)


@pytest.mark.parametrize("noise", [2**-53, 1.0 - 2**-53])
def test_no_token_of_probability_zero_is_ever_emitted(noise):
    probs = np.array([[0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
    law = SiblingLaw(0, 1, (0, 1, 3), (0.998, 0.001, 0.001))
    for tokens in ([0], [1], [4]):
        used = {0: law} if tokens[0] in law.token_ids else {}
        uniforms = noise_of(acceptance=noise, residual_draw=noise)
        walk = rejection_walk(flat_tree([ROOT], tokens), used, probs, uniforms)
        assert probs[0, walk.token_ids[0]] > 0.0


def test_equal_laws_are_rejected_by_rounding_at_most_and_then_drawn_from():
    third = float(np.float32(1 / 3))
    law = SiblingLaw(0, 1, (0, 1, 2), (third, third, third))
    probs = np.array([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]])
    noise = noise_of(acceptance=1.0 - 2**-53, residual_draw=0.5)
    walk = rejection_walk(flat_tree([ROOT], [1]), {0: law}, probs, noise)
    assert walk.token_ids[0] in (0, 1, 2)


@settings(max_examples=60)
@given(tree=trees(vocab=4), seed=st.integers(0, 10_000))
def test_a_rejection_walk_is_a_path_of_the_tree_and_one_token_more(tree, seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(4), size=tree.num_nodes + 1)
    asked = []

    def uniforms(depth, token_id, domain):
        asked.append((depth, token_id, domain))
        return rng.uniform()

    walk = rejection_walk(tree, {}, probs, uniforms)
    assert tree.path(walk.accepted[-1]) == list(walk.accepted) if walk.accepted else True
    assert walk.token_ids[:-1] == tuple(tree.token_ids[node] for node in walk.accepted)
    # A number is never used twice, and only the end of the walk draws.
    assert len(asked) == len(set(asked))
    assert [domain for _, _, domain in asked].count(Domain.RESIDUAL_DRAW) == 1


def test_a_walk_ends_before_a_node_whose_own_draw_is_not_to_be_trusted():
    walk = coupled_walk(TREE, [10, 20, 30, 7, 0, 0], cut={1})
    assert (walk.token_ids, walk.accepted) == ((10, 20), (0,))
    assert coupled_walk(TREE, [10, 20, 30, 7, 0, 0], cut={0}).token_ids == (10,)


def test_an_accepted_draft_whose_own_law_is_not_to_be_trusted_takes_the_place_of_the_bonus():
    tree = flat_tree([ROOT], [1])
    law = SiblingLaw(0, 1, (1, 2), (0.8, 0.2))
    probs = np.array([[0.4, 0.4, 0.2], [1.0, 0.0, 0.0]])
    below, above = noise_of(acceptance=0.499), noise_of(acceptance=0.501, residual_draw=0.9999)
    walk = rejection_walk(tree, {0: law}, probs, below, cut={0})
    assert (walk.token_ids, walk.accepted) == ((1,), ())
    assert rejection_walk(tree, {0: law}, probs, above, cut={0}).token_ids == (0,)
