"""The law of the output is the target's, for each rule, tree and pair of laws.

Tests that must fail are here as well: rules that are wrong in ways that have
been shipped elsewhere are shown to be caught by the same chi-square test.
"""

import time

import numpy as np
import pytest
import torch
from tests.statistical.rounds import (
    START,
    VOCAB,
    Drafts,
    World,
    build,
    coupled_rule,
    draft,
    propose_coupled,
    propose_siblings,
    rejection_with,
    run_rounds,
)

from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import SiblingLaw
from treedraft.core.noise import Domain
from treedraft.core.sampling import SamplingParameters
from treedraft.inference.law import LawRow
from treedraft.target.verification import Walk, rejection_walk

pytestmark = pytest.mark.statistical

# Two tokens are drawn in each round.
NUM_ROUNDS = 100_000
NUM_WRONG_ROUNDS = 20_000
CERTAINLY_WRONG = 1e-6
# Fixed seeds: a right rule passes or fails for good, and passes.
PLAUSIBLE = 1e-3


def random_world(seed, distance, **sampling):
    generator = torch.Generator().manual_seed(seed)
    target_logits = torch.randn(VOCAB + 1, VOCAB, generator=generator)
    noise = torch.randn(VOCAB + 1, VOCAB, generator=generator)
    parameters = SamplingParameters(seed=1000 + seed, **sampling)
    return World(target_logits, target_logits + distance * noise, parameters)


def opposed_world():
    """The drafter likes best what the target likes least."""
    ladder = torch.linspace(-1.5, 1.5, VOCAB).expand(VOCAB + 1, -1)
    return World(ladder, -ladder, SamplingParameters(seed=77))


WORLDS = {
    "near": random_world(1, 0.5),
    "far": random_world(2, 1.5),
    "opposed": opposed_world(),
    "T=0.6 top-p=0.95": random_world(3, 1.0, temperature=0.6, top_p=0.95),
}
RULES = {
    "coupled": (propose_coupled, coupled_rule),
    "rejection": (propose_siblings, rejection_with()),
}


def describe(rule, world, shape, outcome, law, started):
    accepted = (outcome.num_accepted > 0).mean()
    return (
        f"{rule:<34} {world:<17} {shape:<9} {outcome.tokens.size:>7} draws"
        f"  p(first) {outcome.first_p_value(law):8.2g}  p(two) {outcome.p_value(law):8.2g}"
        f"  accepted {accepted:.3f}  {time.perf_counter() - started:5.1f} s"
    )


@pytest.mark.parametrize(
    ("world", "widths"),
    [
        ("near", (1, 1)),
        ("far", (3,)),
        ("opposed", (2, 2)),
        ("T=0.6 top-p=0.95", (3, 1)),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_output_follows_the_law_of_the_target(rule, world, widths, report):
    started = time.perf_counter()
    propose, verify = RULES[rule]
    outcome = run_rounds(
        WORLDS[world],
        NUM_ROUNDS,
        make_drafts=lambda w, bases: draft(w, bases, widths, propose),
        verify=verify,
    )
    law = WORLDS[world].joint_law()
    report(describe(rule, world, "x".join(map(str, widths)), outcome, law, started))
    assert outcome.first_p_value(law) > PLAUSIBLE
    assert outcome.p_value(law) > PLAUSIBLE


def test_children_of_no_law_are_right_however_they_were_chosen(report):
    """Lookup drafts, or groups that lost a member: always the two likeliest tokens."""
    started = time.perf_counter()
    world = WORLDS["far"]
    best = world.draft_logits.topk(2, dim=-1).indices.tolist()

    def make_drafts(_, bases):
        root = (best[START], None)
        return [build(root, [(best[token], None) for token in root[0]])] * len(bases)

    outcome = run_rounds(world, NUM_ROUNDS, make_drafts=make_drafts, verify=rejection_with())
    law = world.joint_law()
    report(describe("rejection, point masses", "far", "2x2", outcome, law, started))
    assert outcome.p_value(law) > PLAUSIBLE


def test_groups_may_be_given_or_not_by_what_other_branches_drew(report):
    """A best-first drafter looks at one group before it makes the next."""
    started = time.perf_counter()
    world = WORLDS["opposed"]
    outcome = run_rounds(
        world, NUM_ROUNDS // 2, make_drafts=draft_second_if_first_failed, verify=rejection_with()
    )
    law = world.joint_law()
    report(describe("rejection, grown by what it saw", "opposed", "2x(1,0)", outcome, law, started))
    assert outcome.p_value(law) > PLAUSIBLE


def draft_second_if_first_failed(world, bases, *, branches_differ=True):
    """Give the second child of the root a child only if the first one's was not token 0."""
    roots = draft(world, bases, (2,), propose_siblings)
    tokens = [token for one in roots for token in one.tree.token_ids]
    rows = [
        LawRow(world.sampling, int(base) + 1, branch=token if branches_differ else 0)
        for base, one in zip(bases, roots, strict=True)
        for token in one.tree.token_ids
    ]
    groups = propose_siblings(world.draft_logits[tokens], rows, 1)
    pairs = zip(groups[::2], groups[1::2], strict=True)
    return [
        build(
            (list(one.tree.token_ids), one.laws[0]),
            [first, None if first[0] == [0] else second],
        )
        for one, (first, second) in zip(roots, pairs, strict=True)
    ]


# --- rules that are wrong, and must be seen to be -------------------------------


def accept_without_residual(tree, laws, probs, uniforms):
    """Draw the last token from p itself, as if nothing had been rejected."""
    walk = rejection_walk(tree, laws, probs, uniforms)
    end = walk.accepted[-1] + 1 if walk.accepted else 0
    cumulative = np.cumsum(probs[end])
    draw = uniforms(len(walk.accepted), 0, Domain.RESIDUAL_DRAW) * cumulative[-1]
    token = int(np.searchsorted(cumulative, draw, side="right"))
    return Walk((*walk.token_ids[:-1], token), walk.accepted)


def swap_p_and_q(tree, laws, probs, uniforms):
    """Take the drafter's law for the target's and the other way round."""
    if not tree.num_nodes:
        return rejection_walk(tree, laws, probs, uniforms)
    swapped, laws_swapped = probs.copy(), {}
    for row, law in laws.items():
        swapped[row] = 0.0
        swapped[row, list(law.token_ids)] = law.probabilities
        laws_swapped[row] = SiblingLaw(
            law.first_child_id, law.num_children, tuple(range(VOCAB)), tuple(probs[row])
        )
    return rejection_walk(tree, laws_swapped, swapped, uniforms)


def prune_by_value(world, bases):
    """Leave out the children that are unlikely, and keep the law for the rest."""
    result = []
    for one in draft(world, bases, (1,), propose_siblings):
        law, token = one.laws[0], one.tree.token_ids[0]
        likely = dict(zip(law.token_ids, law.probabilities, strict=True))[token] > 0.15
        result.append(one if likely else Drafts(FlatTree(), {}))
    return result


def chain(propose):
    return lambda world, bases: draft(world, bases, (1, 1), propose)


def coupled_children_with_a_law(logits, rows, count):
    """Children drawn with the target's noise, sent as if drawn from q."""
    laws = propose_siblings(logits, rows, count)
    coupled = propose_coupled(logits, rows, count)
    return [(tokens, law) for (tokens, _), (_, law) in zip(coupled, laws, strict=True)]


def draft_with_shared_branch_noise(world, bases):
    return draft_second_if_first_failed(world, bases, branches_differ=False)


WRONG = {
    "acceptance without residual": (
        chain(propose_siblings),
        rejection_with(walk=accept_without_residual),
    ),
    "p and q swapped": (chain(propose_siblings), rejection_with(walk=swap_p_and_q)),
    "shared noise in a ratio test": (
        chain(coupled_children_with_a_law),
        rejection_with(acceptance=Domain.COUPLED_DRAW),
    ),
    "drafting noise reused to accept": (
        chain(propose_siblings),
        rejection_with(acceptance=Domain.DRAFT_SAMPLING),
    ),
    "children pruned by value": (prune_by_value, rejection_with()),
    "branches share their noise": (draft_with_shared_branch_noise, rejection_with()),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_caught(name, report):
    started = time.perf_counter()
    make_drafts, verify = WRONG[name]
    # The last fault is small; it shows best where all branches have one law.
    is_small = name == "branches share their noise"
    world_name = "opposed" if is_small else "far"
    num_rounds = 4 * NUM_WRONG_ROUNDS if is_small else NUM_WRONG_ROUNDS
    world = WORLDS[world_name]
    outcome = run_rounds(world, num_rounds, make_drafts=make_drafts, verify=verify)
    law = world.joint_law()
    report(describe(f"WRONG: {name}", world_name, "", outcome, law, started))
    assert outcome.p_value(law) < CERTAINLY_WRONG
