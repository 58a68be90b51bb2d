"""Parts broken on purpose: a simulation that does not find them would prove nothing.

Each is a small slip of the kind that a change could bring, put into the real class
for the time of a run.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from treedraft.coordinator.relay import SessionRelay
from treedraft.coordinator.session_log import SessionLog
from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.core import prefix
from treedraft.draft.session_book import SessionBook
from treedraft.target import scheduler
from treedraft.target.drafting import DraftBook
from treedraft.target.scheduler import Scheduler
from treedraft.target.session_roster import SessionRoster
from treedraft.target.step import PassRunner

Mutation = Callable[[], contextlib.AbstractContextManager[None]]

# Seeds that found them before: tried first, and after them all the others.
FINDERS = (20, 6, 0)


def _replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Mutation:
    """Return a mutation that puts `make(original)` in place of a method."""

    @contextlib.contextmanager
    def mutation() -> Iterator[None]:
        with mock.patch.object(owner, name, make(getattr(owner, name))):
            yield

    return mutation


def _all(*mutations: Mutation) -> Mutation:
    @contextlib.contextmanager
    def mutation() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for one in mutations:
                stack.enter_context(one())
            yield

    return mutation


def _nothing(original: Any) -> Any:
    return lambda *_, **__: None


def _path_is_not_moved(original: Any) -> Any:
    def settle(self: Any, passes: Any, rounds: Any) -> None:
        kv, self._kv = self._kv, mock.Mock()
        try:
            original(self, passes, rounds)
        finally:
            self._kv = kv

    return settle


def _pages_are_kept(original: Any) -> Any:
    def remove(self: Any, session: Any) -> None:
        session.blocks = []
        original(self, session)

    return remove


def _chain_is_broken(original: Any) -> Any:
    return lambda before, token_ids: original(b"", token_ids)


def _restored_is_shown_again(original: Any) -> Any:
    def restore(self: Any, output_token_ids: Any, held: Any) -> None:
        original(self, output_token_ids, held)
        self._num_shown = max(0, held.num_tokens - 1)

    return restore


def _claims_keep_the_epoch(original: Any) -> Any:
    async def claim(self: Any, session_id: str, *, owner: str) -> Any:
        record = await original(self, session_id, owner=owner)
        self._find(session_id).epoch -= 2
        return record

    return claim


def _credit_of_the_closed_is_kept(original: Any) -> Any:
    def take(self: Any, link: Any, frame: Any, arrived_ns: int) -> None:
        original(self, link, frame, arrived_ns)
        for growth in frame.growths:
            if growth.session_number not in link.sessions:
                link.outbox.credit_nodes -= growth.num_nodes

    return take


def _last_tokens_are_not_logged(original: Any) -> Any:
    def append(self: Any, token_ids: Any) -> None:
        original(self, token_ids[:-1] if len(token_ids) > 2 else token_ids)

    return append


MUTATIONS: dict[str, Mutation] = {
    "an accepted path is not moved to its place": _replaced(
        PassRunner, "_settle_kv", _path_is_not_moved
    ),
    "a session that ends keeps its pages": _replaced(Scheduler, "remove", _pages_are_kept),
    "a page is named by its own tokens alone": _all(
        _replaced(prefix, "extend_chain", _chain_is_broken),
        _replaced(scheduler, "extend_chain", _chain_is_broken),
    ),
    "sessions of a lost stream go on": _replaced(SessionRoster, "end_stream", _nothing),
    "sessions are never cancelled": _replaced(SessionRoster, "cancel", _nothing),
    "a resumed reader is shown a token twice": _replaced(
        SessionRelay, "restore", _restored_is_shown_again
    ),
    "a claim does not raise the epoch": _replaced(
        EmbeddedSessionStore, "claim", _claims_keep_the_epoch
    ),
    "credit of closed sessions is not given back": _replaced(
        DraftBook, "_take_growths", _credit_of_the_closed_is_kept
    ),
    "a drafter forgets to close": _replaced(SessionBook, "_close", _nothing),
    "the log skips a token": _replaced(SessionLog, "append", _last_tokens_are_not_logged),
}
