"""Real targets that are frozen, told to stop and killed while they write: no text changes."""

import asyncio
import signal
from contextlib import aclosing
from dataclasses import dataclass, field

from treedraft.core.generation import Delta, Finished, GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan, worker_id
from treedraft.rpc.coordinator_client import CoordinatorClient

LENGTH = 240
SETTINGS = {
    "TREEDRAFT_COORDINATOR__FAILOVER__SILENCE_SECONDS": "2",
    "TREEDRAFT_COORDINATOR__FAILOVER__MAX_AT_ONCE": "2",
    "TREEDRAFT_TARGET__HEARTBEAT_SECONDS": "0.2",
    "TREEDRAFT_TARGET__WORKER__REPORT_INTERVAL_SECONDS": "0.2",
    "TREEDRAFT_TARGET__DRAIN_SECONDS": "0",
}
GREEDY = SamplingParameters(temperature=0.0, seed=1)
LAWS = (
    GREEDY,
    SamplingParameters(temperature=1.0, seed=2),
    SamplingParameters(temperature=0.0, seed=3, repetition_penalty=1.3, frequency_penalty=0.5),
    SamplingParameters(temperature=1.0, seed=4, top_p=0.9, presence_penalty=0.7),
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
    """What came of one query; `is_midway` is set once it is well under way."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finished: Finished | None = None
    is_midway: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, client: CoordinatorClient, query: GenerateQuery) -> None:
        async with aclosing(client.generate(query)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    assert event.base_length == len(self.token_ids)
                    self.token_ids.extend(event.token_ids)
                    self.text += event.text
                elif isinstance(event, Finished):
                    self.finished = event
                if len(self.token_ids) >= LENGTH // 6:
                    self.is_midway.set()


class World:
    """A cluster, a client of it, and what its targets say undisturbed."""

    def __init__(self, cluster: LocalCluster, client: CoordinatorClient):
        self.cluster = cluster
        self.client = client

    async def ask(self, *, hurt: str = "", number: signal.Signals | None = None) -> list[Answer]:
        """Ask everything at once; when all answers are under way, signal a target that writes."""
        answers = [Answer() for _ in QUERIES]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            pairs = zip(answers, QUERIES, strict=True)
            reading = [group.create_task(one.read(self.client, query)) for one, query in pairs]
            if number is not None:
                await self.until_busy(hurt)
                await asyncio.gather(*(answer.is_midway.wait() for answer in answers))
                self.cluster.processes[hurt].send(number)
                assert not any(task.done() for task in reading)
        return answers

    async def until_busy(self, name: str) -> None:
        while not await self.load_of(name):  # noqa: ASYNC110 - seen through reports
            await asyncio.sleep(0.02)

    async def until_ready(self, num_targets: int) -> None:
        """Wait until that many targets are there and none has a session."""
        async with asyncio.timeout(30):
            while True:
                models = await self.client.list_models()
                if sum(model.num_targets for model in models) == num_targets:
                    return
                await asyncio.sleep(0.05)

    async def load_of(self, name: str) -> int:
        wanted = worker_id(name, self.cluster.log_folder)
        workers = (await self.client.describe_cluster()).workers
        return sum(report.num_sessions for known, report in workers if known.worker_id == wanted)


async def test_texts_survive_targets_that_freeze_that_stop_and_that_die(tmp_path):
    folder = make_toy_model(tmp_path / "toy", layers=2, hidden=64)
    plan = ClusterPlan(target=str(folder), num_targets=3, num_drafters=1, settings=SETTINGS)
    async with LocalCluster(plan, start_seconds=120) as cluster:
        client = CoordinatorClient(cluster.endpoint)
        world = World(cluster, client)
        import time

        t = time.time()
        undisturbed = await world.ask()
        print("undisturbed", time.time() - t)
        for hurt, number, num_left in (
            ("target-0", signal.SIGSTOP, 3),
            ("target-1", signal.SIGTERM, 2),
            ("target-2", signal.SIGKILL, 1),
        ):
            t = time.time()
            answers = await world.ask(hurt=hurt, number=number)
            print(hurt, time.time() - t)
            for answer, expected in zip(answers, undisturbed, strict=True):
                assert answer.token_ids == expected.token_ids
                assert answer.text == expected.text
                assert answer.finished.reason is expected.finished.reason
                assert answer.finished.statistics.emitted_tokens == len(expected.token_ids)
            if number is signal.SIGSTOP:
                cluster.processes[hurt].send(signal.SIGCONT)
            await world.until_ready(num_left)
        await client.close()
