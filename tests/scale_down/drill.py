"""Four targets become one while sessions stream.

Everything is a process: coordinators, targets, a drafter, Redis, and our autoscaler, which
looks at the coordinators, marks what each pod's end would cost and writes the new size. What
that means for pods is a cluster's matter: a stand-in (`replica_set`) or a real one
(`tests/kube`). Every answer is compared with the undisturbed one.
"""

import asyncio
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.chaos.faults import TARGET
from tests.chaos.fleet import Fleet, FleetPlan
from tests.chaos.load import Load, make_queries
from tests.scale_down.autoscaler_process import (
    AutoscalerProcess,
    endpoints_setting,
    pools_setting,
)
from tests.scale_down.cluster import Cluster, Removal

from treedraft.core.worker import WorkerRole
from treedraft.inference.toy import make_toy_model
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.telemetry import names

NUM_TARGETS = 4
LEASE = "demo-treedraft-autoscaler"
_PATIENCE_SECONDS = 120.0

# Nothing but sessions counts, there is room for all of them on one target, and nobody waits.
_GOALS = {
    "TARGET__GOAL_SESSIONS": "64",
    "TARGET__GOAL_PROMPT_SHARE": "1",
    "TARGET__GOAL_KV_USE": "1",
    "PACE__UP_SECONDS": "60",
}
AT_ONCE = {**_GOALS, "PACE__DOWN_SECONDS": "0", "PACE__MAX_DOWN_SHARE": "1"}
ONE_BY_ONE = {
    **_GOALS,
    "PACE__DOWN_SECONDS": "1",
    "PACE__MAX_DOWN_SHARE": "0.1",
    "PACE__DOWN_COOLDOWN_SECONDS": "3",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What a scale-down came to."""

    sessions: int
    tokens: int
    lost: int
    duplicated: int
    changed: int
    moves: int
    longest_stall_seconds: float
    removals: tuple[Removal, ...]
    costs: dict[str, int]
    reasons: tuple[str, ...]
    examples: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether every answer was right and every pod ended by itself."""
        by_itself = all(not one.was_killed and one.exit_status == 0 for one in self.removals)
        return not (self.lost or self.duplicated or self.changed) and by_itself

    def as_json(self) -> dict[str, object]:
        return asdict(self)


async def scale_down(
    folder: Path,
    cluster: Cluster,
    *,
    pace: Mapping[str, str] = AT_ONCE,
    at_once: int = 12,
    num_coordinators: int = 1,
    num_queries: int = 8,
    lengths: tuple[int, int] = (120, 240),
    drain_seconds: float = 1.0,
    seconds_after: float = 1.0,
    seed: int = 7,
) -> Figures:
    """Run the drill and return its figures."""
    model = make_toy_model(folder / "toy", layers=2, hidden=64)
    plan = FleetPlan(
        target_model=str(model),
        draft_model="",
        num_coordinators=num_coordinators,
        num_targets=NUM_TARGETS,
        num_drafters=1,
        target_pool=cluster.pool,
        settings={"TREEDRAFT_TARGET__DRAIN_SECONDS": str(drain_seconds)},
    )
    async with Fleet(plan, folder) as fleet:
        queries = make_queries(num_queries, seed=seed, shortest=lengths[0], longest=lengths[1])
        load = Load(fleet.endpoints, queries)
        try:
            await load.learn(at_once=4)
            await _under_load(fleet, load, cluster, folder, pace, at_once, seconds_after)
        finally:
            await load.close()
        moves = await _num_moves(fleet)
    return _figures(load, cluster, moves)


async def _under_load(
    fleet: Fleet,
    load: Load,
    cluster: Cluster,
    folder: Path,
    pace: Mapping[str, str],
    at_once: int,
    seconds_after: float,
) -> None:
    is_over = asyncio.Event()
    settings = {
        "COORDINATORS": endpoints_setting(fleet.endpoints),
        "POOLS": pools_setting(cluster.kind, cluster.workload, most=NUM_TARGETS),
        "NAMESPACE": cluster.namespace,
        "INTERVAL_SECONDS": "0.3",
        # Whoever may write a lease may write that of this name.
        "LEADER__LEASE_NAME": LEASE,
        **pace,
    }
    targets = {name: one for name, one in fleet.services.items() if one.role == TARGET}
    await cluster.create(targets)
    kubeconfig = cluster.kubeconfig(folder)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(at_once, is_over, seed=4))
        following = group.create_task(cluster.follow())
        await _until_all_are_busy(fleet)
        async with AutoscalerProcess(folder, kubeconfig, settings) as autoscaler:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while len(cluster.removals) < NUM_TARGETS - 1:
                    autoscaler.check()
                    await asyncio.sleep(0.05)
            await asyncio.sleep(seconds_after)
        following.cancel()
        is_over.set()


async def _until_all_are_busy(fleet: Fleet) -> None:
    """Wait until every target reports sessions, so that none is drained empty."""
    client = CoordinatorClient(fleet.endpoints[0])
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                workers = (await client.describe_cluster()).workers
                busy = [
                    worker.worker_id
                    for worker, report in workers
                    if worker.role is WorkerRole.TARGET and report.num_sessions
                ]
                if len(busy) == NUM_TARGETS:
                    return
                await asyncio.sleep(0.05)
    finally:
        await client.close()


async def _num_moves(fleet: Fleet) -> int:
    total = 0.0
    for port in fleet.metrics_ports:
        text = await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/metrics")
        total += sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == names.METRIC_FAILOVERS
        )
    return round(total)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def _figures(load: Load, cluster: Cluster, moves: int) -> Figures:
    outcome = load.outcome
    return Figures(
        sessions=outcome.num_sessions,
        tokens=outcome.num_tokens,
        lost=outcome.verdicts["lost"],
        duplicated=outcome.verdicts["duplicated"],
        changed=outcome.verdicts["changed"],
        moves=moves,
        longest_stall_seconds=round(max((one.seconds for one in outcome.stalls), default=0.0), 3),
        removals=tuple(cluster.removals),
        costs=cluster.costs,
        reasons=cluster.reasons(),
        examples=tuple(outcome.examples),
    )
