"""What a session's log tells the store, and how it insists.

Every write carries the epoch of its owner, so a newer owner refuses it. A store that is
away is tried again and again; one that lost the session, or the end of its log, is told
all of it anew. When to write what is for `session_log` to say.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from treedraft.coordinator.session_store.protocol import (
    LOG_GAP,
    SESSION_EXISTS,
    STALE_EPOCH,
    SessionStore,
)
from treedraft.coordinator.session_store.records import SessionPlacement, SessionRequest
from treedraft.core.errors import SessionConflictError, SessionNotFoundError, UnavailableError
from treedraft.core.session import FinishReason

_FIRST_BACKOFF_SECONDS = 0.05
_MAX_BACKOFF_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Whose log it is: what the store needs to keep the session, also anew."""

    request: SessionRequest
    epoch: int
    owner: str
    placement: SessionPlacement


class LogWriter:
    """Writes the log of one session: `token_ids`, of which `num_logged` are in the store."""

    def __init__(self, store: SessionStore, entry: LogEntry) -> None:
        """Go on with a session that the store has, prompt included."""
        self._store = store
        self._entry = entry
        self.token_ids: list[int] = list(entry.request.prompt_token_ids)
        self.num_logged = len(self.token_ids)
        # Nothing more may be written: a later reader is about to claim the session.
        self.is_abandoned = False
        self._log = structlog.get_logger("treedraft.coordinator.session_log")

    @property
    def session_id(self) -> str:
        """Whose log it is."""
        return self._entry.request.session_id

    @property
    def is_complete(self) -> bool:
        """Whether the store has it all."""
        return self.num_logged == len(self.token_ids)

    def restore(self, output_token_ids: Sequence[int]) -> None:
        """Take over output that the store has already."""
        self.token_ids.extend(output_token_ids)
        self.num_logged = len(self.token_ids)

    def move(self, placement: SessionPlacement) -> None:
        """Have the next claim say where the session runs from now on."""
        self._entry = replace(self._entry, placement=placement)

    async def renew(self) -> int:
        """Let the lease run anew; return the length of the log."""
        await self._store.renew(self.session_id, self._entry.epoch, owner=self._entry.owner)
        return self.num_logged

    async def append(self) -> int:
        """Write what the store has not; return the length of the log by then."""
        try:
            return await self._append_from(self.num_logged)
        except SessionConflictError as error:
            if error.reason != LOG_GAP:
                raise
        # The store lost the end of the log; what it still has must be the same.
        return await self._append_from(len(self._entry.request.prompt_token_ids))

    async def _append_from(self, base_length: int) -> int:
        pending, entry = self.token_ids[base_length:], self._entry
        return await self._store.append_tokens(
            self.session_id, entry.epoch, base_length, pending, owner=entry.owner
        )

    async def claim(self) -> int:
        """Claim the session anew and say where it runs; return its epoch."""
        record = await self._store.claim(self.session_id, owner=self._entry.owner)
        self._entry = replace(self._entry, epoch=record.epoch)
        await self._place()
        return record.epoch

    async def close(self, reason: FinishReason) -> int:
        """Close the session, whose log is whole; return the length of the log."""
        try:
            await self._finish(reason)
        except SessionConflictError as error:
            if error.reason != LOG_GAP:
                raise
            self.num_logged = await self.append()
            await self._finish(reason)
        return self.num_logged

    async def _finish(self, reason: FinishReason) -> None:
        length, entry = len(self.token_ids), self._entry
        await self._store.finish(self.session_id, entry.epoch, length, reason, owner=entry.owner)

    async def _place(self) -> None:
        entry = self._entry
        await self._store.place(self.session_id, entry.epoch, entry.placement, owner=entry.owner)

    async def put_back(self) -> None:
        """Write a session anew that the store has lost, as far as it was written."""
        entry = self._entry
        prompt_length = len(entry.request.prompt_token_ids)
        output = self.token_ids[prompt_length : self.num_logged]
        self._log.warning("the store lost a session; it is put back", session_id=self.session_id)
        try:
            await self._store.create(
                entry.request, owner=entry.owner, epoch=entry.epoch, output_token_ids=output
            )
        except SessionConflictError as error:
            if error.reason != SESSION_EXISTS:
                raise
            raise resumed_elsewhere() from error  # by a later owner, or one at the same epoch
        await self._place()

    async def insist(
        self,
        write: Callable[[], Awaitable[int]],
        turn: contextlib.AbstractAsyncContextManager[None],
        patience_seconds: float | None,
    ) -> int:
        """Write until the store takes it; a session that it has lost is put back first.

        Each attempt is made within `turn`. A store that is away is waited for: for as long
        as the patience goes, or for ever without one.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        backoff = _FIRST_BACKOFF_SECONDS
        is_lost = False
        while True:
            if self.is_abandoned:
                raise resumed_elsewhere()
            try:
                async with turn:
                    if is_lost:
                        await self.put_back()
                        is_lost = False
                    return await write()
            except SessionNotFoundError:
                is_lost = True
            except UnavailableError:
                if patience_seconds is not None and loop.time() >= began + patience_seconds:
                    raise
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)


def resumed_elsewhere() -> SessionConflictError:
    """Return what an owner is told whose session a later reader has."""
    return SessionConflictError("the session was resumed", reason=STALE_EPOCH)
