"""Real targets that are frozen, told to stop and killed while they write: no text changes."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from tests.unit.coordinator.cluster import Cluster, a_cluster

from treedraft.core.generation import Delta, Finished, GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.plan import ClusterPlan, plan_workers
from treedraft.local_cluster.service_process import ServiceProcess
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.telemetry import names

# Long enough that no text is over before a signal has come to its target.
LENGTH = 1200
REPORT_SECONDS = 0.2
TARGETS = {
    "TREEDRAFT_TARGET__HEARTBEAT_SECONDS": "0.2",
    "TREEDRAFT_TARGET__WORKER__REPORT_INTERVAL_SECONDS": str(REPORT_SECONDS),
    "TREEDRAFT_TARGET__DRAIN_SECONDS": "0",
}
LAWS = (
    SamplingParameters(temperature=0.0, seed=1),
    SamplingParameters(temperature=1.0, seed=2),
    SamplingParameters(temperature=1.0, seed=3, top_p=0.9, repetition_penalty=1.2),
)
QUERIES = tuple(
    GenerateQuery(
        text=f"Prompt number {number}: the quick brown fox",
        sampling=LAWS[number % len(LAWS)],
        stopping=StoppingCriteria(
            max_tokens=LENGTH, ignore_eos=True, stop_strings=("no such words in the text",)
        ),
    )
    for number in range(2 * len(LAWS))
)


@dataclass
class Answer:
    """What came of one query."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finished: Finished | None = None
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, client: CoordinatorClient, query: GenerateQuery) -> None:
        async with aclosing(client.generate(query)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    assert event.base_length == len(self.token_ids)
                    self.token_ids.extend(event.token_ids)
                    self.text += event.text
                    self.has_begun.set()
                elif isinstance(event, Finished):
                    self.finished = event


@asynccontextmanager
async def targets_of(cluster: Cluster, folder, model):
    """Run three targets of a model, each a process, and give them by number."""
    plan = ClusterPlan(target=str(model), num_targets=3, num_drafters=0, settings=TARGETS)
    workers = plan_workers(plan, cluster.endpoint, folder, num_cores=os.cpu_count() or 1)
    processes = [await ServiceProcess.start(worker, folder) for worker in workers]
    try:
        async with asyncio.timeout(120):
            while await num_targets(cluster) < len(processes):
                for process in processes:
                    process.check()
                await asyncio.sleep(0.05)
        yield list(processes)
    finally:
        for process in processes:
            process.send(signal.SIGKILL)
            await process.wait()


async def num_targets(cluster: Cluster) -> int:
    return sum(model.num_targets for model in await cluster.client.list_models())


async def ask_all(
    client: CoordinatorClient, hurt: Callable[[], Awaitable[None]] | None = None
) -> list[Answer]:
    """Ask everything at once, and hurt a target when all answers have begun."""
    answers = [Answer() for _ in QUERIES]
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for answer, query in zip(answers, QUERIES, strict=True):
            group.create_task(answer.read(client, query))
        if hurt is not None:
            for answer in answers:
                await answer.has_begun.wait()
            await hurt()
    return answers


async def busiest(cluster: Cluster, targets: list[ServiceProcess]) -> ServiceProcess:
    """Return the one of these targets with the most sessions, by reports made meanwhile."""
    await asyncio.sleep(2 * REPORT_SECONDS)
    while True:
        seen = await cluster.client.describe_cluster()
        loads = {
            registration.worker_id.split("-")[1]: report.num_sessions
            for registration, report in seen.workers
        }
        found = max(targets, key=lambda target: loads.get(number_of(target), 0))
        if loads.get(number_of(found), 0):
            return found
        await asyncio.sleep(0.02)


def number_of(target: ServiceProcess) -> str:
    return target.name.split("-")[1]


def num_moved(cluster: Cluster, *causes: str) -> float:
    values = [
        cluster.metrics.observed.get_sample_value(
            names.METRIC_FAILOVERS, {names.LABEL_REASON: cause}
        )
        for cause in causes
    ]
    return sum(value or 0.0 for value in values)


async def test_texts_survive_targets_that_freeze_that_stop_and_that_die(tmp_path):
    model = make_toy_model(tmp_path / "toy", layers=2, hidden=64)
    failover = {"silence_seconds": 2.0, "max_at_once": 1}
    async with (
        a_cluster(failover=failover) as cluster,
        targets_of(cluster, tmp_path, model) as targets,
    ):
        undisturbed = await ask_all(cluster.client)
        for number, causes in (
            (signal.SIGSTOP, ["TARGET_SILENT"]),
            (signal.SIGTERM, ["DRAINING", "TARGET_LOST"]),
            (signal.SIGKILL, ["TARGET_LOST"]),
        ):
            hurt: list[ServiceProcess] = []

            async def hurt_one(number=number, hurt=hurt) -> None:
                hurt.append(await busiest(cluster, targets))
                hurt[0].send(number)

            before = num_moved(cluster, *causes)
            answers = await ask_all(cluster.client, hurt_one)
            assert num_moved(cluster, *causes) > before
            for answer, expected in zip(answers, undisturbed, strict=True):
                assert answer.token_ids == expected.token_ids
                assert answer.text == expected.text
                assert answer.finished.reason is expected.finished.reason
                assert answer.finished.statistics.emitted_tokens == len(expected.token_ids)
            if number is signal.SIGSTOP:
                hurt[0].send(signal.SIGCONT)
            else:
                targets.remove(hurt[0])
