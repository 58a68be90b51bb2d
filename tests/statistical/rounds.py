"""Rounds of drafting and verification over laws known exactly.

A `World` is a pair of Markov chains over a small vocabulary: p, the target's,
and q, the drafter's. `run_rounds` plays many independent rounds with the real
functions of the product, each at positions of its own, and returns the first
two tokens that come out of each, to be compared with p.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats

from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import ROOT, SiblingLaw, TokenSource
from treedraft.core.noise import Domain, uniform
from treedraft.core.sampling import SamplingParameters
from treedraft.inference.draft_sampler import draft_children, draft_siblings
from treedraft.inference.sampler import LawRow, branch_of, coupled_draw, target_probs
from treedraft.target.verification import Walk, coupled_walk, rejection_walk

VOCAB = 6
START = VOCAB  # the state before the first token
_STRIDE = 4  # positions of one round, so that no two rounds share noise
_CHUNK = 20_000


@dataclass(frozen=True)
class World:
    """Logits of target and drafter by last token, float32 [VOCAB + 1, VOCAB]."""

    target_logits: torch.Tensor
    draft_logits: torch.Tensor
    sampling: SamplingParameters = field(default_factory=lambda: SamplingParameters(seed=2024))

    def joint_law(self) -> np.ndarray:
        """Return p of the first two tokens, [VOCAB, VOCAB]."""
        probs = target_probs(self.target_logits, [LawRow(self.sampling, 0)] * (VOCAB + 1))
        return probs[START][:, None] * probs[:VOCAB]


@dataclass(frozen=True)
class Drafts:
    """The tree of one round, BFS order, and the laws of its groups."""

    tree: FlatTree
    laws: dict[int, SiblingLaw]


@dataclass(frozen=True)
class Outcome:
    """First two tokens of each round, int64 [n, 2], and how many drafts were accepted."""

    tokens: np.ndarray
    num_accepted: np.ndarray

    def p_value(self, law: np.ndarray) -> float:
        """Return the chi-square p-value of the first two tokens against a joint law."""
        return chi_square(self.tokens[:, 0] * VOCAB + self.tokens[:, 1], law.ravel())

    def first_p_value(self, law: np.ndarray) -> float:
        """Return the chi-square p-value of the first token alone."""
        return chi_square(self.tokens[:, 0], law.sum(axis=1))


def chi_square(cells: np.ndarray, law: np.ndarray) -> float:
    counts = np.bincount(cells, minlength=len(law))
    possible = law > 0.0
    if counts[~possible].any():
        return 0.0
    expected = law[possible] / law[possible].sum() * counts.sum()
    assert expected.min() > 5.0, "a cell is too rare for a chi-square test"
    return float(stats.chisquare(counts[possible], expected).pvalue)


Propose = Callable[[torch.Tensor, Sequence[LawRow], int], list[tuple[list[int], SiblingLaw | None]]]


def propose_coupled(logits, rows, count):
    return [
        ([token for token, _ in children], None) for children in draft_children(logits, rows, count)
    ]


def propose_siblings(logits, rows, count):
    return [
        (tokens, SiblingLaw(0, len(tokens), law.token_ids, law.probabilities))
        for tokens, law in draft_siblings(logits, rows, count)
    ]


# Which children of the root get children: by round, the tokens of all of them.
Expand = Callable[[list[int]], Sequence[int]]


def draft(world: World, bases: np.ndarray, widths: Sequence[int], propose: Propose) -> list[Drafts]:
    """Draft a tree of one or two levels for each round."""
    count = len(bases)
    roots = propose(
        world.draft_logits[START].expand(count, -1),
        [LawRow(world.sampling, int(base)) for base in bases],
        widths[0],
    )
    if len(widths) == 1:
        return [build(root, []) for root in roots]
    owners = [(index, token) for index, (tokens, _) in enumerate(roots) for token in tokens]
    below = iter(
        propose(
            world.draft_logits[[token for _, token in owners]],
            [
                LawRow(world.sampling, int(bases[index]) + 1, branch=branch_of((token,)))
                for index, token in owners
            ],
            widths[1],
        )
    )
    return [build(root, [next(below) for _ in root[0]]) for root in roots]


def build(
    root: tuple[list[int], SiblingLaw | None],
    below: Sequence[tuple[list[int], SiblingLaw | None] | None],
) -> Drafts:
    """Lay out a group below the root and groups below its members."""
    tokens, parents, depths = list(root[0]), [ROOT] * len(root[0]), [1] * len(root[0])
    laws = {0: root[1]} if root[1] else {}
    for parent, group in enumerate(below):
        if group is None:
            continue
        members, law = group
        if law:
            laws[parent + 1] = SiblingLaw(
                len(tokens), len(members), law.token_ids, law.probabilities
            )
        tokens += members
        parents += [parent] * len(members)
        depths += [2] * len(members)
    tree = FlatTree(
        node_ids=tuple(range(len(tokens))),
        token_ids=tuple(tokens),
        parents=tuple(parents),
        depths=tuple(depths),
        sources=(TokenSource.DRAFT_MODEL,) * len(tokens),
    )
    return Drafts(tree, laws)


def target_rows(world: World, base: int, tree: FlatTree) -> tuple[list[int], list[LawRow]]:
    """Return the state and the law of each row of a pass."""
    return [START, *tree.token_ids], [
        LawRow(world.sampling, base),
        *(LawRow(world.sampling, base + depth) for depth in tree.depths),
    ]


Verify = Callable[[World, np.ndarray, Sequence[Drafts]], list[Walk]]


def verify_coupled(world, bases, drafts):
    states, rows, ends = [], [], []
    for base, one in zip(bases, drafts, strict=True):
        own_states, own_rows = target_rows(world, int(base), one.tree)
        states += own_states
        rows += own_rows
        ends.append(len(rows))
    drawn = coupled_draw(world.target_logits[states], rows)
    starts = [0, *ends[:-1]]
    return [
        coupled_walk(one.tree, drawn[start:end])
        for one, start, end in zip(drafts, starts, ends, strict=True)
    ]


def noise_table(world: World, bases: np.ndarray, domain: Domain) -> np.ndarray:
    """Return uniform numbers by round, depth and token."""
    shape = (len(bases), _STRIDE, VOCAB)
    tokens = np.broadcast_to(np.arange(VOCAB), shape)
    positions = np.broadcast_to((bases[:, None] + np.arange(_STRIDE))[:, :, None], shape)
    return uniform(tokens, positions, seed=world.sampling.seed, domain=domain)


def rejection_with(
    acceptance: Domain = Domain.ACCEPTANCE,
    walk: Callable[..., Walk] = rejection_walk,
) -> Verify:
    """Return the rejection rule, or one like it that takes noise or a walk of its own."""

    def verify(world, bases, drafts):
        tables = {
            Domain.ACCEPTANCE: noise_table(world, bases, acceptance),
            Domain.RESIDUAL_DRAW: noise_table(world, bases, Domain.RESIDUAL_DRAW),
        }
        law = target_probs(world.target_logits, [LawRow(world.sampling, 0)] * (VOCAB + 1))
        walks = []
        for index, one in enumerate(drafts):

            def uniforms(depth, token, domain, index=index):
                return float(tables[domain][index, depth, token])

            probs = law[[START, *one.tree.token_ids]]
            first = walk(one.tree, one.laws, probs, uniforms)
            if len(first.token_ids) == 1:
                # A plain step makes the second token.
                token = first.token_ids[0]
                second = walk(
                    FlatTree(), {}, law[[token]], lambda d, t, o, u=uniforms: u(d + 1, t, o)
                )
                first = Walk((token, *second.token_ids), first.accepted)
            walks.append(first)
        return walks

    return verify


def coupled_rule(world, bases, drafts):
    """Verify by the coupled draw; a plain step makes the second token if need be."""
    walks = verify_coupled(world, bases, drafts)
    tokens = [walk.token_ids[0] for walk in walks]
    second = coupled_draw(
        world.target_logits[tokens], [LawRow(world.sampling, int(base) + 1) for base in bases]
    )
    return [
        walk if len(walk.token_ids) > 1 else Walk((*walk.token_ids, token), walk.accepted)
        for walk, token in zip(walks, second, strict=True)
    ]


def run_rounds(
    world: World,
    num_rounds: int,
    *,
    make_drafts: Callable[[World, np.ndarray], list[Drafts]],
    verify: Verify,
) -> Outcome:
    """Play independent rounds and return the first two tokens of each."""
    tokens, accepted = [], []
    for start in range(0, num_rounds, _CHUNK):
        bases = np.arange(start, min(start + _CHUNK, num_rounds)) * _STRIDE + 1
        for walk in verify(world, bases, make_drafts(world, bases)):
            tokens.append(walk.token_ids[:2])
            accepted.append(len(walk.accepted))
    return Outcome(np.array(tokens), np.array(accepted))
