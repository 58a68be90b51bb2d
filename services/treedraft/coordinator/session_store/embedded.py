"""The session store in this process, for one coordinator without Redis.

Same promises as the Redis one (the same tests hold both to them) except that
nothing outlives the process. A single event loop runs it and no method awaits,
so every method is atomic.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from treedraft.coordinator.session_store import protocol
from treedraft.coordinator.session_store.protocol import unknown_session
from treedraft.coordinator.session_store.records import (
    SessionPlacement,
    SessionRecord,
    SessionRequest,
    WorkerRecord,
    count_leading,
    without_prefixes,
)
from treedraft.core.errors import SessionConflictError
from treedraft.core.session import FinishReason
from treedraft.core.worker import WorkerRegistration, WorkerReport

# How long a finished session stays readable.
_KEEP_FINISHED_SECONDS = 60.0


@dataclass(slots=True)
class _Session:
    request: SessionRequest
    epoch: int
    owner: str
    token_ids: list[int]
    lease_ends: float
    expires: float
    placement: SessionPlacement | None = None
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class _Worker:
    record: WorkerRecord
    expires: float
    prefixes: set[int] = field(default_factory=set)


class EmbeddedSessionStore:
    """Keeps sessions and workers in memory; see `protocol.SessionStore`."""

    def __init__(
        self,
        *,
        session_ttl_seconds: float,
        lease_seconds: float,
        worker_ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty; `clock` returns seconds that never run backwards."""
        self._session_ttl = session_ttl_seconds
        self._lease = lease_seconds
        self._worker_ttl = worker_ttl_seconds
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        self._workers: dict[str, _Worker] = {}

    async def create(
        self,
        request: SessionRequest,
        *,
        owner: str,
        epoch: int = 1,
        output_token_ids: Sequence[int] = (),
    ) -> None:
        """Keep a new session with a lease for `owner`."""
        now = self._clock()
        known = self._sessions.get(request.session_id)
        if known is not None and known.expires > now:
            if (known.request, known.owner, known.epoch) == (request, owner, epoch):
                return
            if known.epoch >= epoch:
                raise SessionConflictError(
                    f"session {request.session_id} exists", reason=protocol.SESSION_EXISTS
                )
        self._sessions[request.session_id] = _Session(
            request=request,
            epoch=epoch,
            owner=owner,
            token_ids=[*request.prompt_token_ids, *output_token_ids],
            lease_ends=now + self._lease,
            expires=now + self._session_ttl,
        )

    async def claim(self, session_id: str, *, owner: str, steals: bool = False) -> SessionRecord:
        """Take over a session whose lease ran out or is the claimer's own, or steal it."""
        session = self._find(session_id)
        if session.finish_reason is not None:
            raise SessionConflictError(
                f"session {session_id} is finished", reason=protocol.SESSION_FINISHED
            )
        if not steals and self._holder(session) not in ("", owner):
            raise SessionConflictError(
                f"session {session_id} is held by another coordinator", reason=protocol.LEASE_HELD
            )
        session.epoch += 1
        session.owner = owner
        self._touch(session)
        return self._record(session)

    async def renew(self, session_id: str, epoch: int, *, owner: str) -> None:
        """Let the lease of the owner run anew."""
        self._touch(self._find_owned(session_id, epoch, owner))

    async def place(
        self, session_id: str, epoch: int, placement: SessionPlacement, *, owner: str
    ) -> None:
        """Remember where the session runs."""
        session = self._find_owned(session_id, epoch, owner)
        session.placement = placement
        self._touch(session)

    async def append_tokens(
        self,
        session_id: str,
        epoch: int,
        base_length: int,
        token_ids: Sequence[int],
        *,
        owner: str,
    ) -> int:
        """Log tokens that follow `base_length` others."""
        session = self._find_owned(session_id, epoch, owner)
        length = len(session.token_ids)
        if base_length > length:
            raise SessionConflictError(
                f"the log of {session_id} ends at {length}, not at {base_length}",
                reason=protocol.LOG_GAP,
            )
        num_known = min(length - base_length, len(token_ids))
        known = session.token_ids[base_length : base_length + num_known]
        if known != list(token_ids[:num_known]):
            raise SessionConflictError(
                f"the log of {session_id} has other tokens after {base_length}",
                reason=protocol.LOG_MISMATCH,
            )
        if num_known < len(token_ids) and session.finish_reason is not None:
            raise SessionConflictError(
                f"session {session_id} is finished", reason=protocol.SESSION_FINISHED
            )
        session.token_ids.extend(token_ids[num_known:])
        self._touch(session)
        return len(session.token_ids)

    async def finish(
        self, session_id: str, epoch: int, length: int, reason: FinishReason, *, owner: str
    ) -> None:
        """Close the session, whose log is whole, and give up its lease; the first reason stays."""
        session = self._find_owned(session_id, epoch, owner)
        if len(session.token_ids) < length:
            raise SessionConflictError(
                f"the log of {session_id} ends at {len(session.token_ids)}, not at {length}",
                reason=protocol.LOG_GAP,
            )
        session.finish_reason = session.finish_reason or reason
        # It dies with this process anyway; a late reader gets a minute.
        session.expires = self._clock() + min(self._session_ttl, _KEEP_FINISHED_SECONDS)

    async def load(self, session_id: str) -> SessionRecord:
        """Return a session."""
        return self._record(self._find(session_id))

    async def birth_mark(self) -> str:
        """Return always the same: it loses nothing as long as it is there."""
        return "embedded"

    async def remove_expired(self) -> int:
        """Forget what is past its time and return how much that was."""
        now = self._clock()
        dead_sessions = [key for key, value in self._sessions.items() if value.expires <= now]
        dead_workers = [key for key, value in self._workers.items() if value.expires <= now]
        for key in dead_sessions:
            del self._sessions[key]
        for key in dead_workers:
            del self._workers[key]
        return len(dead_sessions) + len(dead_workers)

    async def register_worker(self, registration: WorkerRegistration, report: WorkerReport) -> None:
        """Keep a worker, in place of any earlier start of it."""
        self._workers[registration.worker_id] = _Worker(
            WorkerRecord(registration, without_prefixes(report)),
            self._clock() + self._worker_ttl,
            set(report.added_prefixes),
        )

    async def report_worker(self, registration: WorkerRegistration, report: WorkerReport) -> bool:
        """Keep a worker's report and apply its prefix deltas."""
        worker = self._find_worker(registration)
        if worker is None:
            return False
        worker.record = replace(worker.record, report=without_prefixes(report))
        worker.expires = self._clock() + self._worker_ttl
        worker.prefixes.difference_update(report.removed_prefixes)
        worker.prefixes.update(report.added_prefixes)
        return True

    async def remove_worker(self, registration: WorkerRegistration) -> None:
        """Forget this start of a worker; a later one stays."""
        if self._find_worker(registration) is not None:
            del self._workers[registration.worker_id]

    async def list_workers(self) -> list[WorkerRecord]:
        """Return all workers, ordered by id."""
        now = self._clock()
        living = sorted(key for key, value in self._workers.items() if value.expires > now)
        return [self._workers[key].record for key in living]

    async def prefix_holders(
        self, worker_ids: Sequence[str], prefixes: Sequence[int]
    ) -> dict[str, int]:
        """Return how many of the leading pages each worker holds."""
        now = self._clock()
        held = {}
        for worker_id in worker_ids:
            worker = self._workers.get(worker_id)
            if worker is not None and worker.expires > now:
                held[worker_id] = count_leading(prefix in worker.prefixes for prefix in prefixes)
        return {worker_id: count for worker_id, count in held.items() if count}

    async def close(self) -> None:
        """Hold nothing outside the process: there is nothing to release."""

    def _find(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None or session.expires <= self._clock():
            raise unknown_session(session_id)
        return session

    def _find_owned(self, session_id: str, epoch: int, owner: str) -> _Session:
        session = self._find(session_id)
        if session.epoch < epoch:
            raise unknown_session(session_id)
        if (session.epoch, session.owner) != (epoch, owner):
            raise SessionConflictError(
                f"session {session_id} has a newer owner", reason=protocol.STALE_EPOCH
            )
        return session

    def _find_worker(self, registration: WorkerRegistration) -> _Worker | None:
        worker = self._workers.get(registration.worker_id)
        if worker is None or worker.expires <= self._clock():
            return None
        is_same = worker.record.registration.incarnation == registration.incarnation
        return worker if is_same else None

    def _touch(self, session: _Session) -> None:
        now = self._clock()
        session.lease_ends = now + self._lease if session.finish_reason is None else now
        session.expires = now + self._session_ttl

    def _holder(self, session: _Session) -> str:
        return session.owner if session.lease_ends > self._clock() else ""

    def _record(self, session: _Session) -> SessionRecord:
        return SessionRecord(
            request=session.request,
            epoch=session.epoch,
            owner=self._holder(session),
            token_ids=tuple(session.token_ids),
            placement=session.placement,
            finish_reason=session.finish_reason,
        )
