"""Asks both doors of one cluster the same, in turns, then with many streams at once.

Prompt by prompt both doors answer, in an order that changes, so what drifts is the
same for both. The first answer to a prompt is not counted: after it the
prompt's pages are shared for both.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from treedraft.bench.door.http_stream import HttpStreams
from treedraft.bench.door.result import TOY, Crowd, DoorPlan, DoorResult, Timeline
from treedraft.bench.door.skins import GRPC, HTTP, SKINS, GrpcSkin, HttpSkin, Request, Skin
from treedraft.bench.plan import WITHOUT_RECENT_TRAFFIC
from treedraft.bench.prompts import conversations
from treedraft.core.errors import TreedraftError
from treedraft.inference.stamp import take_stamp
from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.cluster import LocalCluster, Progress
from treedraft.local_cluster.plan import COORDINATOR, TARGET, ClusterPlan

Clock = Callable[[], float]
Computed = Callable[[], float | None]


def plan_cluster(plan: DoorPlan, target: str) -> ClusterPlan:
    """Return the processes of a run: nobody drafts."""
    ratio = {
        f"TREEDRAFT_{role.upper()}__TELEMETRY__SAMPLE_RATIO": str(plan.sample_ratio)
        for role in (COORDINATOR, TARGET)
    }
    return ClusterPlan(
        target=target,
        num_drafters=0,
        device=plan.device,
        settings={**WITHOUT_RECENT_TRAFFIC, **ratio},
    )


async def measure_door(
    plan: DoorPlan, progress: Progress, *, clock: Clock = time.perf_counter
) -> DoorResult:
    """Start a cluster and ask both doors.

    Raises:
        TreedraftError: an answer of those asked for one at a time failed.
    """
    stamp = take_stamp()
    with tempfile.TemporaryDirectory(prefix="treedraft-") as place:
        is_toy = plan.target == TOY
        target = str(make_toy_model(Path(place), seed=0)) if is_toy else plan.target
        cluster = LocalCluster(plan_cluster(plan, target), progress=progress)
        async with cluster, _skins(cluster) as skins:
            pairs = await measure_pairs(skins, plan, progress, clock)
            process = cluster.processes[COORDINATOR].process_id
            crowds = await measure_crowds(
                skins, plan, progress, clock, lambda: cpu_seconds(process)
            )
    return DoorResult(stamp, plan, pairs, crowds)


@asynccontextmanager
async def _skins(cluster: LocalCluster) -> AsyncGenerator[Mapping[str, Skin], None]:
    client, streams = cluster.connect(), HttpStreams(cluster.address)
    try:
        yield {GRPC: GrpcSkin(client), HTTP: HttpSkin(streams)}
    finally:
        streams.close()
        await client.close()


async def measure_pairs(
    skins: Mapping[str, Skin], plan: DoorPlan, progress: Progress, clock: Clock
) -> tuple[Mapping[str, Timeline], ...]:
    """Ask each prompt over each door, one answer at a time."""
    pairs = []
    for number, prompt in enumerate(conversations(plan.num_prompts, salt="door ")):
        progress(f"one stream: {number + 1}/{plan.num_prompts}")
        request = Request(prompt, plan.num_tokens)
        order = SKINS if number % 2 else SKINS[::-1]
        for skin in SKINS:  # not counted: connections, and the prompt's pages
            await follow(skins[skin], Request(prompt, 1), clock)
        pairs.append({skin: await follow(skins[skin], request, clock) for skin in order})
    return tuple(pairs)


async def measure_crowds(
    skins: Mapping[str, Skin],
    plan: DoorPlan,
    progress: Progress,
    clock: Clock,
    computed: Computed,
) -> tuple[Crowd, ...]:
    """Ask many at once over one door, then over the other, again and again."""
    prompts = conversations(plan.num_streams, salt="crowd ")
    requests = [Request(prompt, plan.num_tokens) for prompt in prompts]
    crowds = []
    for repeat in range(plan.num_repeats if requests else 0):
        for skin in SKINS if repeat % 2 else SKINS[::-1]:
            progress(f"{len(requests)} streams over {skin}: {repeat + 1}/{plan.num_repeats}")
            crowds.append(await _crowd(skin, skins[skin], requests, clock, computed))
    return tuple(crowds)


async def _crowd(
    name: str, skin: Skin, requests: Sequence[Request], clock: Clock, computed: Computed
) -> Crowd:
    before, began = computed(), clock()
    lines = await asyncio.gather(*(_survive(skin, request, clock) for request in requests))
    seconds, after = clock() - began, computed()
    cpu = None if before is None or after is None else after - before
    return Crowd(name, seconds, tuple(lines), cpu)


async def _survive(skin: Skin, request: Request, clock: Clock) -> Timeline:
    try:
        return await follow(skin, request, clock)
    except TreedraftError as error:
        return Timeline((), (), error=error.reason)
    except OSError as error:
        return Timeline((), (), error=type(error).__name__)


async def follow(skin: Skin, request: Request, clock: Clock) -> Timeline:
    """Ask, and note when each piece comes."""
    arrivals, pieces = [], []
    asked = clock()
    async with aclosing(skin.stream(request)) as stream:
        async for piece in stream:
            arrivals.append(clock() - asked)
            pieces.append(piece)
    return Timeline(tuple(arrivals), tuple(pieces))


def cpu_seconds(process_id: int, proc: Path = Path("/proc")) -> float | None:
    """Return what a process has computed since it began, None where the system does not tell."""
    try:
        words = (proc / str(process_id) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
