"""How records look in Redis: JSON for what people may want to read, raw
little-endian numbers for tokens and prefix hashes, which are long.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import TypeAdapter

from treedraft.coordinator.session_store.records import (
    SessionPlacement,
    SessionRecord,
    SessionRequest,
    WorkerRecord,
)
from treedraft.core.errors import SessionConflictError, TreedraftError
from treedraft.core.session import FinishReason
from treedraft.core.worker import WorkerRegistration, WorkerReport

UNREADABLE = "RECORD_UNREADABLE"

_REQUEST = TypeAdapter(SessionRequest)
_PLACEMENT = TypeAdapter(SessionPlacement)
_REGISTRATION = TypeAdapter(WorkerRegistration)
_REPORT = TypeAdapter(WorkerReport)


def encode_tokens(token_ids: Sequence[int]) -> bytes:
    """Return 4 bytes per token."""
    return np.asarray(token_ids, dtype="<u4").tobytes()


def decode_tokens(data: bytes) -> tuple[int, ...]:
    """Return the tokens of `encode_tokens`."""
    return tuple(np.frombuffer(data, dtype="<u4").tolist())


def encode_prefixes(prefixes: Sequence[int]) -> bytes:
    """Return 8 bytes per short hash."""
    return np.asarray(prefixes, dtype="<u8").tobytes()


def encode_request(request: SessionRequest) -> bytes:
    """Return a request in JSON."""
    return _REQUEST.dump_json(request)


def encode_placement(placement: SessionPlacement) -> bytes:
    """Return a placement in JSON."""
    return _PLACEMENT.dump_json(placement)


def encode_registration(registration: WorkerRegistration) -> bytes:
    """Return a registration in JSON."""
    return _REGISTRATION.dump_json(registration)


def encode_report(report: WorkerReport) -> bytes:
    """Return a report in JSON."""
    return _REPORT.dump_json(report)


def decode_session(
    request: bytes,
    epoch: bytes,
    owner: bytes,
    tokens: bytes,
    placement: bytes | None,
    finish_reason: bytes | None,
) -> SessionRecord:
    """Return the session of which these are the stored parts.

    Raises:
        SessionConflictError: RECORD_UNREADABLE; another version wrote it, or nobody of ours.
    """
    try:
        return SessionRecord(
            request=_REQUEST.validate_json(request),
            epoch=int(epoch),
            owner=owner.decode(),
            token_ids=decode_tokens(tokens),
            placement=_PLACEMENT.validate_json(placement) if placement else None,
            finish_reason=FinishReason(finish_reason.decode()) if finish_reason else None,
        )
    except (ValueError, TreedraftError):
        raise _unreadable("session") from None  # the error would quote the prompt


def decode_worker(registration: bytes, report: bytes) -> WorkerRecord:
    """Return the worker of which these are the stored parts.

    Raises:
        SessionConflictError: RECORD_UNREADABLE.
    """
    try:
        return WorkerRecord(
            registration=_REGISTRATION.validate_json(registration),
            report=_REPORT.validate_json(report),
        )
    except ValueError:
        raise _unreadable("worker") from None


def _unreadable(what: str) -> SessionConflictError:
    return SessionConflictError(f"the store's record of a {what} cannot be read", reason=UNREADABLE)
