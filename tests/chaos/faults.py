"""What is done to whom, and when: a schedule that a seed determines."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

REDIS = "redis"
COORDINATOR = "coordinator"
TARGET = "target"
DRAFT = "draft"

KILL = "kill"
STOP = "stop"  # SIGTERM: a graceful end, then a new start
FREEZE = "freeze"
CUT = "cut"
BLACK_HOLE = "black hole"
EMPTY = "empty"  # the store loses everything and stays up

KINDS = {
    REDIS: (KILL, FREEZE, CUT, BLACK_HOLE, EMPTY),
    COORDINATOR: (KILL, STOP, FREEZE, CUT, BLACK_HOLE),
    TARGET: (KILL, STOP, FREEZE, CUT, BLACK_HOLE),
    DRAFT: (KILL, STOP, FREEZE, CUT, BLACK_HOLE),
}
# New starts load a model: they cost seconds of a machine that everything shares.
_WEIGHTS = {KILL: 2, STOP: 1, FREEZE: 4, CUT: 6, BLACK_HOLE: 4, EMPTY: 2}
# The one loss that is allowed: a store that is emptied and, before it got a session back, the
# death of the coordinator that has it.
APART_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that faults happen to."""

    role: str
    name: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: it begins at a time and lasts, in seconds from the start."""

    at: float
    kind: str
    subject: Subject
    seconds: float

    @property
    def ends(self) -> float:
        return self.at + self.seconds

    @property
    def empties_the_store(self) -> bool:
        return self.subject.role == REDIS and self.kind in (KILL, EMPTY)

    @property
    def ends_a_coordinator(self) -> bool:
        return self.subject.role == COORDINATOR and self.kind in (KILL, STOP)


def plan_faults(
    seed: int, seconds: float, subjects: Sequence[Subject], *, per_second: float, most_at_once: int
) -> list[Fault]:
    """Return the faults of a run, by the time at which they begin.

    One subject suffers one fault at a time, and at most `most_at_once` do.
    """
    rng = random.Random(seed)
    faults: list[Fault] = []
    now = 0.0
    while True:
        now += rng.expovariate(per_second)
        if now >= seconds:
            return faults
        subject = rng.choice(list(subjects))
        kinds = KINDS[subject.role]
        kind = rng.choices(kinds, [_WEIGHTS[kind] for kind in kinds])[0]
        fault = Fault(now, kind, subject, rng.uniform(0.2, 3.0))
        under_way = [other for other in faults if other.ends > now]
        is_taken = any(other.subject == subject for other in under_way)
        if len(under_way) < most_at_once and not is_taken and _is_fair(fault, faults):
            faults.append(fault)


def _is_fair(fault: Fault, earlier: Sequence[Fault]) -> bool:
    """Return whether no session's log and owner are taken at one moment."""
    if not (fault.empties_the_store or fault.ends_a_coordinator):
        return True
    return not any(
        (other.empties_the_store or other.ends_a_coordinator)
        and other.empties_the_store != fault.empties_the_store
        and fault.at - other.ends < APART_SECONDS
        for other in earlier
    )
