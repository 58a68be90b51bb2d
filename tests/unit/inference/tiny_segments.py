"""Segments of targets and what their logits must be."""

import numpy as np
import torch
from tests.unit.inference.tiny_models import TinyModel

from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import ROOT
from treedraft.inference.segment import Segment


def tokens(count: int, seed: int = 0) -> list[int]:
    """Return random token ids."""
    return np.random.default_rng(seed).integers(0, 97, count).tolist()


def chunk(token_ids, slots, start, stop, output_rows=None) -> Segment:
    """Return the segment of prompt tokens [start, stop)."""
    num_rows = stop - start
    return Segment(
        token_ids=token_ids[start:stop],
        positions=range(start, stop),
        write_slots=slots[start:stop],
        context_slots=slots[:start],
        tree_slots=slots[start:stop],
        tree_mask=np.tril(np.ones((num_rows, num_rows), dtype=np.bool_)),
        output_rows=range(num_rows) if output_rows is None else output_rows,
    )


def tree_pass(token_ids, slots, tree: FlatTree) -> Segment:
    """Return the last token of a text as root and the nodes below it."""
    root = len(token_ids) - 1
    rows = tree.num_nodes + 1
    return Segment(
        token_ids=[token_ids[-1], *tree.token_ids],
        positions=[root, *(root + depth for depth in tree.depths)],
        write_slots=slots[root : root + rows],
        context_slots=slots[:root],
        tree_slots=slots[root : root + rows],
        tree_mask=tree.ancestor_mask(),
        output_rows=range(rows),
    )


def tree_of(parents: list[int], seed: int = 1) -> FlatTree:
    """Return a tree of random tokens."""
    depths: list[int] = []
    for parent in parents:
        depths.append(1 if parent == ROOT else depths[parent] + 1)
    return FlatTree(
        token_ids=tuple(tokens(len(parents), seed)), parents=tuple(parents), depths=tuple(depths)
    )


def logits_by_definition(model: TinyModel, token_ids, tree: FlatTree) -> torch.Tensor:
    """Return the logits of root and nodes, each by a causal forward over its path."""
    paths = [[], *([tree.token_ids[i] for i in tree.path(n)] for n in range(tree.num_nodes))]
    return torch.stack([model.causal_logits([*token_ids, *path])[-1] for path in paths])


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert that logits are equal up to rounding."""
    assert expected.std() > 0.5  # otherwise closeness would show nothing
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
