"""Does to the fleet what the schedule says, and undoes it when it is over."""

import asyncio
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.faults import (
    APART_SECONDS,
    BLACK_HOLE,
    COORDINATOR,
    CUT,
    EMPTY,
    FREEZE,
    KILL,
    REDIS,
    STOP,
    TARGET,
    Fault,
    Subject,
)
from tests.chaos.fleet import Fleet

# A service that is told to stop gets so long before it is killed.
_STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Suffered:
    """A fault as it really was, on the clock of the run."""

    fault: Fault
    began: float
    ended: float


@dataclass(slots=True)
class Storm:
    """The faults of a run under way."""

    fleet: Fleet
    suffered: list[Suffered] = field(default_factory=list)
    _down: set[Subject] = field(default_factory=set)
    _under_way: list[Suffered] = field(default_factory=list)

    async def rage(self, faults: Sequence[Fault]) -> None:
        """Let all faults happen, at their times, and return when all is whole again."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, started + fault.at - time.monotonic()))
                group.create_task(self.suffer(fault))

    def _is_spared(self, fault: Fault) -> bool:
        """Return whether a fault must not be: a new start takes longer than any schedule knows.

        Nothing happens to a process that is just starting, and the last of a role that runs is
        not ended: without any, clients would wait for a model to load, and prove nothing. Nor is
        the loss that is allowed asked for, however long things take on a busy machine.
        """
        if fault.subject in self._down:
            return True
        if not is_fair_now(fault, [*self.suffered, *self._under_way], time.monotonic()):
            return True
        is_ending = fault.kind in (KILL, STOP) and fault.subject.role in (COORDINATOR, TARGET)
        others = [one for one in self.fleet.subjects if one.role == fault.subject.role]
        return is_ending and all(one in self._down for one in others if one != fault.subject)

    async def suffer(self, fault: Fault) -> None:
        """Let one fault happen, from its beginning until it is over."""
        if self._is_spared(fault):
            return
        is_ending = fault.kind in (KILL, STOP)
        began = time.monotonic()
        if is_ending:
            self._down.add(fault.subject)
        self._under_way.append(suffering := Suffered(fault, began, math.inf))
        try:
            await self._inflict(fault)
        finally:
            self._down.discard(fault.subject)
            self._under_way.remove(suffering)
        self.suffered.append(Suffered(fault, began, time.monotonic()))

    async def _inflict(self, fault: Fault) -> None:
        if fault.kind in (CUT, BLACK_HOLE):
            await self._hurt_link(fault)
        elif fault.kind == EMPTY:
            await self.fleet.redis.empty()
        else:
            await self._hurt_process(fault)

    async def _hurt_link(self, fault: Fault) -> None:
        proxy = self.fleet.proxies[fault.subject.name]
        if fault.kind == CUT:
            proxy.cut()
        else:
            proxy.swallow()
        await asyncio.sleep(fault.seconds)
        proxy.heal()

    async def _hurt_process(self, fault: Fault) -> None:
        is_redis = fault.subject.role == REDIS
        process = self.fleet.redis if is_redis else self.fleet.services[fault.subject.name]
        if fault.kind == FREEZE:
            process.send(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            process.send(signal.SIGCONT)
            return
        if fault.kind == STOP:
            process.send(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.send(signal.SIGKILL)
        else:
            assert fault.kind == KILL
            process.send(signal.SIGKILL)
        await process.wait()
        await asyncio.sleep(fault.seconds)
        await process.start()
        if not is_redis:
            await self.fleet.services[fault.subject.name].until_up()
            if fault.subject.role == TARGET:
                await self.fleet.until_serving(fault.subject.name)


def is_fair_now(fault: Fault, suffered: Sequence[Suffered], now: float) -> bool:
    """Return whether a fault leaves every session one of its two homes, store or coordinator.

    What one of them lost comes back from the other while the store can be reached: so the store
    must have been whole for a while since the other home was last hurt. What is under way has no
    end yet.
    """
    if not (fault.empties_the_store or fault.ends_a_coordinator):
        return True
    hurt = [one.ended for one in suffered if _is_other_home(fault, one.fault)]
    if not hurt:
        return True
    whole_since = max(hurt)
    troubles = [(one.began, one.ended) for one in suffered if one.fault.subject.role == REDIS]
    for began, ended in sorted(troubles):
        if began - whole_since >= APART_SECONDS:
            return True
        whole_since = max(whole_since, ended)
    return now - whole_since >= APART_SECONDS


def _is_other_home(fault: Fault, other: Fault) -> bool:
    if fault.empties_the_store:
        return other.ends_a_coordinator
    return other.empties_the_store
