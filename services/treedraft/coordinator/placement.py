"""Where a session runs: one target, and the drafters that it is told of.

A pure function of what is known about the workers. The cost of a target is
counted in pages of prompt, the work that placing well can save: pages it would
have to prefill, those of other prompts that come first, plus what its present
sessions and queue cost as much as.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from treedraft.coordinator.shares import draw_order, shares_of
from treedraft.core.errors import UnavailableError
from treedraft.core.rollout import NO_WEIGHTS, Weights
from treedraft.core.worker import DrafterAddress, WorkerRegistration, WorkerReport

# A running session slows a new one about as much as prefilling two pages, and
# one that waits will itself be prefilled first.
_PAGES_PER_SESSION = 2.0
_PAGES_PER_WAITING = 16.0
# A page that is not free has to be evicted or taken from a running session.
_PAGES_PER_SHORTAGE = 4.0
# Above any prompt: a full target is chosen only if all are full.
_FULL = 1e9
# Targets of a pool that are asked which pages they hold, for one session.
MAX_CONTENDERS = 64
# A target that may be gone is chosen only if there is no other, not even a full one.
_DOUBTED = 1e12


def cost_in_pages(
    num_missing: int,
    num_ahead: int,
    num_sessions: int,
    num_waiting: int,
    num_free: int | None,
) -> float:
    """Return what running a session costs at a target that has a place for it.

    Args:
        num_missing: pages of its prompt that are to be computed.
        num_ahead: pages of other prompts that come first.
        num_sessions: that run there.
        num_waiting: that wait there.
        num_free: pages that are free; None if it is not known.
    """
    shortage = 0 if num_free is None else max(0, num_missing - num_free)
    return (
        num_missing
        + num_ahead
        + _PAGES_PER_SESSION * num_sessions
        + _PAGES_PER_WAITING * num_waiting
        + _PAGES_PER_SHORTAGE * shortage
    )


@dataclass(frozen=True, slots=True)
class TargetCandidate:
    """A target that could run the session.

    `num_prompt_pages` counts the prompt in this target's own pages,
    `num_held_pages` those at its beginning whose KV the target has;
    `num_assigned` are sessions placed there since its last report, with
    `num_assigned_pages` to compute; `is_doubted` says that it may be gone.
    """

    registration: WorkerRegistration
    report: WorkerReport
    num_prompt_pages: int = 0
    num_held_pages: int = 0
    num_assigned: int = 0
    num_assigned_pages: int = 0
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
    def is_able(self) -> bool:
        """Whether it can take a session at once."""
        return not (self.report.is_draining or self.is_full or self.is_doubted)

    @property
    def num_missing_pages(self) -> int:
        """Pages of the prompt that it would have to compute."""
        return self.num_prompt_pages - self.num_held_pages

    @property
    def num_pages_ahead(self) -> int:
        """Pages of other prompts that it has to compute."""
        return self.report.num_pending_pages + self.num_assigned_pages

    @property
    def cost(self) -> float:
        """What running the session there costs, in pages to prefill."""
        report = self.report
        return cost_in_pages(
            self.num_missing_pages,
            self.num_pages_ahead,
            self.num_sessions,
            report.num_waiting,
            report.free_kv_blocks if report.total_kv_blocks else None,
        ) + ((_FULL if self.is_full else 0.0) + (_DOUBTED if self.is_doubted else 0.0))

    @property
    def least_cost(self) -> float:
        """What it would cost if the target held the whole prompt."""
        return replace(self, num_held_pages=self.num_prompt_pages).cost


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
    """The choice, the reason for it in words, and the pages that it makes the target compute."""

    target: WorkerRegistration
    drafters: tuple[DrafterAddress, ...]
    reason: str
    draft_pools: tuple[str, ...] = ()
    num_pages: int = 0


def contenders(
    candidates: Sequence[TargetCandidate], *, limit: int = MAX_CONTENDERS
) -> list[TargetCandidate]:
    """Return the targets worth asking which pages of the prompt they hold.

    Pages save at most the whole prompt: a target that would not be the cheapest
    of its pool even then is passed over. Of the others the `limit` cheapest of
    each pool are asked, however many there are.
    """
    pools: dict[str, list[TargetCandidate]] = defaultdict(list)
    for one in candidates:
        pools[one.registration.pool].append(one)
    chosen = []
    for inside in pools.values():
        inside.sort(key=lambda one: (one.cost, one.registration.worker_id))
        most = inside[0].cost
        chosen += [one for one in inside[:limit] if one.least_cost <= most]
    return chosen


def choose_target(candidates: Sequence[TargetCandidate]) -> TargetCandidate:
    """Return the cheapest target that is not draining; ties go to the lowest id.

    Raises:
        UnavailableError: there is none (NO_TARGET).
    """
    ready = [candidate for candidate in candidates if not candidate.report.is_draining]
    if not ready:
        raise UnavailableError("no target can take the session now", reason="NO_TARGET")
    return min(ready, key=lambda candidate: (candidate.cost, candidate.registration.worker_id))


def choose_in_pool(
    candidates: Sequence[TargetCandidate], weights: Weights, draw: Callable[[], float]
) -> TargetCandidate:
    """Return the cheapest target of a pool drawn by its share.

    A pool whose targets are full, draining or maybe gone is passed over; one
    with a share of 0 gets nothing, even if there is no other.

    Raises:
        UnavailableError: there is none (NO_TARGET).
    """
    shares = shares_of((candidate.registration for candidate in candidates), weights)
    order = draw_order(shares, draw)
    for pool in order:
        inside = [one for one in candidates if one.registration.pool == pool]
        if any(one.is_able for one in inside):
            return choose_target(inside)
    return choose_target([one for one in candidates if one.registration.pool in order])


def fits(drafter: WorkerRegistration, target: WorkerRegistration) -> bool:
    """Return whether the drafter's tokens mean the same to the target."""
    return not drafter.tokenizer_hash or drafter.tokenizer_hash == target.tokenizer_hash


def choose_drafters(
    candidates: Sequence[DrafterCandidate],
    target: WorkerRegistration,
    count: int,
    *,
    weights: Weights = NO_WEIGHTS,
    draw: Callable[[], float] = random.random,
) -> tuple[WorkerRegistration, ...]:
    """Return the least loaded drafters that fit the target.

    Those with a model come first, all of one pool that is drawn by its share, so
    that pools can be compared; those that look up fill the places left.
    """
    free = [
        one
        for one in candidates
        if fits(one.registration, target)
        and not one.report.is_draining
        and not (one.registration.max_sessions and one.load >= 1.0)
    ]
    free.sort(key=lambda one: (one.load, one.registration.worker_id))
    models = [one.registration for one in free if one.registration.tokenizer_hash]
    others = [one.registration for one in free if not one.registration.tokenizer_hash]
    order = draw_order(shares_of(models, weights), draw)
    lookups = {pool for pool, share in shares_of(others, weights).items() if share > 0}
    chosen = [drafter for drafter in models if drafter.pool in order[:1]]
    chosen += [drafter for drafter in others if drafter.pool in lookups]
    return tuple(chosen[:count])


def place(
    targets: Sequence[TargetCandidate],
    drafters: Sequence[DrafterCandidate],
    *,
    num_drafters: int,
    weights: Weights = NO_WEIGHTS,
    draw: Callable[[], float] = random.random,
    is_new: bool = True,
) -> Placement:
    """Choose a target and drafters for a session.

    A session that is not new stays with the numbers it began with, whatever the
    share of the pool that has them.

    Raises:
        UnavailableError: no target can take it (NO_TARGET).
    """
    best = choose_in_pool(targets, weights, draw) if is_new else choose_target(targets)
    chosen = choose_drafters(drafters, best.registration, num_drafters, weights=weights, draw=draw)
    pool = f" of pool {best.registration.pool}" if best.registration.pool else ""
    reason = (
        f"{best.registration.worker_id}{pool} of {len(targets)}: holds {best.num_held_pages} of "
        f"{best.num_prompt_pages} pages, {best.num_sessions} sessions, "
        f"{best.num_pages_ahead} pages ahead, {best.report.num_waiting} waiting"
        f"{', full' if best.is_full else ''}"
    )
    return Placement(
        best.registration,
        tuple(DrafterAddress(one.worker_id, one.incarnation, one.endpoint) for one in chosen),
        reason,
        tuple(sorted({drafter.pool for drafter in chosen})),
        best.num_missing_pages,
    )
