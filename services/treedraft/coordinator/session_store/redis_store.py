"""The session store in Redis: it outlives coordinators and is shared by them.

Per session a hash (request, epoch, owner, placement, finish), a string of
tokens and a lease that Redis itself lets run out; all three share a hash tag.
Per worker a hash and the set of prefixes that it holds (the KV directory).
Whatever touches more than one key is one Lua script, so no crash and no
second coordinator can come between.
"""

import secrets
from collections.abc import Awaitable, Sequence
from importlib import resources
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from treedraft.coordinator.session_store import codec, protocol
from treedraft.coordinator.session_store.protocol import unknown_session
from treedraft.coordinator.session_store.records import (
    SessionPlacement,
    SessionRecord,
    SessionRequest,
    WorkerRecord,
    without_prefixes,
)
from treedraft.coordinator.session_store.redis_connection import guarded
from treedraft.core.errors import SessionConflictError, SessionNotFoundError
from treedraft.core.session import FinishReason
from treedraft.core.worker import WorkerRegistration, WorkerReport

_log = structlog.get_logger(__name__)

_SCRIPTS = (
    "prefix_holders",
    "session_append",
    "session_claim",
    "session_create",
    "session_finish",
    "session_load",
    "session_update",
    "worker_list",
    "worker_register",
    "worker_remove",
    "worker_report",
)
_CONFLICTS = {
    protocol.SESSION_EXISTS: "session {} exists",
    protocol.SESSION_FINISHED: "session {} is finished",
    protocol.LEASE_HELD: "session {} is held by another coordinator",
    protocol.STALE_EPOCH: "session {} has a newer owner",
    protocol.LOG_GAP: "the log of session {} lacks tokens before these",
    protocol.LOG_MISMATCH: "the log of session {} has other tokens in that place",
}


class RedisSessionStore:
    """Keeps sessions and workers in Redis 6.2 or later; see `protocol.SessionStore`."""

    def __init__(
        self,
        redis: Redis,
        *,
        session_ttl_seconds: float,
        lease_seconds: float,
        worker_ttl_seconds: float,
        prefix: str = "treedraft",
    ) -> None:
        """Use a client that does not decode answers; `prefix` begins all keys."""
        self._redis = redis
        self._session_ttl_ms = round(session_ttl_seconds * 1000)
        self._lease_ms = round(lease_seconds * 1000)
        self._worker_ttl_ms = round(worker_ttl_seconds * 1000)
        self._prefix = prefix
        folder = resources.files("treedraft.coordinator.session_store") / "lua"
        self._scripts: dict[str, AsyncScript] = {
            name: redis.register_script((folder / f"{name}.lua").read_text()) for name in _SCRIPTS
        }

    async def create(
        self,
        request: SessionRequest,
        *,
        owner: str,
        epoch: int = 1,
        output_token_ids: Sequence[int] = (),
    ) -> None:
        """Keep a new session with a lease for `owner`."""
        tokens = codec.encode_tokens([*request.prompt_token_ids, *output_token_ids])
        await self._run_session(
            "session_create",
            request.session_id,
            owner,
            epoch,
            codec.encode_request(request),
            tokens,
            self._lease_ms,
            self._session_ttl_ms,
        )

    async def claim(self, session_id: str, *, owner: str, steals: bool = False) -> SessionRecord:
        """Take over a session whose lease ran out or is the claimer's own, or steal it."""
        parts = await self._run_session(
            "session_claim",
            session_id,
            owner,
            self._lease_ms,
            self._session_ttl_ms,
            "1" if steals else "",
        )
        return codec.decode_session(*parts)

    async def renew(self, session_id: str, epoch: int, *, owner: str) -> None:
        """Let the lease of the owner run anew."""
        await self._update(session_id, epoch, owner, "", b"")

    async def place(
        self, session_id: str, epoch: int, placement: SessionPlacement, *, owner: str
    ) -> None:
        """Remember where the session runs."""
        value = codec.encode_placement(placement)
        await self._update(session_id, epoch, owner, "placement", value)

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
        (length,) = await self._run_session(
            "session_append",
            session_id,
            epoch,
            owner,
            self._lease_ms,
            self._session_ttl_ms,
            base_length,
            codec.encode_tokens(token_ids),
        )
        return int(length)

    async def finish(
        self, session_id: str, epoch: int, length: int, reason: FinishReason, *, owner: str
    ) -> None:
        """Close the session, whose log is whole, and give up its lease; the first reason stays."""
        ttl_ms = self._session_ttl_ms
        await self._run_session(
            "session_finish", session_id, epoch, owner, ttl_ms, length, reason.value
        )

    async def load(self, session_id: str) -> SessionRecord:
        """Return a session."""
        return codec.decode_session(*await self._run_session("session_load", session_id))

    async def birth_mark(self) -> str:
        """Return the mark in the store; one without a mark is new, or was emptied."""
        key = f"{self._prefix}:born"
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.set(key, secrets.token_hex(8), nx=True)
        pipeline.get(key)
        _, mark = await guarded(pipeline.execute())
        return str(mark.decode())

    async def remove_expired(self) -> int:
        """Remove nothing: Redis does so by itself."""
        return 0

    async def register_worker(self, registration: WorkerRegistration, report: WorkerReport) -> None:
        """Keep a worker, in place of any earlier start of it."""
        await self._run(
            "worker_register",
            [self._worker_index, *self._worker_keys(registration.worker_id)],
            registration.worker_id,
            registration.incarnation,
            codec.encode_registration(registration),
            codec.encode_report(without_prefixes(report)),
            self._worker_ttl_ms,
            codec.encode_prefixes(report.added_prefixes),
        )

    async def report_worker(self, registration: WorkerRegistration, report: WorkerReport) -> bool:
        """Keep a worker's report and apply its prefix deltas."""
        status, *_ = await self._run(
            "worker_report",
            self._worker_keys(registration.worker_id),
            registration.incarnation,
            codec.encode_report(without_prefixes(report)),
            self._worker_ttl_ms,
            codec.encode_prefixes(report.removed_prefixes),
            codec.encode_prefixes(report.added_prefixes),
        )
        return bool(status == b"OK")

    async def remove_worker(self, registration: WorkerRegistration) -> None:
        """Forget this start of a worker; a later one stays."""
        await self._run(
            "worker_remove",
            [self._worker_index, *self._worker_keys(registration.worker_id)],
            registration.worker_id,
            registration.incarnation,
        )

    async def list_workers(self) -> list[WorkerRecord]:
        """Return all workers, ordered by id."""
        _, *parts = await self._run("worker_list", [self._worker_index], self._worker_key(""))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        workers = [worker for pair in pairs if (worker := _readable_worker(*pair))]
        return sorted(workers, key=lambda worker: worker.registration.worker_id)

    async def prefix_holders(
        self, worker_ids: Sequence[str], prefixes: Sequence[int]
    ) -> dict[str, int]:
        """Return how many of the leading pages each worker holds."""
        if not worker_ids or not prefixes:
            return {}
        members = [codec.encode_prefixes([prefix]) for prefix in prefixes]
        keys = [self._worker_keys(worker_id)[1] for worker_id in worker_ids]
        counts = await self._run("prefix_holders", keys, *members)
        return {
            worker_id: int(count)
            for worker_id, count in zip(worker_ids, counts, strict=True)
            if count
        }

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    @property
    def _worker_index(self) -> str:
        return f"{self._prefix}:{{workers}}"

    def _worker_key(self, worker_id: str) -> str:
        return f"{self._prefix}:{{workers}}:about:{worker_id}"

    def _worker_keys(self, worker_id: str) -> list[str]:
        return [
            self._worker_key(worker_id),
            f"{self._prefix}:{{workers}}:prefixes:{worker_id}",
        ]

    async def _update(
        self, session_id: str, epoch: int, owner: str, field: str, value: bytes
    ) -> None:
        times = (self._lease_ms, self._session_ttl_ms)
        await self._run_session("session_update", session_id, epoch, owner, *times, field, value)

    async def _run_session(
        self, script: str, session_id: str, *arguments: bytes | str | int
    ) -> Any:
        key = f"{self._prefix}:session:{{{session_id}}}"
        answer = await self._run(script, [key, f"{key}:tokens", f"{key}:lease"], *arguments)
        status, *rest = answer
        reason = status.decode()
        if reason in _CONFLICTS:
            raise SessionConflictError(_CONFLICTS[reason].format(session_id), reason=reason)
        if reason == SessionNotFoundError.reason:
            raise unknown_session(session_id)
        return rest

    async def _run(self, script: str, keys: list[str], *arguments: bytes | str | int) -> Any:
        call = self._scripts[script](keys=keys, args=list(arguments))
        return await guarded(cast(Awaitable[Any], call))


def _readable_worker(registration: bytes, report: bytes) -> WorkerRecord | None:
    # One of another version must not hide the others.
    try:
        return codec.decode_worker(registration, report)
    except SessionConflictError as error:
        _log.warning("worker left out", reason=error.reason)
        return None
