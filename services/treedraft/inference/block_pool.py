"""Who owns which part of a KV pool: pages for targets, single slots for drafters.

A page holds the KV of `block_size` consecutive tokens. A session may publish a
page once all its tokens are committed; from then on every session with the
same prefix (`core.prefix` names it) may read it, and it outlives its sessions
until the room is needed. Unused pages go in the order in which they were
released, and of one text the later page first, because a page is of no use
without those before it.

Invariants: a page is free, in use, or kept (published, used by nobody), never
two of these; a published page is never written again.
"""

import heapq
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from treedraft.core.errors import OverloadedError


def slots_of(
    blocks: Sequence[int], block_size: int, start: int, stop: int
) -> npt.NDArray[np.int64]:
    """Return the slots of tokens [start, stop) of a session that holds `blocks`.

    Token `i` lies in page `i // block_size`. Shape [stop - start].
    """
    assert 0 <= start <= stop <= len(blocks) * block_size
    first = start // block_size
    pages = np.asarray(blocks[first : -(-stop // block_size)], dtype=np.int64)
    slots = (pages[:, None] * block_size + np.arange(block_size)).ravel()
    return slots[start - first * block_size : stop - first * block_size]


class BlockPool:
    """Hands out pages, counts their users and remembers published ones."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """Start with all pages free."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        # A heap, lowest first: pages of one session tend to be neighbours, and
        # attention reads neighbours in place.
        self._free = list(range(num_blocks))
        self._num_users = [0] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        # Published pages without a user, next to be evicted first.
        self._kept: dict[int, None] = {}

    @property
    def num_free(self) -> int:
        """Pages that `allocate` could hand out, those kept for reuse included."""
        return len(self._free) + len(self._kept)

    def allocate(self, count: int) -> list[int]:
        """Return `count` pages of unknown content, each with one user.

        Raises:
            OverloadedError: `KV_POOL_FULL`; nothing was taken.
        """
        if count > self.num_free:
            raise OverloadedError(
                f"{count} KV pages wanted, {self.num_free} of {self.num_blocks} are free",
                reason="KV_POOL_FULL",
            )
        blocks = [self._take_free() for _ in range(count)]
        for block in blocks:
            self._num_users[block] = 1
        return blocks

    def _take_free(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        block = next(iter(self._kept))
        del self._kept[block]
        del self._block_of[self._hash_of.pop(block)]
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one use of each page, in the order of the text that they hold."""
        for block in reversed(blocks):
            assert self._num_users[block] > 0, f"page {block} is released too often"
            self._num_users[block] -= 1
            if self._num_users[block]:
                continue
            if block in self._hash_of:
                self._kept[block] = None
            else:
                heapq.heappush(self._free, block)

    def match_prefix(self, hashes: Sequence[bytes]) -> list[int]:
        """Return the pages of the longest published prefix and use them.

        Args:
            hashes: of the pages of a text, first page first.
        """
        blocks = []
        for page_hash in hashes:
            block = self._block_of.get(page_hash)
            if block is None:
                break
            self._kept.pop(block, None)
            self._num_users[block] += 1
            blocks.append(block)
        return blocks

    def publish(self, block: int, page_hash: bytes) -> bool:
        """Offer a full page of committed tokens to other sessions.

        Returns whether `block` is now what `match_prefix` finds. If another
        page of that hash was published first it stays, `block` stays the
        caller's own, and no use of either changes hands.
        """
        assert self._num_users[block] > 0, f"page {block} is nobody's"
        holder = self._block_of.setdefault(page_hash, block)
        if holder != block:
            return False
        assert self._hash_of.setdefault(block, page_hash) == page_hash, "a published page changed"
        return True

    def is_shared(self, block: int) -> bool:
        """Return whether others may read the page, so that nobody may write it."""
        return self._num_users[block] > 1 or block in self._hash_of

    def cached_hashes(self) -> set[bytes]:
        """Return the hashes of all published pages, in use or kept."""
        return set(self._block_of)

    def check_integrity(self) -> None:
        """Raise AssertionError if the books contradict each other."""
        used = {block for block, users in enumerate(self._num_users) if users}
        free, kept = set(self._free), set(self._kept)
        assert min(self._num_users, default=0) >= 0, "negative use"
        assert len(free) == len(self._free), "a page is free twice"
        assert len(used) + len(free) + len(kept) == self.num_blocks, "pages got lost"
        assert used | free | kept == set(range(self.num_blocks)), "pages overlap"
        assert {b: h for h, b in self._block_of.items()} == self._hash_of, "hashes disagree"
        assert kept <= self._hash_of.keys(), "an unnamed page is kept"
        assert not free & self._hash_of.keys(), "a free page is published"


class SlotPool:
    """Hands out single slots; for drafters, whose nodes come and go one by one."""

    def __init__(self, num_slots: int) -> None:
        """Start with all slots free."""
        self.num_slots = num_slots
        self._free = list(range(num_slots))
        self._is_used = bytearray(num_slots)

    @property
    def num_free(self) -> int:
        """Slots that `allocate` could hand out."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Return `count` slots, lowest first.

        Raises:
            OverloadedError: `KV_POOL_FULL`; nothing was taken.
        """
        if count > len(self._free):
            raise OverloadedError(
                f"{count} KV slots wanted, {len(self._free)} of {self.num_slots} are free",
                reason="KV_POOL_FULL",
            )
        slots = [heapq.heappop(self._free) for _ in range(count)]
        for slot in slots:
            self._is_used[slot] = True
        return slots

    def release(self, slots: Iterable[int]) -> None:
        """Give slots back."""
        for slot in slots:
            assert self._is_used[slot], f"slot {slot} is not in use"
            self._is_used[slot] = False
            heapq.heappush(self._free, slot)
