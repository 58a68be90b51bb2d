"""Where a session runs: one target, and the drafters that it is told of.

A pure function of what is known about the workers. The cost of a target is
counted in pages of prompt, the work that placing well can save: pages it would
have to prefill, plus what its present sessions and queue cost as much as.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from treedraft.core.errors import UnavailableError
from treedraft.core.worker import DrafterAddress, WorkerRegistration, WorkerReport

# A running session slows a new one about as much as prefilling two pages, and
# one that waits will itself be prefilled first.
_PAGES_PER_SESSION = 2.0
_PAGES_PER_WAITING = 16.0
# A page that is not free has to be evicted or taken from a running session.
_PAGES_PER_SHORTAGE = 4.0
# Above any prompt: a full target is chosen only if all are full.
_FULL = 1e9
# A target that may be gone is chosen only if there is no other, not even a full one.
_DOUBTED = 1e12


@dataclass(frozen=True, slots=True)
class TargetCandidate:
    """A target that could run the session.

    `num_prompt_pages` counts the prompt in this target's own pages,
    `num_held_pages` those at its beginning whose KV the target has;
    `num_assigned` are sessions placed there since its last report;
    `is_doubted` says that it may be gone.
    """

    registration: WorkerRegistration
    report: WorkerReport
    num_prompt_pages: int = 0
    num_held_pages: int = 0
    num_assigned: int = 0
    is_doubted: bool = False

    @property
    def num_sessions(self) -> int:
        """Sessions it holds or is about to."""
        return self.report.num_sessions + self.num_assigned

    @property
    def is_full(self) -> bool:
        """Whether it holds as many sessions as it can; 0 is no limit."""
        limit = self.registration.max_sessions
        return 0 < limit <= self.num_sessions

    @property
    def cost(self) -> float:
        """What running the session there costs, in pages to prefill."""
        missing = self.num_prompt_pages - self.num_held_pages
        shortage = max(0, missing - self.report.free_kv_blocks)
        return (
            missing
            + _PAGES_PER_SESSION * self.num_sessions
            + _PAGES_PER_WAITING * self.report.num_waiting
            + (_PAGES_PER_SHORTAGE * shortage if self.report.total_kv_blocks else 0.0)
            + (_FULL if self.is_full else 0.0)
            + (_DOUBTED if self.is_doubted else 0.0)
        )


@dataclass(frozen=True, slots=True)
class DrafterCandidate:
    """A drafter that could draft for the session."""

    registration: WorkerRegistration
    report: WorkerReport
    num_assigned: int = 0

    @property
    def load(self) -> float:
        """Share of its places that are taken; sessions themselves if it has no limit."""
        num_sessions = self.report.num_sessions + self.num_assigned
        return num_sessions / (self.registration.max_sessions or 1)


@dataclass(frozen=True, slots=True)
class Placement:
    """The choice, and the reason for it in words."""

    target: WorkerRegistration
    drafters: tuple[DrafterAddress, ...]
    reason: str


def choose_target(candidates: Sequence[TargetCandidate]) -> TargetCandidate:
    """Return the cheapest target that is not draining; ties go to the lowest id.

    Raises:
        UnavailableError: there is none (NO_TARGET).
    """
    ready = [candidate for candidate in candidates if not candidate.report.is_draining]
    if not ready:
        raise UnavailableError("no target can take the session now", reason="NO_TARGET")
    return min(ready, key=lambda candidate: (candidate.cost, candidate.registration.worker_id))


def fits(drafter: WorkerRegistration, target: WorkerRegistration) -> bool:
    """Return whether the drafter's tokens mean the same to the target."""
    return not drafter.tokenizer_hash or drafter.tokenizer_hash == target.tokenizer_hash


def choose_drafters(
    candidates: Sequence[DrafterCandidate], target: WorkerRegistration, count: int
) -> tuple[DrafterAddress, ...]:
    """Return the least loaded drafters that fit the target, those with a model first."""
    fitting = [
        candidate
        for candidate in candidates
        if fits(candidate.registration, target)
        and not candidate.report.is_draining
        and not (candidate.registration.max_sessions and candidate.load >= 1.0)
    ]
    fitting.sort(
        key=lambda candidate: (
            not candidate.registration.tokenizer_hash,
            candidate.load,
            candidate.registration.worker_id,
        )
    )
    return tuple(
        DrafterAddress(chosen.worker_id, chosen.incarnation, chosen.endpoint)
        for chosen in (candidate.registration for candidate in fitting[:count])
    )


def place(
    targets: Sequence[TargetCandidate],
    drafters: Sequence[DrafterCandidate],
    *,
    num_drafters: int,
) -> Placement:
    """Choose a target and drafters for a session.

    Raises:
        UnavailableError: no target can take it (NO_TARGET).
    """
    best = choose_target(targets)
    chosen = choose_drafters(drafters, best.registration, num_drafters)
    reason = (
        f"{best.registration.worker_id} of {len(targets)}: holds {best.num_held_pages} of "
        f"{best.num_prompt_pages} pages, {best.num_sessions} sessions, "
        f"{best.report.num_waiting} waiting{', full' if best.is_full else ''}"
    )
    return Placement(best.registration, chosen, reason)
