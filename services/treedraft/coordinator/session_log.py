"""Writes a session's tokens to the store, in batches behind the stream.

One task per session writes what has gathered since its last write, renews the
lease when nothing has, and closes the session at its end. A store that is away
is tried again and again: a running stream does not need it. A newer owner of
the session ends the log at once; nothing that an older one knows may follow.
When the session moves to another target, its owner claims it anew: no write
comes between, so none can meet the newer epoch with the older one. A claim is
no fenced write, so one that has begun is waited for before a later reader claims.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from treedraft.coordinator.log_writer import LogEntry, LogWriter
from treedraft.coordinator.session_store.protocol import SessionStore
from treedraft.coordinator.session_store.records import SessionPlacement
from treedraft.core.errors import TreedraftError
from treedraft.core.session import FinishReason


@dataclass(frozen=True, slots=True)
class LogPace:
    """How often a log writes and how long it is waited for, in seconds."""

    interval_seconds: float
    renew_seconds: float
    patience_seconds: float


class SessionLog:
    """The log of one session that this coordinator owns.

    `on_logged` is told the length of the log after each write, prompt
    included; `on_lost` that nothing more will be written, and why.
    """

    def __init__(
        self,
        store: SessionStore,
        entry: LogEntry,
        pace: LogPace,
        *,
        on_logged: Callable[[int], None],
        on_lost: Callable[[TreedraftError], None],
        is_ahead: bool = False,
    ) -> None:
        """Continue the log of a session that was just created or claimed.

        `is_ahead` makes an outage longer than the patience a loss: set where
        tokens must be logged before they are shown.
        """
        self._writer = LogWriter(store, entry)
        self._pace = pace
        self._on_logged = on_logged
        self._on_lost = on_lost
        self._patience_seconds = pace.patience_seconds if is_ahead else None
        self._reason: FinishReason | None = None
        self._writing = asyncio.Lock()
        self._has_work = asyncio.Event()
        self._is_ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._is_left = False
        self._log = structlog.get_logger("treedraft.coordinator.session_log")

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name=f"log {self._session_id}")

    def restore(self, output_token_ids: Sequence[int]) -> None:
        """Take over output that the store has already."""
        self._writer.restore(output_token_ids)

    def append(self, token_ids: Sequence[int]) -> None:
        """Take output tokens that are to be written."""
        self._writer.token_ids.extend(token_ids)
        self._has_work.set()

    async def take_over(self, placement: SessionPlacement) -> int:
        """Claim the session for its next target and return the new epoch.

        Raises:
            SessionConflictError: it has another owner, or is finished.
        """
        claim = asyncio.create_task(self._take_over(placement))
        # Whoever asked may be cancelled; an answer that comes then is not looked at.
        claim.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(claim)

    async def _take_over(self, placement: SessionPlacement) -> int:
        async with self._writing:
            self._writer.move(placement)
            # What a lost answer may have changed is settled before anything is written.
            return await self._insist(self._writer.claim, contextlib.nullcontext())

    async def finish(self, reason: FinishReason) -> bool:
        """Write what is left and close the session; repeatable, the first reason stays.

        Returns whether the store has it all. A store that is away is waited
        for as long as the patience goes.
        """
        if self._writer.is_abandoned:  # how it ends is for others to say
            return self._is_closed
        self._reason = self._reason or reason
        if self._task is None:
            return await self._close_unwritten()
        await self._end(self._task)
        return self._is_closed

    async def leave_open(self) -> None:
        """Write what is left, and leave the session to whoever resumes it."""
        self._is_left = True
        if self._task is not None:
            await self._end(self._task)

    async def abandon(self) -> None:
        """Write nothing more: a later reader is about to claim the session."""
        self._writer.is_abandoned = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        async with self._writing:
            return  # a claim that was under way has ended

    async def put_back(self) -> None:
        """Write the session anew, as far as it went, if the store has lost it."""
        writer = self._writer
        async with self._writing:
            await writer.put_back()
            # Another write may have put it back already, with fewer tokens.
            if not writer.is_complete:
                writer.num_logged = await writer.append()
        self._on_logged(writer.num_logged)
        if self._reason is not None:
            await self._close()

    async def _end(self, task: asyncio.Task[None]) -> None:
        """Let the writing come to its end, for as long as the patience goes."""
        self._is_ending.set()
        self._has_work.set()
        await asyncio.wait([task], timeout=self._pace.patience_seconds)
        if not task.done():
            task.cancel()
            self._log.warning("session log is incomplete", session_id=self._session_id)
            await asyncio.wait([task])

    async def _close_unwritten(self) -> bool:
        """Close a session that was kept but never ran, as far as the store allows."""
        try:
            await self._close()
        except TreedraftError as error:
            self._log.info("session not closed", session_id=self._session_id, reason=error.reason)
            return False
        return True

    @property
    def _session_id(self) -> str:
        return self._writer.session_id

    async def _run(self) -> None:
        try:
            while True:
                await self._wait_for_work()
                await self._persist()
                is_complete = self._writer.is_complete
                if self._is_left and self._reason is None and is_complete:
                    return
                if self._reason is not None and is_complete:
                    await self._insist(self._close, self._writing)
                    self._is_closed = True
                    return
                await _wait(self._is_ending, self._pace.interval_seconds)
        except TreedraftError as error:
            self._log.warning("session log ended", session_id=self._session_id, reason=error.reason)
            self._on_lost(error)
        except Exception:
            self._log.exception("session log broke down", session_id=self._session_id)
            self._on_lost(TreedraftError("the session log broke down"))

    async def _wait_for_work(self) -> None:
        await _wait(self._has_work, self._pace.renew_seconds)
        self._has_work.clear()

    async def _persist(self) -> None:
        writer = self._writer
        if writer.is_complete:
            if self._reason is None and not self._is_left:
                await self._insist(writer.renew, self._writing)
            return
        writer.num_logged = await self._insist(writer.append, self._writing)
        self._on_logged(writer.num_logged)

    async def _close(self) -> int:
        return await self._writer.close(self._reason or FinishReason.CANCELLED)

    async def _insist(
        self,
        write: Callable[[], Awaitable[int]],
        turn: contextlib.AbstractAsyncContextManager[None],
    ) -> int:
        return await self._writer.insist(write, turn, self._patience_seconds)


async def _wait(event: asyncio.Event, timeout_seconds: float) -> None:
    """Wait for an event, but no longer than that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await event.wait()
