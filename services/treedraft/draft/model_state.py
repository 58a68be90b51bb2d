"""What a draft model keeps of one session: KV slots, and counts for penalties.

Each token has a slot of its own, so that moving the root copies nothing: slots
of the accepted path become the prefix, those of the surviving subtree stay
where they are, the rest go back to the pool.

Invariant: a node with a slot has only ancestors with slots, and then the root
and all tokens before it have one too.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from treedraft.core.session import DraftSpec
from treedraft.core.token_tree import Rerooted
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.sampler import SessionCounts

_FIRST_CAPACITY = 256


class DraftModelState:
    """Slots and counts of a session; the pool is shared by all of them."""

    def __init__(self, spec: DraftSpec, pool: SlotPool, *, vocab_size: int) -> None:
        """Start without any KV."""
        self.vocab_size = vocab_size
        self.node_slots: dict[int, int] = {}
        self.num_computed = 0
        # Lost its KV to others, and has not had it computed again since.
        self.is_evicted = False
        self._pool = pool
        self._prefix: npt.NDArray[np.int64] = np.empty(_FIRST_CAPACITY, dtype=np.int64)
        self.counts: SessionCounts | None = None
        if spec.sampling.has_penalties:
            self.counts = SessionCounts(vocab_size)
            self.counts.add_prompt(spec.token_ids[: spec.prompt_length])
            self.counts.add_output(spec.token_ids[spec.prompt_length :])

    @property
    def prefix_slots(self) -> npt.NDArray[np.int64]:
        """Slots of the committed tokens that have KV, in order."""
        return self._prefix[: self.num_computed]

    @property
    def num_slots(self) -> int:
        """Slots held."""
        return self.num_computed + len(self.node_slots)

    def extend_prefix(self, slots: Sequence[int]) -> None:
        """Append the slots of the next committed tokens."""
        end = self.num_computed + len(slots)
        if end > len(self._prefix):
            grown = np.empty(max(end, 2 * len(self._prefix)), dtype=np.int64)
            grown[: self.num_computed] = self.prefix_slots
            self._prefix = grown
        self._prefix[self.num_computed : end] = slots
        self.num_computed = end

    def commit(self, token_ids: Sequence[int], moved: Rerooted) -> None:
        """Keep the slots that live on, and give the others back."""
        if self.counts:
            self.counts.add_output(token_ids)
        accepted = []
        for node_id in moved.path:
            slot = self.node_slots.pop(node_id, None)
            if slot is None:
                break
            accepted.append(slot)
        self.extend_prefix(accepted)
        self._release_nodes(moved.removed_ids)

    def _release_nodes(self, node_ids: Iterable[int]) -> None:
        self._pool.release(
            [self.node_slots.pop(node_id) for node_id in node_ids if node_id in self.node_slots]
        )

    def evict(self) -> None:
        """Give all slots back for others to use."""
        self.is_evicted = self.is_evicted or self.num_slots > 0
        self.release()

    def release(self) -> None:
        """Give all slots back; the session can be computed again from its text."""
        self._release_nodes(list(self.node_slots))
        self._pool.release(self.prefix_slots.tolist())
        self.num_computed = 0
