"""Which drafted tokens a pass accepts, and the token that ends the walk.

Two rules, each a short function that reads like its source.

Coupled draw (Daliri, Musco, Suresh 2024, arXiv 2408.07978): the target has
drawn its own token at every row. The walk follows those tokens through the
tree for as long as the tree holds them. No draft law, no residual; what comes
out is what plain sampling with the same seed would have drawn.

Rejection sampling (Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023,
arXiv 2302.01318), on trees as recursive rejection without replacement (Jeon et
al. 2024, arXiv 2402.14160; the multi-step form of SpecInfer, arXiv 2305.09781,
with q renormalised after each rejection). p is the target's law, q the draft's;
they are never swapped. Exact as long as acceptance noise is independent of the
tree, and a group of siblings with a law is there as a whole.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import SiblingLaw
from treedraft.core.noise import Domain

_Probs = npt.NDArray[np.float64]


class Walk(NamedTuple):
    """The outcome of a round.

    `token_ids` are the emitted tokens: those of the nodes `accepted` (indices
    into the flat tree, from below the root down), then the bonus token.
    """

    token_ids: tuple[int, ...]
    accepted: tuple[int, ...]


def coupled_walk(tree: FlatTree, drawn: Sequence[int], cut: Container[int] = ()) -> Walk:
    """Follow the target's own draws through the tree.

    Args:
        tree: the drafted nodes of the pass.
        drawn: the token drawn at each row, the root's first.
        cut: nodes whose own draw is not to be trusted; a draw that names one ends the walk.
    """
    if not tree.num_nodes:
        return Walk((drawn[0],), ())
    children = tree.children()
    emitted, accepted = [drawn[0]], list[int]()
    row = 0
    while (node := _find(tree, children[row], drawn[row])) is not None and node not in cut:
        accepted.append(node)
        row = node + 1
        emitted.append(drawn[row])
    return Walk(tuple(emitted), tuple(accepted))


def _find(tree: FlatTree, nodes: Sequence[int], token_id: int) -> int | None:
    return next((node for node in nodes if tree.token_ids[node] == token_id), None)


def rejection_walk(
    tree: FlatTree,
    laws: Mapping[int, SiblingLaw],
    target_probs: _Probs,
    uniforms: Callable[[int, int, Domain], float],
    cut: Container[int] = (),
) -> Walk:
    """Accept drafted nodes by recursive rejection, and draw what none of them gave.

    Args:
        tree: the drafted nodes of the pass.
        laws: the law q that children were drawn from, by their parent's row. A
            child of no law, or of a law whose group is incomplete, is a point
            mass: right for any child, however it was chosen.
        target_probs: the law p at each row, float64 [num_nodes + 1, vocab].
        uniforms: noise in (0, 1) by depth below the root, token and domain,
            independent of all noise that the drafts were made with.
        cut: nodes whose own law is not to be trusted; one that is accepted ends the walk,
            its token in the place of a bonus.
    """
    children = tree.children()
    emitted, accepted = list[int](), list[int]()
    row = 0
    while True:
        depth = len(accepted)
        residual = target_probs[row]
        node = None
        for group, q in _sibling_groups(tree, children[row], laws.get(row)):
            node, residual = _reject_recursively(tree, group, residual, q, depth, uniforms)
            if node is not None:
                break
        if node is None:
            emitted.append(_draw(residual, uniforms(depth, 0, Domain.RESIDUAL_DRAW)))
            return Walk(tuple(emitted), tuple(accepted))
        emitted.append(tree.token_ids[node])
        if node in cut:
            return Walk(tuple(emitted), tuple(accepted))
        accepted.append(node)
        row = node + 1


def _reject_recursively(
    tree: FlatTree,
    group: Sequence[int],
    p: _Probs,
    q: dict[int, float],
    depth: int,
    uniforms: Callable[[int, int, Domain], float],
) -> tuple[int | None, _Probs]:
    """Try siblings in the order of their draw: (accepted node or None, residual p)."""
    for node in group:
        token = tree.token_ids[node]
        if uniforms(depth, token, Domain.ACCEPTANCE) * q[token] < p[token]:
            return node, p  # probability min(1, p(x) / q(x))
        p = _residual(p, q)
        q = _without(q, token)
    return None, p


def _residual(p: _Probs, q: Mapping[int, float]) -> _Probs:
    """Return norm(max(p - q, 0)): what accepted drafts have left of p."""
    support = list(q)
    left = p.copy()
    left[support] = np.maximum(left[support] - list(q.values()), 0.0)
    mass = left.sum()
    # Nothing is left where p equals q; only rounding rejects there.
    return left / mass if mass > 0.0 else p


def _without(q: Mapping[int, float], token: int) -> dict[int, float]:
    """Return q given that it is not `token`: the law of the next draw."""
    left = {other: probability for other, probability in q.items() if other != token}
    mass = sum(left.values())
    return {other: probability / mass for other, probability in left.items()}


def _sibling_groups(
    tree: FlatTree, nodes: Sequence[int], law: SiblingLaw | None
) -> list[tuple[list[int], dict[int, float]]]:
    """Return the children of a row with their q, in the order of their draw."""
    alone = sorted(nodes, key=lambda node: tree.node_ids[node])
    drawn = []
    if law is not None:
        ids = range(law.first_child_id, law.first_child_id + law.num_children)
        group = [node for node in alone if tree.node_ids[node] in ids]
        if len(group) == law.num_children:
            mass = sum(law.probabilities)
            shares = (probability / mass for probability in law.probabilities)
            drawn.append((group, dict(zip(law.token_ids, shares, strict=True))))
            alone = [node for node in alone if node not in group]
    return drawn + [([node], {tree.token_ids[node]: 1.0}) for node in alone]


def _draw(probs: _Probs, uniform: float) -> int:
    """Return the token at a point of the distribution function."""
    cumulative = np.cumsum(probs)
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(index, int(np.flatnonzero(probs)[-1]))
