"""The session store as its users see it.

The *epoch* of a session is a fencing token: it grows with each claim, every
write names it and its owner, and a write with an older one loses, however late it
comes. So does one of another owner at the same epoch: an emptied store may have
counted up to one epoch twice. The
*lease* says which coordinator looks after the session; it runs out by itself
when that coordinator dies, and then another one may claim the session. A reader
who comes to another coordinator need not wait for that: its claim steals.

A store may be emptied. Whoever owns a session then puts it back, under its epoch,
and so may an earlier owner that was cut off: the higher epoch takes the place of
the lower one, and to a writer whose epoch is higher the session is not known.
At one epoch only the recorded owner counts: whoever else puts it back has lost it.

Every method is atomic, and safe to repeat after a lost answer. Every method
raises UnavailableError with reason STORE_UNAVAILABLE when the store is away.
"""

from collections.abc import Sequence
from typing import Protocol

from treedraft.coordinator.session_store.records import (
    SessionPlacement,
    SessionRecord,
    SessionRequest,
    WorkerRecord,
)
from treedraft.core.errors import SessionNotFoundError
from treedraft.core.session import FinishReason
from treedraft.core.worker import WorkerRegistration, WorkerReport

STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
SESSION_EXISTS = "SESSION_EXISTS"
SESSION_FINISHED = "SESSION_FINISHED"
LEASE_HELD = "LEASE_HELD"
STALE_EPOCH = "STALE_EPOCH"
LOG_GAP = "LOG_GAP"
LOG_MISMATCH = "LOG_MISMATCH"


def unknown_session(session_id: str) -> SessionNotFoundError:
    """Return what whoever may not know of a session is told, be it there or not."""
    return SessionNotFoundError(f"session {session_id} is not known")


class SessionStore(Protocol):
    """Keeps sessions and the register of workers."""

    async def create(
        self,
        request: SessionRequest,
        *,
        owner: str,
        epoch: int = 1,
        output_token_ids: Sequence[int] = (),
    ) -> None:
        """Keep a new session with a lease for `owner`.

        `epoch` and `output_token_ids` differ from their defaults when a
        session that the store has lost is put back. One of a lower epoch is replaced.

        Raises:
            SessionConflictError: SESSION_EXISTS.
        """
        ...

    async def claim(self, session_id: str, *, owner: str, steals: bool = False) -> SessionRecord:
        """Take over a session whose lease ran out, or is the claimer's own; epoch + 1.

        `steals` takes it from whoever holds it, whose next write will lose.

        Raises:
            SessionNotFoundError: it is not known, or was forgotten.
            SessionConflictError: LEASE_HELD or SESSION_FINISHED.
        """
        ...

    async def renew(self, session_id: str, epoch: int, *, owner: str) -> None:
        """Let the lease of the owner run anew.

        Raises:
            SessionNotFoundError: it is not known.
            SessionConflictError: STALE_EPOCH.
        """
        ...

    async def place(
        self, session_id: str, epoch: int, placement: SessionPlacement, *, owner: str
    ) -> None:
        """Remember where the session runs; renews the lease.

        Raises:
            SessionNotFoundError: it is not known.
            SessionConflictError: STALE_EPOCH.
        """
        ...

    async def append_tokens(
        self,
        session_id: str,
        epoch: int,
        base_length: int,
        token_ids: Sequence[int],
        *,
        owner: str,
    ) -> int:
        """Log tokens that follow `base_length` others, prompt included; renews the lease.

        Tokens that the log already has are skipped, so an append may be
        repeated. Returns the length of the log.

        Raises:
            SessionNotFoundError: it is not known.
            SessionConflictError: STALE_EPOCH, SESSION_FINISHED, LOG_GAP (tokens
                are missing before these) or LOG_MISMATCH (the log has others).
        """
        ...

    async def finish(
        self, session_id: str, epoch: int, length: int, reason: FinishReason, *, owner: str
    ) -> None:
        """Close the session and give up its lease; the first reason stays.

        `length` is that of the whole log, prompt included: a shorter one stays open.

        Raises:
            SessionNotFoundError: it is not known.
            SessionConflictError: STALE_EPOCH, or LOG_GAP (tokens are missing).
        """
        ...

    async def load(self, session_id: str) -> SessionRecord:
        """Return a session.

        Raises:
            SessionNotFoundError: it is not known, or was forgotten.
        """
        ...

    async def birth_mark(self) -> str:
        """Return a mark that the store has had since it was first used.

        Another one than before means that everything in it was lost meanwhile.
        """
        ...

    async def remove_expired(self) -> int:
        """Forget what is past its time and return how much of it was removed here."""
        ...

    async def register_worker(self, registration: WorkerRegistration, report: WorkerReport) -> None:
        """Keep a worker, in place of any earlier start of it, until its time to live ends.

        `report.added_prefixes` is the complete set that the worker holds.
        """
        ...

    async def report_worker(self, registration: WorkerRegistration, report: WorkerReport) -> bool:
        """Keep a worker's report and apply its prefix deltas; its time to live starts anew.

        Returns False, and changes nothing, if this start of the worker is not
        registered: register it again.
        """
        ...

    async def remove_worker(self, registration: WorkerRegistration) -> None:
        """Forget this start of a worker; a later one stays."""
        ...

    async def list_workers(self) -> list[WorkerRecord]:
        """Return all workers, ordered by id."""
        ...

    async def prefix_holders(
        self, worker_ids: Sequence[str], prefixes: Sequence[int]
    ) -> dict[str, int]:
        """Return how many of the leading pages each worker holds; 0 is left out.

        Args:
            worker_ids: the workers to look at.
            prefixes: short hashes of a prompt's pages, first page first.
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
