"""One fault at a time, on a calm fleet: how long it is felt, in seconds."""

import asyncio
import random
import time
from contextlib import aclosing
from dataclasses import replace

from tests.chaos.faults import DRAFT, FREEZE, KILL, TARGET, Fault, Subject
from tests.chaos.fleet import Fleet
from tests.chaos.load import POLICY, make_queries
from tests.chaos.storm import Storm

from treedraft.client import Client
from treedraft.core.generation import Delta, GenerateQuery
from treedraft.core.sampling import SpeculationOptions
from treedraft.core.worker import WorkerRole
from treedraft.rpc.coordinator_client import CoordinatorClient

_STREAMS = 4
_LENGTH = 1000
_FAULT_AFTER = 40  # tokens
# How long what is hurt stays away. Drafters longer than the streams last: the start of a new
# process takes the cores from everybody, where they are few, and is not what is asked about.
_AWAY_SECONDS = {DRAFT: 12.0, TARGET: 3.0}


async def run_drills(fleet: Fleet, storm: Storm) -> dict[str, float]:
    """Return the figures of all drills."""
    async with Client(fleet.endpoints, policy=POLICY, rng=random.Random(1)) as client:
        plain = await _gaps(client, is_speculative=False)
        figures = {
            "plain step, median": _median(plain),
            "plain step, longest": max(plain),
        }
        for role, kind in ((DRAFT, KILL), (DRAFT, FREEZE), (TARGET, KILL), (TARGET, FREEZE)):
            gaps = await _gaps(client, hurt=(fleet, storm, role, kind))
            figures[f"longest stall, {role} {kind}"] = max(gaps)
            await fleet.until_served()
        figures["first token of as long a prompt"] = await _prefill_seconds(client)
    return {name: round(value, 4) for name, value in figures.items()}


def _queries(*, is_speculative: bool) -> list[GenerateQuery]:
    queries = make_queries(_STREAMS, seed=99, shortest=_LENGTH, longest=_LENGTH)
    options = SpeculationOptions(enabled=is_speculative)
    return [replace(query, speculation=options) for query in queries]


async def _gaps(client: Client, *, is_speculative: bool = True, hurt=None) -> list[float]:
    """Return the times between parts of a few answers, of all or those after a fault."""
    has_begun = asyncio.Event()
    began_at: list[float] = []
    gaps: list[float] = []

    async def stream(query: GenerateQuery) -> None:
        last, num_tokens = 0.0, 0
        async with aclosing(client.generate(query)) as events:
            async for event in events:
                if not isinstance(event, Delta):
                    continue
                now = time.monotonic()
                if last and (hurt is None or (began_at and now > began_at[0])):
                    gaps.append(now - last)
                last, num_tokens = now, num_tokens + len(event.token_ids)
                if num_tokens >= _FAULT_AFTER:
                    has_begun.set()

    async def harm() -> None:
        fleet, storm, role, kind = hurt
        await has_begun.wait()
        names = [name for name in fleet.services if name.startswith(role)]
        if role == TARGET:
            names = [await _busiest_target(fleet)]
        began_at.append(time.monotonic())
        async with asyncio.TaskGroup() as harms:
            for name in names:  # all drafters: whichever of them drafts is gone
                harms.create_task(
                    storm.suffer(Fault(0.0, kind, Subject(role, name), _AWAY_SECONDS[role]))
                )

    async with asyncio.TaskGroup() as group:
        for query in _queries(is_speculative=is_speculative):
            group.create_task(stream(query))
        if hurt is not None:
            group.create_task(harm())
    return gaps or [0.0]


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
