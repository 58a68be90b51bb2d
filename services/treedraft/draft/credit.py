"""Who takes part in a step: sessions whose targets can take what it makes."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from treedraft.draft.links import DraftLink
from treedraft.draft.session import DraftSession

# With less credit than this, no step is run. Targets grant as much at least.
_MIN_STEP_NODES = 64


class _Book(Protocol):
    @property
    def links(self) -> Iterable[DraftLink]: ...

    @property
    def sessions(self) -> Iterator[tuple[DraftSession, DraftLink]]: ...


class _Grower(Protocol):
    @property
    def max_new_nodes(self) -> int: ...

    @property
    def max_new_siblings(self) -> int: ...

    def wants_work(self, session: DraftSession) -> bool: ...


def sessions_in_credit(book: _Book, grower: _Grower) -> dict[DraftSession, DraftLink]:
    """Return sessions that could all add nodes, those that waited longest first.

    Each is told how many: credit may be less than what a step could use. Where it samples
    siblings, which come all or none, it has to be enough, and is kept for the session until it is.
    """
    most = grower.max_new_nodes
    left = {id(link): link.room_nodes for link in book.links}
    chosen = {}
    for session, link in sorted(book.sessions, key=lambda pair: pair[0].last_step):
        needed = min(most, _MIN_STEP_NODES)
        if session.is_rejection:
            needed = max(needed, grower.max_new_siblings)
        is_scarce = left[id(link)] < most * len(link.sessions)
        if session.is_paused or (is_scarce and not grower.wants_work(session)):
            continue
        if left[id(link)] < needed:
            left[id(link)] = 0 if session.is_rejection else left[id(link)]
            continue
        fair = max(needed, min(most, link.credit_nodes // len(link.sessions)))
        session.step_room = min(left[id(link)], fair)
        left[id(link)] -= session.step_room
        chosen[session] = link
    return chosen
