"""One fault at a time, on a calm fleet: how long it is felt, in seconds."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from tests.chaos.faults import DRAFT, FREEZE, KILL, TARGET, Fault, Subject
from tests.chaos.fleet import Fleet
from tests.chaos.load import POLICY, make_queries
from tests.chaos.storm import Storm

from treedraft.client import Client
from treedraft.core.generation import Delta, GenerateQuery
from treedraft.core.sampling import SpeculationOptions
from treedraft.core.worker import WorkerRole
from treedraft.rpc.coordinator_client import CoordinatorClient

# One at a time beside a drafter's death: what others would take from its core is not asked about.
_STREAMS = {DRAFT: 1, TARGET: 4}
_LENGTH = 1000
_FAULT_AFTER = 40  # tokens
# A stream is looked at for so long once the fault has begun: all that comes of it comes then.
_WATCHED_SECONDS = {DRAFT: 4.0, TARGET: 8.0}
# How long what is hurt stays away. Drafters longer than they are watched: the start of a new
# process takes the cores from everybody, where they are few, and is not what is asked about.
_AWAY_SECONDS = {DRAFT: 5.0, TARGET: 3.0}
_TIMES = {DRAFT: 3, TARGET: 1}


async def run_drills(
    fleet: Fleet, storm: Storm, roles: Sequence[str] = (DRAFT, TARGET)
) -> dict[str, float]:
    """Return the figures of the drills that hurt these roles."""
    figures: dict[str, float] = {}
    async with Client(fleet.endpoints, policy=POLICY, rng=random.Random(1)) as client:
        if DRAFT in roles:
            figures |= await _calm_figures(client)
        for role, kind in itertools.product(roles, (KILL, FREEZE)):
            drill = _Drill(client, _STREAMS[role])
            for _ in range(_TIMES[role]):
                await drill.run(_WATCHED_SECONDS[role], hurt=(fleet, storm, role, kind))
                await fleet.until_served()
            figures[f"longest stall, {role} {kind}"] = max(drill.gaps)
            figures[f"step after {role} {kind}, median"] = _median(drill.gaps)
        if TARGET in roles:
            figures["first token of as long a prompt"] = await _prefill_seconds(client)
    return {name: round(value, 4) for name, value in figures.items()}


async def _calm_figures(client: Client) -> dict[str, float]:
    """Return what a drafter's death is to be held against: the same streams, with nobody hurt."""
    plain, calm = (_Drill(client, _STREAMS[DRAFT]) for _ in range(2))
    for drill in (plain, calm):
        for _ in range(_TIMES[DRAFT]):
            await drill.run(_WATCHED_SECONDS[DRAFT], is_speculative=drill is calm)
    return {
        "plain step, median": _median(plain.gaps),
        "plain step, longest": max(plain.gaps),
        "tokens a step, speculating": calm.num_tokens / len(calm.gaps),
        "speculating step, median": _median(calm.gaps),
        "speculating step, longest": max(calm.gaps),
    }


def _queries(count: int, *, is_speculative: bool) -> list[GenerateQuery]:
    queries = make_queries(count, seed=99, shortest=_LENGTH, longest=_LENGTH)
    options = SpeculationOptions(enabled=is_speculative)
    return [replace(query, speculation=options) for query in queries]


@dataclass(slots=True)
class _Drill:
    """The times between the parts of a few answers, from a moment in the middle of them on."""

    client: Client
    num_streams: int
    gaps: list[float] = field(default_factory=list)
    num_tokens: int = 0

    async def run(self, seconds: float, *, is_speculative: bool = True, hurt=None) -> None:
        """Stream, let the fault happen if there is one, and look on for so long."""
        is_midway, is_over = asyncio.Event(), asyncio.Event()

        async def watch() -> None:
            await is_midway.wait()
            harm = asyncio.create_task(_harm(*hurt)) if hurt else None
            await asyncio.sleep(seconds)
            is_over.set()
            if harm is not None:
                await harm

        async with asyncio.TaskGroup() as group:
            for query in _queries(self.num_streams, is_speculative=is_speculative):
                group.create_task(self._stream(query, is_midway, is_over))
            group.create_task(watch())

    async def _stream(
        self, query: GenerateQuery, is_midway: asyncio.Event, is_over: asyncio.Event
    ) -> None:
        last, num_tokens = 0.0, 0
        async with aclosing(self.client.generate(query)) as events:
            async for event in events:
                if is_over.is_set():
                    return
                if not isinstance(event, Delta):
                    continue
                now = time.monotonic()
                if last and is_midway.is_set():
                    self.gaps.append(now - last)
                    self.num_tokens += len(event.token_ids)
                last, num_tokens = now, num_tokens + len(event.token_ids)
                if num_tokens >= _FAULT_AFTER:
                    is_midway.set()


async def _harm(fleet: Fleet, storm: Storm, role: str, kind: str) -> None:
    names = [name for name in fleet.services if name.startswith(role)]
    if role == TARGET:
        names = [await _busiest_target(fleet)]
    async with asyncio.TaskGroup() as harms:
        for name in names:  # all drafters: whichever of them drafts is gone
            harms.create_task(
                storm.suffer(Fault(0.0, kind, Subject(role, name), _AWAY_SECONDS[role]))
            )


async def _busiest_target(fleet: Fleet) -> str:
    """Return the name of the target that reports most sessions."""
    busiest: tuple[int, str] = (0, "")
    async with asyncio.timeout(20):
        while not busiest[0]:
            await asyncio.sleep(0.1)
            client = CoordinatorClient(fleet.endpoints[0])
            workers = (await client.describe_cluster()).workers
            await client.close()
            busiest = max(
                (report.num_sessions, worker.worker_id)
                for worker, report in workers
                if worker.role is WorkerRole.TARGET
            )
    return busiest[1]


async def _prefill_seconds(client: Client) -> float:
    """Return the time to the first token of prompts as long as what a move computes anew."""
    longest = 0.0
    for number in range(3):
        tokens = tuple((number * 7 + index) % 200 + 1 for index in range(_LENGTH))
        query = GenerateQuery(token_ids=tokens)
        started = time.monotonic()
        async with aclosing(client.generate(query)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    longest = max(longest, time.monotonic() - started)
                    break
    return longest


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
