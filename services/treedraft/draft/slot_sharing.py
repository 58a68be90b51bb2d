"""Who gets the draft model's KV slots in a step, and who gives theirs up.

A slot holds one token. Texts go before trees: a tree is grown in what is free,
while a text that misses slots may take those of sessions that waited longest.
"""

from collections.abc import Collection, Mapping, Sequence

from treedraft.core.growth import ROOT
from treedraft.draft.growth import Share
from treedraft.draft.model_state import DraftModelState
from treedraft.draft.segments import Work
from treedraft.draft.session import DraftSession
from treedraft.inference.block_pool import SlotPool

States = Mapping[DraftSession, DraftModelState]


def share_slots(
    pool: SlotPool, states: States, shared: Sequence[tuple[DraftSession, Share]]
) -> list[Work]:
    """Give slots to shares, texts first; what gets none sits this step out.

    Args:
        pool: where slots come from.
        states: of all sessions, those without a share too.
        shared: sessions and their shares of the step.
    """
    works: list[Work] = []
    protected: set[DraftSession] = set()
    for session, share in shared:
        state = states[session]
        if share.num_tokens:
            count = share.num_tokens
            if not _make_room(pool, states, session, count, protected):
                continue
            works.append(Work(session, state, count, (), pool.allocate(count)))
            protected.add(session)
        elif state.num_computed == session.num_tokens:  # not evicted just now
            # A deeper tree is not worth another session's text.
            node_ids = share.node_ids[: pool.num_free]
            if node_ids:
                slots = pool.allocate(len(node_ids))
                works.append(Work(session, state, 0, node_ids, slots))
    return works


def _make_room(
    pool: SlotPool,
    states: States,
    session: DraftSession,
    count: int,
    protected: Collection[DraftSession],
) -> bool:
    """Free slots by evicting those who waited longest; return success.

    A text under way is evicted only for one that is further along: the
    furthest then always gets to its end, whatever the others do.
    """
    if pool.num_free >= count:
        return True
    for other in sorted(states, key=lambda other: other.last_step):
        if pool.num_free >= count:
            break
        if other is session or other in protected:
            continue
        state = states[other]
        is_under_way = state.num_computed < other.num_tokens and not other.tree.children(ROOT)
        if not is_under_way or state.num_computed < states[session].num_computed:
            state.evict()
    return pool.num_free >= count
