"""Slots: whatever is grown, committed and dropped, none is lost or used twice."""

from draft_support import make_session
from hypothesis import given, settings
from hypothesis import strategies as st

from treedraft.core.growth import ROOT, TokenSource
from treedraft.draft.model_state import DraftModelState
from treedraft.inference.block_pool import SlotPool

MODEL = TokenSource.DRAFT_MODEL


def expand_everything(session, state, pool, tokens):
    """Compute the text, then each node, and hang children under some of them."""
    missing = session.num_tokens - state.num_computed
    if missing:
        state.extend_prefix(pool.allocate(missing))
    for place_index, token_id in tokens:
        places = [ROOT, *state.node_slots]
        place = places[place_index % len(places)]
        session.add(place, token_id, -0.5, MODEL)
    for node in list(session.tree):
        is_ready = node.parent_id == ROOT or node.parent_id in state.node_slots
        if is_ready and node.node_id not in state.node_slots and node.token_id != 3:
            state.node_slots[node.node_id] = pool.allocate(1)[0]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=6),
            st.lists(st.integers(0, 3), min_size=1, max_size=4),
            st.sampled_from(["keep", "keep", "evict"]),
        ),
        max_size=6,
    )
)
def test_slots_follow_the_text_and_the_tree(steps):
    pool = SlotPool(256)
    session = make_session([1, 2, 3])
    state = session.model = DraftModelState(session.spec, pool, vocab_size=8)
    for tokens, committed, fate in steps:
        expand_everything(session, state, pool, tokens)
        slot_of = {
            tuple(session.path_tokens(node_id)): slot for node_id, slot in state.node_slots.items()
        }
        prefix = state.prefix_slots.tolist()
        if fate == "evict":
            state.evict()
            assert state.is_evicted
            prefix, slot_of = [], {}
        session.commit(committed, arrived_ns=0)
        # The accepted path became part of the text without a copy.
        if prefix:
            for i in range(len(committed)):
                slot = slot_of.get(tuple(committed[: i + 1]))
                if slot is None:
                    break
                prefix.append(slot)
        assert state.prefix_slots.tolist() == prefix
        assert state.num_computed <= session.num_tokens
        for node_id, slot in state.node_slots.items():
            assert slot == slot_of[(*committed, *session.path_tokens(node_id))]
            assert all(above in state.node_slots for above in session.tree.path(node_id))
            assert state.num_computed == session.num_tokens
        held = [*state.prefix_slots.tolist(), *state.node_slots.values()]
        assert len(held) == len(set(held)) == state.num_slots == 256 - pool.num_free
    session.close()
    assert pool.num_free == 256
