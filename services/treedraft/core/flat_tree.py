"""Flat trees: the nodes admitted to one pass, in the order of its rows.

Parents come before children, and the best path comes first, so that the common
walk ends in a truncation of KV.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from treedraft.core.growth import ROOT, TokenSource


@dataclass(frozen=True, slots=True)
class FlatTree:
    """The drafted nodes of one pass, parents before children.

    Row 0 of the pass is the root (the last committed token); node `i` is row
    `i + 1`. `parents[i]` is a node index or ROOT; `depths[i]` counts from 1.
    """

    node_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    sources: tuple[TokenSource, ...] = ()

    @property
    def num_nodes(self) -> int:
        """Number of drafted nodes, the root not counted."""
        return len(self.token_ids)

    def ancestor_mask(self) -> npt.NDArray[np.bool_]:
        """Return which rows each row may attend to, bool [num_nodes + 1, num_nodes + 1].

        The row of a node is the row of its parent plus itself.
        """
        size = self.num_nodes + 1
        rows = [1]  # numbers whose bits are the columns
        for index, parent in enumerate(self.parents):
            rows.append(rows[parent + 1] | 2 << index)
        width = (size + 7) // 8
        packed = b"".join([row.to_bytes(width, "little") for row in rows])
        bits = np.frombuffer(packed, dtype=np.uint8).reshape(size, width)
        return np.unpackbits(bits, axis=1, count=size, bitorder="little").view(np.bool_)

    def children(self) -> list[list[int]]:
        """Return for each row the node indices of its children, in row order."""
        result: list[list[int]] = [[] for _ in range(self.num_nodes + 1)]
        for index, parent in enumerate(self.parents):
            result[parent + 1].append(index)
        return result

    def path(self, index: int) -> list[int]:
        """Return the node indices from below the root down to `index`."""
        nodes = []
        while index != ROOT:
            nodes.append(index)
            index = self.parents[index]
        return nodes[::-1]
