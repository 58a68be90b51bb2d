"""Looks after sessions whose reader is gone.

A stream that breaks is not a wish to stop: the session goes on for a grace
time, in which its client may resume it here or at any other coordinator. A
session that ended stays at hand for a while, since the client may not have got
the end of it and the store may forget. A store that was emptied gets back what is
in memory here. What the coordinator cannot go on with
itself, because it goes away or because nothing serves the session, is left open
in the log. Only what nobody came back for, and what failed for good, is closed.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing, suppress

import structlog

from treedraft.coordinator.request import GenerationRequest
from treedraft.coordinator.running_session import RunningSession
from treedraft.coordinator.session_store.protocol import SessionStore
from treedraft.core.errors import (
    OverloadedError,
    SessionConflictError,
    TreedraftError,
    UnavailableError,
)

_log = structlog.get_logger("treedraft.coordinator.caretaker")

# Longer than a client looks for a session that no coordinator knows.
_ENDED_SECONDS = 60.0


class Caretaker:
    """The sessions of one coordinator that nobody reads."""

    def __init__(
        self, running: dict[str, RunningSession], *, grace_seconds: float, max_kept: int
    ) -> None:
        """Keep up to `max_kept` sessions for so long, running and ended ones each."""
        self._running = running
        self._grace_seconds = grace_seconds
        self._max_kept = max_kept
        self._ended: OrderedDict[str, tuple[RunningSession, asyncio.TimerHandle]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_parked = 0
        self._birth_mark = ""
        self._is_leaving = asyncio.Event()

    @property
    def num_parked(self) -> int:
        """Sessions that run though nobody reads them."""
        return self._num_parked

    def held(self, session_id: str) -> RunningSession | None:
        """Return a session that is in memory here, running or ended a moment ago."""
        ended = self._ended.get(session_id)
        return self._running.get(session_id) or (ended[0] if ended else None)

    def take(self, request: GenerationRequest, on_end: Callable[[], None] = lambda: None) -> None:
        """Look after the session of a request that ended, however it ended.

        On a task of its own: the request's may be cancelled already, and what
        it held at the target must be freed all the same. `on_end` is called when
        nothing more comes of the session.
        """
        session = request.session
        if session is None:
            return
        task = asyncio.create_task(self._look_after(session, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: on_end())

    def keep(self, session: RunningSession) -> None:
        """Have a session at hand for a while that runs here no longer."""
        if self._is_leaving.is_set() or not self._grace_seconds:
            return
        session_id = session.spec.session_id
        timer = asyncio.get_running_loop().call_later(
            max(self._grace_seconds, _ENDED_SECONDS), self._ended.pop, session_id, None
        )
        before = self._ended.pop(session_id, None)
        if before is not None:
            before[1].cancel()
        self._ended[session_id] = (session, timer)
        if len(self._ended) > self._max_kept:
            self._ended.popitem(last=False)[1][1].cancel()

    async def look_after(self, store: SessionStore) -> None:
        """Put everything back if the store was emptied since the last time.

        Raises:
            UnavailableError: STORE_UNAVAILABLE.
        """
        mark = await store.birth_mark()
        if self._birth_mark in ("", mark):
            self._birth_mark = mark
            return
        ended = [session for session, _ in self._ended.values()]
        _log.warning("the store was emptied", num_running=len(self._running), num_ended=len(ended))
        for session in (*self._running.values(), *ended):
            with suppress(SessionConflictError):  # a later owner was quicker
                await session.put_back()
        self._birth_mark = mark

    def leave(self) -> None:
        """Leave all sessions that nobody reads to other coordinators, from now on."""
        self._is_leaving.set()

    async def close(self) -> None:
        """Leave all sessions and wait until the log has what there is of them."""
        self.leave()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, timer in self._ended.values():
            timer.cancel()
        self._ended.clear()

    async def _look_after(self, session: RunningSession, request: GenerationRequest) -> None:
        error = request.error
        # Where there is no room to read on for the client, the log is as good to come back to.
        is_full = bool(self._grace_seconds) and self._num_parked >= self._max_kept
        if request.may_be_resumed and not self._is_leaving.is_set() and not is_full:
            error = await self._park(session, request)
        is_left = request.may_be_resumed and (is_full or self._is_leaving.is_set())
        if is_left or _may_be_resumed(error):
            await session.leave_open()
        else:
            await session.close()
        if not isinstance(error, SessionConflictError):
            self.keep(session)

    async def _park(self, session: RunningSession, request: GenerationRequest) -> Exception | None:
        """Read on in the client's place, within the grace time; return what ended it early."""
        if not self._grace_seconds:
            return None
        self._num_parked += 1
        reading = asyncio.create_task(_read_out(session, request.time_left))
        leaving = asyncio.create_task(self._is_leaving.wait())
        try:
            await asyncio.wait(
                (reading, leaving),
                timeout=self._grace_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            return reading.result() if reading.done() else None
        finally:
            self._num_parked -= 1
            for task in (reading, leaving):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _read_out(
    session: RunningSession, time_left: Callable[[], float | None]
) -> Exception | None:
    try:
        async with aclosing(session.events(time_left)) as events:
            async for _ in events:
                pass
    except TreedraftError as error:
        return error
    except Exception as error:
        # Whatever broke, the session is to be ended and not to be forgotten.
        _log.exception("a session that nobody reads broke down")
        return error
    return None


def _may_be_resumed(error: Exception | None) -> bool:
    """Return whether the session itself is sound: it only could not go on here and now."""
    return isinstance(error, UnavailableError | OverloadedError)
