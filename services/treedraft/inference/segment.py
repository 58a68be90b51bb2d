"""The rows of one session in a pass, whatever runs the pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Slots = Sequence[int] | npt.NDArray[np.int64]


_NO_SLOTS: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one session in a pass.

    Row `r` has token `token_ids[r]` at `positions[r]`; its KV is written to
    `write_slots[r]` before any row attends. It attends to all of
    `context_slots` and to `tree_slots[t]` where `tree_mask[r, t]`; the write
    slots are among the tree slots, and a row sees at least itself. Logits are
    wanted of `output_rows`.
    """

    token_ids: Sequence[int]  # [rows]
    positions: Sequence[int]  # [rows]
    write_slots: Slots  # [rows]
    context_slots: npt.NDArray[np.int64]  # [context]
    tree_slots: Slots  # [tree]
    tree_mask: npt.NDArray[np.bool_]  # [rows, tree]
    output_rows: Sequence[int]

    def __post_init__(self) -> None:
        """Assert that the shapes agree."""
        assert self.num_rows == len(self.positions) == len(self.write_slots) > 0
        assert self.tree_mask.shape == (self.num_rows, len(self.tree_slots))

    @property
    def num_rows(self) -> int:
        """Tokens that go through the model."""
        return len(self.token_ids)

    @property
    def num_keys(self) -> int:
        """Slots that at least one row may see."""
        return len(self.context_slots) + len(self.tree_slots)


def blank_segment(
    slots: Slots, num_outputs: int, context_slots: npt.NDArray[np.int64] = _NO_SLOTS
) -> Segment:
    """Return rows of nobody's text, each seeing those before it: to warm up and to time passes.

    Args:
        slots: of the rows, one each.
        num_outputs: of the last rows, those whose logits are wanted.
        context_slots: what all rows see, at the positions before them.
    """
    num_rows, num_context = len(slots), len(context_slots)
    return Segment(
        token_ids=[0] * num_rows,
        positions=range(num_context, num_context + num_rows),
        write_slots=slots,
        context_slots=context_slots,
        tree_slots=slots,
        tree_mask=np.tri(num_rows, dtype=np.bool_),
        output_rows=range(num_rows - num_outputs, num_rows),
    )


def written_slots(segments: Sequence[Segment], num_slots: int) -> npt.NDArray[np.int64]:
    """Return where the rows of all segments write, [rows], having checked that none collide."""
    slots = checked_slots([s.write_slots for s in segments], num_slots)
    assert len(np.unique(slots)) == len(slots), "two rows write to one slot"
    return slots


def checked_slots(parts: Sequence[Slots], num_slots: int) -> npt.NDArray[np.int64]:
    """Return slots as one array, having checked that the pool has them."""
    slots = concatenate(parts)
    assert np.logical_and(slots >= 0, slots < num_slots).all(), "a slot outside the pool"
    return slots


def concatenate(parts: Sequence[Slots]) -> npt.NDArray[np.int64]:
    """Return numbers of several places as one int64 array."""
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])
