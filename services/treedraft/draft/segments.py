"""The rows of one session in a pass of the draft model."""

from dataclasses import dataclass

import numpy as np

from treedraft.core.growth import ROOT
from treedraft.draft.model_state import DraftModelState
from treedraft.draft.session import DraftSession
from treedraft.inference.segment import Segment


@dataclass(frozen=True, slots=True)
class Work:
    """One session's part of a pass: missing tokens, or nodes to expand."""

    session: DraftSession
    state: DraftModelState
    num_tokens: int
    node_ids: tuple[int, ...]
    slots: list[int]

    @property
    def places(self) -> tuple[int, ...]:
        """Where the output rows are in the tree; none while tokens are missing."""
        if self.node_ids:
            return self.node_ids
        reaches_root = self.state.num_computed + self.num_tokens == self.session.num_tokens
        return (ROOT,) if reaches_root else ()


def build_segment(work: Work) -> Segment:
    """Return the rows of missing tokens or of nodes."""
    return _node_segment(work) if work.node_ids else _token_segment(work)


def _token_segment(work: Work) -> Segment:
    first, count = work.state.num_computed, work.num_tokens
    return Segment(
        token_ids=work.session.token_ids[first : first + count],
        positions=range(first, first + count),
        write_slots=work.slots,
        context_slots=work.state.prefix_slots,
        tree_slots=work.slots,
        tree_mask=np.tri(count, dtype=np.bool_),
        output_rows=[count - 1] if work.places else [],
    )


def _node_segment(work: Work) -> Segment:
    """Lay out new nodes: they see the prefix, their ancestors and themselves."""
    session, state = work.session, work.state
    paths = [session.tree.path(node_id) for node_id in work.node_ids]
    ancestors = list(dict.fromkeys(node for path in paths for node in path[:-1]))
    column_of = {node: column for column, node in enumerate([*ancestors, *work.node_ids])}
    mask = np.zeros((len(paths), len(column_of)), dtype=np.bool_)
    for row, path in enumerate(paths):
        mask[row, [column_of[node] for node in path]] = True
    return Segment(
        token_ids=[session.tree[node_id].token_id for node_id in work.node_ids],
        positions=[session.num_tokens - 1 + len(path) for path in paths],
        write_slots=work.slots,
        context_slots=state.prefix_slots,
        tree_slots=[*(state.node_slots[node] for node in ancestors), *work.slots],
        tree_mask=mask,
        output_rows=range(len(paths)),
    )
