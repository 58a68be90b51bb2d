"""Which nodes to grow next: best first, over all sessions of a drafter.

Pure functions over trees; nothing here knows of a model. A node is expanded by
running its token through the model, which needs the KV of everything above it,
so the frontier are nodes whose parent is expanded. The best path score goes
first wherever it is, after each session has its root expanded: without that it
has no tree at all.

Invariant: whether a node is expanded, and into how many children, is decided
from its own path, never from what its children would be. Rejection sampling is
exact only so.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from treedraft.core.exchange import Economics
from treedraft.core.growth import ROOT
from treedraft.core.sampling import SpeculationOptions
from treedraft.core.token_tree import TokenTree
from treedraft.draft.settings import GrowthSettings

# What it takes to write a node and to read it, at both ends together.
_NODE_US = 6.0
# However cheap tokens are at a load, what is likely to be verified is told.
_MOST_LEAST_SCORE = -4.0


@dataclass(frozen=True, slots=True)
class GrowthLimits:
    """How far one session's tree is grown."""

    max_live_nodes: int
    max_depth: int
    num_children: int
    min_score: float
    min_child_score: float = -8.0

    @classmethod
    def of(cls, settings: GrowthSettings, options: SpeculationOptions) -> "GrowthLimits":
        """Return the limits of a session that asked for these options.

        A session that admits few nodes to a pass still profits from a tree that
        reaches beyond the pass under way, up to the end of the one after it.
        """
        if not options.enabled or options.max_nodes == 0 or options.max_depth == 0:
            return cls(0, 0, settings.num_children, settings.min_score, settings.min_child_score)
        max_depth = settings.max_depth
        if options.max_depth is not None:
            max_depth = min(max_depth, 2 * options.max_depth + 1)
        return cls(
            settings.max_live_nodes,
            max_depth,
            settings.num_children,
            settings.min_score,
            settings.min_child_score,
        )


def least_score(limits: GrowthLimits, economics: Economics) -> float:
    """Return the score of a path from which on a node is worth telling the target of.

    A node that comes true spares the target a token's time at best.
    """
    if not economics.token_us:
        return limits.min_child_score
    worth = math.log(_NODE_US / economics.token_us)
    return max(limits.min_child_score, min(worth, _MOST_LEAST_SCORE))


@dataclass(frozen=True, slots=True)
class Wish:
    """What a session would like to have computed next.

    Either `num_missing` committed tokens have no KV, the root among them, or
    `nodes` are worth expanding, as (score, node id), best first.
    """

    num_missing: int
    nodes: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """What a session gets of a pass: so many missing tokens, or these nodes."""

    index: int
    num_tokens: int
    node_ids: tuple[int, ...] = ()


def frontier(
    tree: TokenTree,
    limits: GrowthLimits,
    *,
    expanded: Collection[int],
    barren: Collection[int],
) -> list[tuple[float, int]]:
    """Return the nodes worth expanding as (score, node id), best first.

    To be asked only when the root is expanded.

    Args:
        tree: the living tree.
        limits: how far to grow it.
        expanded: nodes that the model has run already.
        barren: tokens after which nothing follows.
    """
    if len(tree) >= limits.max_live_nodes:
        return []
    depths = {ROOT: 0}
    worth = []
    for node in tree:  # parents first
        depth = depths[node.node_id] = depths[node.parent_id] + 1
        if (
            node.node_id not in expanded
            and (node.parent_id == ROOT or node.parent_id in expanded)
            and depth < limits.max_depth
            and node.score >= limits.min_score
            and node.token_id not in barren
        ):
            worth.append((node.score, node.node_id))
    return sorted(worth, key=lambda entry: (-entry[0], entry[1]))


def plan_step(
    wishes: Sequence[Wish],
    *,
    max_rows: int,
    max_rows_per_session: int,
    prefill_chunk: int,
    num_worth_it: Callable[[Sequence[float]], int] = len,
) -> list[Share]:
    """Share the rows of one pass out.

    Sessions that miss committed tokens come first, in the order given, which
    the caller turns so that none is passed over for ever; then nodes by score.

    Args:
        wishes: one per session.
        max_rows: rows of the pass; prompt tokens beyond the first row of a
            session count against `prefill_chunk` instead.
        max_rows_per_session: nodes of one session.
        prefill_chunk: missing tokens over all sessions, the roots not counted.
        num_worth_it: says of the scores of a step's nodes, best first, how many to run.
            Not asked where a text misses tokens: the target wants drafts for it.
    """
    shares = []
    for index, wish in enumerate(wishes):
        if wish.num_missing and max_rows:
            num_tokens = min(wish.num_missing, 1 + prefill_chunk)
            prefill_chunk -= num_tokens - 1
            max_rows -= 1
            shares.append(Share(index, num_tokens))
    nodes = [
        (score, index, node_id)
        for index, wish in enumerate(wishes)
        if not wish.num_missing
        for score, node_id in wish.nodes[:max_rows_per_session]
    ]
    nodes.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    del nodes[max_rows:]
    if nodes and not shares:
        del nodes[num_worth_it([score for score, _, _ in nodes]) :]
    chosen: dict[int, list[int]] = {}
    for _, index, node_id in nodes:
        chosen.setdefault(index, []).append(node_id)
    shares.extend(Share(index, 0, tuple(node_ids)) for index, node_ids in chosen.items())
    return shares
