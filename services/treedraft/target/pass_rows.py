"""The rows of a pass: what the model is given of a session, and the laws drawn by at them.

The functions here are pure over one session's part of a pass: rows are laid out, slots and
mask with them, and each has its law, which knows the path to it where it has to.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import SiblingLaw
from treedraft.core.noise import Domain, uniform
from treedraft.inference.sampler import LawRow, TokenHistory
from treedraft.inference.segment import Segment
from treedraft.target.scheduler import SessionPass
from treedraft.target.session import TargetSession

_FIRST_ROW = (0,)
_ONE_ROW: npt.NDArray[np.bool_] = np.ones((1, 1), dtype=np.bool_)


def build_segment(session_pass: SessionPass, block_size: int) -> Segment:
    """Lay out the rows: committed tokens without KV, then the drafted nodes.

    Slots follow the order of the rows, so node `i` of the tree is written to
    the slot of index `num_tokens + i` of the session, and a walk along the
    first path needs no compaction.
    """
    session, tree = session_pass.session, session_pass.tree
    first = session.num_computed
    last = first + session_pass.num_new
    slots = session.slots(block_size, last + tree.num_nodes)
    own = slots[first:]
    if len(own) == 1:  # plain decoding: at a load nearly all rows are
        token_ids, outputs = session.token_ids[first:last], _FIRST_ROW[: session_pass.reaches_end]
        return Segment(token_ids, [first], own, slots[:first], own, _ONE_ROW, outputs)
    return Segment(
        token_ids=[*session.token_ids[first:last], *tree.token_ids],
        positions=[*range(first, last), *(last - 1 + depth for depth in tree.depths)],
        write_slots=own,
        context_slots=slots[:first],
        tree_slots=own,
        tree_mask=_row_mask(session_pass.num_new, tree),
        output_rows=range(session_pass.num_new - 1, session_pass.num_new + tree.num_nodes)
        if session_pass.reaches_end
        else (),
    )


def _row_mask(num_new: int, tree: FlatTree) -> npt.NDArray[np.bool_]:
    # Committed rows see what came before them; a node sees all of those, its
    # ancestors and itself. The last committed row is the root of the tree.
    if num_new == 1:
        return tree.ancestor_mask()
    num_rows = num_new + tree.num_nodes
    mask = np.zeros((num_rows, num_rows), dtype=np.bool_)
    mask[:num_new, :num_new] = np.tril(np.ones((num_new, num_new), dtype=np.bool_))
    mask[num_new:, : num_new - 1] = True
    mask[num_new - 1 :, num_new - 1 :] = tree.ancestor_mask()
    return mask


def law_rows(session: TargetSession, tree: FlatTree) -> list[LawRow]:
    """Return the law of the token drawn at the root and at each node."""
    if not tree.num_nodes:
        return [_law_row(session, 0, ())]
    if session.grammar is None and session.token_counts is None:
        return _law_rows_by_depth(session, tree)
    return [
        _law_row(session, 0, ()),
        *(_law_row(session, depth, _path(tree, index)) for index, depth in enumerate(tree.depths)),
    ]


def _law_rows_by_depth(session: TargetSession, tree: FlatTree) -> list[LawRow]:
    """Return the laws of a text of which they only ask how long it is."""
    known = {0: _law_row(session, 0, ())}
    rows = [known[0]]
    for index, depth in enumerate(tree.depths):
        if depth not in known:
            known[depth] = _law_row(session, depth, _path(tree, index))
        rows.append(known[depth])
    return rows


def _path(tree: FlatTree, index: int) -> tuple[int, ...]:
    return tuple(tree.token_ids[node] for node in tree.path(index))


def cut_nodes(session: TargetSession, tree: FlatTree) -> frozenset[int]:
    """Return the nodes at which the law is not known, once `law_rows` has asked for all."""
    grammar = session.grammar
    if grammar is None:
        return frozenset()
    paths = (_path(tree, index) for index in range(tree.num_nodes))
    return frozenset(index for index, path in enumerate(paths) if grammar.is_cut(path))


def _law_row(session: TargetSession, depth: int, path: tuple[int, ...]) -> LawRow:
    counts = session.token_counts
    return LawRow(
        sampling=session.spec.sampling,
        position=session.num_tokens + depth,
        choice=session.spec.choice,
        history=TokenHistory(counts, path) if counts is not None else None,
        allowed=session.allowed_after(path),
    )


def acceptance_noise(session: TargetSession) -> Callable[[int, int, Domain], float]:
    """Return the uniform numbers of rejection mode by (depth, token, domain)."""
    seed = session.spec.sampling.seed
    assert seed is not None

    def draw(depth: int, token_id: int, domain: Domain) -> float:
        numbers = uniform(
            np.array([token_id]),
            np.array([session.num_tokens + depth]),
            seed=seed,
            domain=domain,
            choice=session.spec.choice,
        )
        return float(numbers[0])

    return draw


def sibling_laws_by_row(session: TargetSession, tree: FlatTree) -> dict[int, SiblingLaw]:
    """Return the draft law of each row of the pass that has children in it."""
    return {
        row: session.sibling_laws[min(tree.node_ids[child] for child in children)]
        for row, children in enumerate(tree.children())
        if children
    }
