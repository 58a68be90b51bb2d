"""What goes wrong in a run, and when: drawn from the seed before it begins."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.target_process import TargetProcess

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when, what, to whom, for how long."""

    at: float
    kind: str
    victim: str
    other: str
    seconds: float

    def strike(self, world: "World") -> bool:
        """Do it; return whether there was anything to do it to."""
        return _STRIKES[self.kind](self, world)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The size of the cluster and the faults in the order in which they come."""

    num_coordinators: int
    num_targets: int
    num_drafters: int
    num_clients: int
    faults: tuple[Fault, ...]
    empties_store: bool


def draw_plan(rng: random.Random) -> FaultPlan:
    """Draw a cluster and what befalls it."""
    sizes = rng.choice([1, 2, 2]), rng.randint(1, 3), rng.choice([0, 1, 2, 2])
    coordinators, targets, drafters = (
        [f"{role}-{i}" for i in range(count)]
        for role, count in zip(("coordinator", "target", "drafter"), sizes, strict=True)
    )
    kinds = ["kill", "kill", "kill", "freeze", "freeze", "cut", "cut", "cut", "drain", "away"]
    kinds.append("lossy")
    empties = rng.random() < 0.08
    if empties:  # together with a coordinator's death: the one loss that is allowed
        kinds.append("empty")
    faults = []
    for _ in range(rng.choice([0, 2, 4, 6, 9, 12])):
        kind = rng.choice(kinds)
        victim, other = _draw_victims(rng, kind, coordinators, targets, drafters)
        seconds = rng.choice([0.05, 0.3, 1.2, 2.5]) * rng.uniform(0.5, 1.5)
        faults.append(Fault(rng.uniform(0.2, 2.6), kind, victim, other, seconds))
    faults.sort(key=lambda fault: fault.at)
    return FaultPlan(*sizes, rng.randint(2, 8), tuple(faults), empties)


def _draw_victims(
    rng: random.Random, kind: str, coordinators: list[str], targets: list[str], drafters: list[str]
) -> tuple[str, str]:
    target = rng.choice(targets)
    if kind == "drain":
        return target, ""
    if kind == "cut":
        return rng.choice([*coordinators, *drafters]), target
    return rng.choice([*coordinators, *targets, *drafters, *drafters]), ""


def _kill(fault: Fault, world: "World") -> bool:
    process = world.processes[fault.victim]
    if not process.actor.is_alive:
        return False
    process.actor.kill()
    world.loop.call_later(fault.seconds, world.start, fault.victim)
    return True


def _freeze(fault: Fault, world: "World") -> bool:
    actor = world.processes[fault.victim].actor
    actor.frozen_until = max(actor.frozen_until, world.loop.time() + fault.seconds)
    return actor.is_alive


def _cut(fault: Fault, world: "World") -> bool:
    world.around.network.cut(fault.victim, fault.other, fault.seconds)
    return True


def _drain(fault: Fault, world: "World") -> bool:
    process = world.processes[fault.victim]
    if not process.actor.is_alive or not isinstance(process, TargetProcess):
        return False
    if process.is_draining:
        return False
    process.drain()
    world.loop.call_later(fault.seconds + 0.5, _replace, world, fault.victim, process)
    return True


def _replace(world: "World", name: str, process: TargetProcess) -> None:
    if process.actor.is_alive:
        process.actor.kill()
        world.loop.call_later(0.1, world.start, name)


def _away(fault: Fault, world: "World") -> bool:
    world.around.store.away_until = world.loop.time() + fault.seconds
    return True


def _lossy(fault: Fault, world: "World") -> bool:
    store = world.around.store
    store.loss = 0.3
    world.loop.call_later(fault.seconds, setattr, store, "loss", 0.0)
    return True


def _empty(fault: Fault, world: "World") -> bool:
    world.around.store.empty()
    return True


_STRIKES: dict[str, Callable[[Fault, "World"], bool]] = {
    "kill": _kill,
    "freeze": _freeze,
    "cut": _cut,
    "drain": _drain,
    "away": _away,
    "lossy": _lossy,
    "empty": _empty,
}
