"""Grows a session's tree by lookup: every place once, best first, no model."""

import heapq
import math

from treedraft.core.growth import ROOT, TokenSource
from treedraft.draft.session import DraftSession

_LEAST_PROBABILITY = 1e-6
# Where a model drafts as well, a step looks at so many places, the best, which the
# model is about to run, and along the copies that begin there. Looking takes about
# 0.05 ms a place, and the target may wait for it: places less likely than one in eight
# are looked at if they come true.
_PLACES_BESIDE_MODEL = 4
_LEAST_SCORE_BESIDE_MODEL = math.log(0.125)


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
    max_nodes = min(max_nodes, _num_free_nodes(session))
    # (negative score, node id, depth)
    pending = _places_not_looked_up(session)
    num_added = 0
    places_left = _PLACES_BESIDE_MODEL if session.model else limits.max_live_nodes + 1
    first_new_id = tree.next_node_id
    while pending and places_left and num_added < max_nodes:
        _, node_id, depth = heapq.heappop(pending)
        places_left -= node_id < first_new_id
        first_id = tree.next_node_id
        if _expand(session, node_id, max_nodes=max_nodes - num_added):
            session.looked_up.add(node_id)
        for child_id in range(first_id, tree.next_node_id):
            num_added += 1
            if depth + 1 < limits.max_depth:
                heapq.heappush(pending, (-tree.score(child_id), child_id, depth + 1))
    return num_added


def _num_free_nodes(session: DraftSession) -> int:
    if not session.model:
        return session.num_free_nodes
    # Where a model drafts as well, half of the tree is for its guesses.
    num_own = sum(node.source is TokenSource.LOOKUP for node in session.tree)
    return min(session.num_free_nodes, session.limits.max_live_nodes // 2 - num_own)


def _places_not_looked_up(session: DraftSession) -> list[tuple[float, int, int]]:
    limits, looked_up = session.limits, session.looked_up
    least = max(limits.min_score, _LEAST_SCORE_BESIDE_MODEL if session.model else -math.inf)
    depths = {ROOT: 0}
    places = []
    if ROOT not in looked_up and limits.max_depth:
        places.append((0.0, ROOT, 0))
    for node in session.tree:
        depth = depths[node.node_id] = depths[node.parent_id] + 1
        if node.node_id not in looked_up and depth < limits.max_depth and node.score > least:
            places.append((-node.score, node.node_id, depth))
    heapq.heapify(places)
    return places


def _expand(session: DraftSession, node_id: int, *, max_nodes: int) -> bool:
    """Add what lookup proposes at a place; return whether nothing was left out."""
    if session.is_rejection:
        _add_point_mass(session, node_id)
        return True
    assert session.lookup is not None
    path = session.path_tokens(node_id)
    guesses = [
        (proposal.token_id, math.log(proposal.probability))
        for proposal in session.lookup.say(path)
        if session.allows(path, proposal.token_id)
    ]
    new = session.hear(node_id, guesses, TokenSource.LOOKUP)
    room = session.limits.min_score - session.tree.score(node_id)
    least = math.log(max(session.lookup.min_probability, _LEAST_PROBABILITY))
    likely = [guess for guess in new if guess[1] >= least]
    worth = [guess for guess in likely if guess[1] >= room][:max_nodes]
    for token_id, log_probability in worth:
        session.add(node_id, token_id, log_probability, TokenSource.LOOKUP)
    return len(worth) == len(likely)


def _add_point_mass(session: DraftSession, node_id: int) -> None:
    # Lookup says one thing and always the same, so its law is a point mass. What
    # it says, and whether, depends on the text above alone, and on other texts.
    assert session.lookup is not None
    if node_id in session.grouped:
        return
    room = session.limits.min_score - session.tree.score(node_id)
    path = session.path_tokens(node_id)
    for proposal in session.lookup.propose(path)[:1]:
        if math.log(proposal.probability) >= room and session.allows(path, proposal.token_id):
            session.add_group(
                node_id,
                [proposal.token_id],
                [math.log(proposal.probability)],
                TokenSource.LOOKUP,
                support=[proposal.token_id],
                probabilities=[1.0],
            )
