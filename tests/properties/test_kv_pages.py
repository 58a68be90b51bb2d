"""Random lives of sessions against a page pool and a slot pool, beside a plain model of each."""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from treedraft.core.errors import OverloadedError
from treedraft.inference.block_pool import BlockPool, SlotPool, slots_of

NUM_BLOCKS = 12


class PageLife(RuleBasedStateMachine):
    """Sessions hold texts of pages; equal texts may share them."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, 4)
        self.sessions: list[tuple[str, list[int], int]] = []  # text, pages, number published
        self.content: dict[int, str] = {}  # what each page was last written with

    @rule(text=st.text("ab", min_size=1, max_size=6))
    def start(self, text: str) -> None:
        hashes = [text[: end + 1].encode() for end in range(len(text))]
        shared = self.pool.match_prefix(hashes)
        for place, block in enumerate(shared):
            assert self.content[block] == text[: place + 1]
        free = self.pool.num_free
        missing = len(text) - len(shared)
        if missing > free:
            with pytest.raises(OverloadedError):
                self.pool.allocate(missing)
            assert self.pool.num_free == free
            self.pool.release(shared)
            return
        own = self.pool.allocate(missing)
        for place, block in enumerate(own, start=len(shared)):
            assert not self.pool.is_shared(block)
            assert all(block not in pages for _, pages, _ in self.sessions)
            self.content[block] = text[: place + 1]
        self.sessions.append((text, shared + own, len(shared)))

    @rule(data=st.data())
    def publish_one(self, data: st.DataObject) -> None:
        open_ = [i for i, (text, _, done) in enumerate(self.sessions) if done < len(text)]
        if open_:
            index = data.draw(st.sampled_from(open_))
            text, blocks, done = self.sessions[index]
            page_hash = text[: done + 1].encode()
            was_known = page_hash in self.pool.cached_hashes()
            assert self.pool.publish(blocks[done], page_hash) is not was_known
            self.sessions[index] = (text, blocks, done + 1)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.sessions:
            _, blocks, _ = self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1)))
            self.pool.release(blocks)

    @invariant()
    def books_are_right(self) -> None:
        self.pool.check_integrity()
        used = {block for _, blocks, _ in self.sessions for block in blocks}
        assert self.pool.num_free == NUM_BLOCKS - len(used)
        for text, blocks, _ in self.sessions:
            for place, block in enumerate(blocks):
                assert self.content[block] == text[: place + 1]


class SlotLife(RuleBasedStateMachine):
    """Slots are handed out once and come back."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = SlotPool(20)
        self.held: set[int] = set()

    @rule(count=st.integers(0, 9))
    def allocate(self, count: int) -> None:
        if count > 20 - len(self.held):
            with pytest.raises(OverloadedError):
                self.pool.allocate(count)
        else:
            slots = self.pool.allocate(count)
            assert len(set(slots)) == count
            assert not self.held & set(slots)
            self.held |= set(slots)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            slots = data.draw(st.sets(st.sampled_from(sorted(self.held))))
            self.pool.release(slots)
            self.held -= slots

    @invariant()
    def counts_agree(self) -> None:
        assert self.pool.num_free == 20 - len(self.held)


TestPageLife = PageLife.TestCase
TestSlotLife = SlotLife.TestCase
TestPageLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSlotLife.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_slots_of_equals_its_definition():
    blocks = [5, 1, 8, 0]
    whole = [block * 3 + i for block in blocks for i in range(3)]
    for start in range(13):
        for stop in range(start, 13):
            assert slots_of(blocks, 3, start, stop).tolist() == whole[start:stop]
