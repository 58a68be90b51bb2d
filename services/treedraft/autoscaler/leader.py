"""Which of several autoscalers acts: the one that holds the Lease.

The rules are those of Kubernetes' own components. A candidate takes the lease
when the record it sees has not changed for the lease's duration **by its own
clock**, so that clocks need not agree. The leader counts itself as deposed a
little earlier than others may take over, so that two never act at once.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from treedraft.autoscaler.workloads import LeaseRecord, Leases, WriteConflictError
from treedraft.core.errors import UnavailableError

# Of the lease's duration: after so much without a renewal the leader stops acting.
_TRUST = 0.7


@dataclass(slots=True)
class _Seen:
    record: LeaseRecord
    since: float


class LeaderElection:
    """One candidate."""

    def __init__(
        self,
        leases: Leases,
        identity: str,
        *,
        lease_seconds: float,
        clock: Callable[[], float],
        stamp: Callable[[], str],
    ) -> None:
        """Stand as `identity`.

        Args:
            leases: where the candidates meet.
            identity: unique among them.
            lease_seconds: for how long a renewal counts.
            clock: monotonic seconds.
            stamp: the wall clock's time for a renewal, different at each.
        """
        self._leases = leases
        self._identity = identity
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._stamp = stamp
        self._seen: _Seen | None = None
        self._renewed_at: float | None = None
        self._log = structlog.get_logger(__name__)

    @property
    def is_leader(self) -> bool:
        """Whether to act now: the lease is ours, and was renewed lately."""
        renewed = self._renewed_at
        return renewed is not None and self._clock() - renewed < _TRUST * self._lease_seconds

    def step(self) -> bool:
        """Renew the lease or try to get it; return whether we lead. Blocking.

        What goes wrong on the way counts as not having renewed.
        """
        was_leader, asked_at = self.is_leader, self._clock()
        try:
            if self._try():
                self._renewed_at = asked_at
            else:
                self._renewed_at = None
        except WriteConflictError:
            self._seen = self._renewed_at = None
        except UnavailableError as error:
            self._log.warning("the lease cannot be reached", why=error.message)
        if self.is_leader != was_leader:
            self._log.info("leading" if self.is_leader else "following", identity=self._identity)
        return self.is_leader

    def resign(self) -> None:
        """Let go of the lease, so that another takes over at once. Blocking."""
        if not self.is_leader or self._seen is None:
            return
        # If that fails, it runs out by itself.
        with contextlib.suppress(WriteConflictError, UnavailableError):
            self._leases.replace(replace(self._seen.record, holder="", renewals=self._stamp()))
        self._renewed_at = None

    def _try(self) -> bool:
        record = self._leases.read()
        if record is None:
            mine = LeaseRecord(self._identity, self._lease_seconds, self._stamp())
            self._note(self._leases.create(mine))
            return True
        if self._seen is None or _content(self._seen.record) != _content(record):
            self._note(record)
        if record.holder == self._identity:
            return self._take(record, record.transitions)
        if record.holder and not self._has_run_out(record):
            return False
        return self._take(record, record.transitions + 1)

    def _take(self, record: LeaseRecord, transitions: int) -> bool:
        mine = replace(
            record,
            holder=self._identity,
            lease_seconds=self._lease_seconds,
            renewals=self._stamp(),
            transitions=transitions,
        )
        self._note(self._leases.replace(mine))
        return True

    def _note(self, record: LeaseRecord) -> None:
        self._seen = _Seen(record, self._clock())

    def _has_run_out(self, record: LeaseRecord) -> bool:
        return self._seen is not None and (self._clock() - self._seen.since >= record.lease_seconds)


def _content(record: LeaseRecord) -> tuple[str, str, int]:
    return record.holder, record.renewals, record.transitions
