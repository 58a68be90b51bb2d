"""Grows a session's tree by lookup: every place once, best first, no model."""

import heapq
import math

from treedraft.core.growth import ROOT, TokenSource
from treedraft.draft.lookup import Proposal
from treedraft.draft.session import DraftSession


def grow_by_lookup(session: DraftSession, *, max_nodes: int) -> int:
    """Look up what follows the root and the nodes of the tree; return nodes added.

    The chain that follows a match comes about by itself: the copied token is a
    node, and at that node the same match is one token longer.

    Args:
        session: any session; without lookup nothing happens.
        max_nodes: nodes to add, at most.
    """
    tree, limits = session.tree, session.limits
    if session.lookup is None:
        return 0
    # Where a model drafts as well, half of the tree is for its guesses.
    max_live = limits.max_live_nodes // 2 if session.model else limits.max_live_nodes
    max_nodes = min(max_nodes, max_live - len(tree))
    # (negative score, node id, depth)
    pending = _places_not_looked_up(session)
    num_added = 0
    while pending and num_added < max_nodes:
        _, node_id, depth = heapq.heappop(pending)
        first_id = tree.next_node_id
        if _expand(session, node_id, max_nodes=max_nodes - num_added):
            session.looked_up.add(node_id)
        for child_id in range(first_id, tree.next_node_id):
            num_added += 1
            if depth + 1 < limits.max_depth:
                heapq.heappush(pending, (-tree.score(child_id), child_id, depth + 1))
    return num_added


def _places_not_looked_up(session: DraftSession) -> list[tuple[float, int, int]]:
    depths = {ROOT: 0}
    places = []
    if ROOT not in session.looked_up and session.limits.max_depth:
        places.append((0.0, ROOT, 0))
    for node in session.tree:
        depth = depths[node.node_id] = depths[node.parent_id] + 1
        if node.node_id not in session.looked_up and depth < session.limits.max_depth:
            places.append((-node.score, node.node_id, depth))
    heapq.heapify(places)
    return places


def _expand(session: DraftSession, node_id: int, *, max_nodes: int) -> bool:
    """Add what lookup proposes at a place; return whether nothing was left out."""
    assert session.lookup is not None
    room = session.limits.min_score - session.tree.score(node_id)
    proposals = session.lookup.propose(session.path_tokens(node_id))
    worth = [p for p in proposals if math.log(p.probability) >= room][:max_nodes]
    if session.is_rejection:
        if worth and node_id not in session.grouped:
            _add_point_mass(session, node_id, worth[0])
        return True
    for proposal in worth:
        log_probability = math.log(proposal.probability)
        session.add(node_id, proposal.token_id, log_probability, TokenSource.LOOKUP)
    return len(worth) == len(proposals)


def _add_point_mass(session: DraftSession, node_id: int, proposal: Proposal) -> None:
    # Lookup says one thing and always the same, so its law is a point mass. What
    # it says, and whether, depends on the text above alone.
    session.add_group(
        node_id,
        [proposal.token_id],
        [math.log(proposal.probability)],
        TokenSource.LOOKUP,
        support=[proposal.token_id],
        probabilities=[1.0],
    )
