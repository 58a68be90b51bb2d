"""What the store is told of a session that begins, and of where it runs."""

from collections.abc import Collection

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.log_writer import LogEntry
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.session_store.records import SessionPlacement, SessionRequest
from treedraft.core.session import SessionSpec


def first_entry(
    spec: SessionSpec,
    placement: Placement,
    known: KnownModel,
    owner: str,
    *,
    tenant: str = "",
    query_digest: str = "",
    tool_names: Collection[str] = (),
) -> LogEntry:
    """Return what the store is to keep of a session that begins."""
    request = SessionRequest(
        session_id=spec.session_id,
        model=placement.target.model,
        fingerprint=known.description.fingerprint,
        prompt_token_ids=spec.token_ids,
        sampling=spec.sampling,
        stopping=spec.stopping,
        speculation=spec.speculation,
        choice=spec.choice,
        tenant=tenant,
        query_digest=query_digest,
        tool_names=tuple(sorted(tool_names)),
    )
    return LogEntry(request, spec.epoch, owner, stored_placement(placement))


def stored_placement(placement: Placement) -> SessionPlacement:
    """Return what the store is to keep of a placement."""
    target = placement.target
    return SessionPlacement(
        target.worker_id, target.incarnation, target.endpoint, placement.drafters
    )
