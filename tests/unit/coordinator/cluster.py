"""A coordinator in this process behind its real gRPC door, for tests."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.unit.coordinator.support import FakeTarget, a_target, serving
from tests.waiting import PATIENCE_SECONDS, patience

from treedraft.coordinator.__main__ import running
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import Delta, GenerateQuery
from treedraft.core.sampling import SamplingParameters
from treedraft.core.worker import WorkerRegistration, WorkerReport
from treedraft.rpc.announcer import Announcer
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

HELLO = GenerateQuery(text="hello", sampling=SamplingParameters(seed=3))


class Cluster:
    """A coordinator, and the means to add workers and clients to it."""

    def __init__(self, stack: AsyncExitStack, spans: InMemorySpanExporter, tracing: Tracing):
        self.stack = stack
        self.spans = spans
        self.tracing = tracing
        self.endpoint = self.address = ""
        self.num_targets: Counter[str] = Counter()
        self.client: CoordinatorClient

    async def start(self, settings: CoordinatorSettings) -> None:
        self.metrics = Metrics("coordinator")
        self._service = AsyncExitStack()
        self.stack.push_async_callback(self.stop)
        addresses = await self._service.enter_async_context(
            running(settings, self.tracing, self.metrics)
        )
        self.endpoint, self.address = addresses.grpc, addresses.http
        self.client = CoordinatorClient(self.endpoint)
        self.stack.push_async_callback(self.client.close)

    async def stop(self) -> None:
        """Stop the coordinator; its clients and workers stay."""
        await self._service.aclose()

    async def announce(self, worker: WorkerRegistration, report: WorkerReport | None = None):
        """Announce a worker until the test ends; return its task."""
        kept = report or WorkerReport(free_kv_blocks=64, total_kv_blocks=64)
        announcer = Announcer(self.endpoint, worker, lambda: kept, 0.05)
        task = asyncio.create_task(announcer.run())
        self.stack.push_async_callback(finish_task, task)
        await self.until_known(worker.worker_id)
        return task

    async def until_known(self, worker_id: str, *, is_known: bool = True) -> None:
        async with patience():
            while is_known != (worker_id in await self.worker_ids()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def worker_ids(self) -> list[str]:
        cluster = await self.client.describe_cluster()
        return [registration.worker_id for registration, _ in cluster.workers]

    def counted(self, metric: str) -> float:
        """Return what the coordinator has counted under a name, over all labels."""
        families = self.metrics.registry.collect()
        samples = [sample for family in families for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name == metric)

    def num_spans(self) -> int:
        """Return how many spans have ended."""
        self.tracing.flush()
        return len(self.spans.get_finished_spans())

    async def add_target(self, target: FakeTarget, worker_id="t1", report=None, **registration):
        endpoint = await self.stack.enter_async_context(serving(target))
        worker = a_target(worker_id, endpoint=endpoint, **registration)
        task = await self.announce(worker, report)
        self.num_targets[worker.model] += 1
        await self.until_serves(worker.model, self.num_targets[worker.model])
        return task

    async def until_serves(self, model: str, num_targets: int = 1) -> None:
        """Wait until that many targets of a model have said what they serve."""
        async with patience():
            while num_targets > await self._count_targets(model):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def _count_targets(self, model: str) -> int:
        models = await self.client.list_models()
        return sum(item.num_targets for item in models if item.model == model)


async def finish_task(task: asyncio.Task) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def a_cluster(**settings: object) -> AsyncIterator[Cluster]:
    """Run a coordinator under some settings; of a group, those that are not named stay."""
    spans = InMemorySpanExporter()
    tracing = Tracing("coordinator", TelemetrySettings(sample_ratio=1.0), exporter=spans)
    chosen: dict[str, Any] = {
        "coordinator_id": "c1",
        "drain_seconds": 0.0,
        "disconnect_grace_seconds": 0.0,
        "grpc": {"grace_seconds": 0.5},
        "store": {"refresh_seconds": 0.05, "log_interval_seconds": 0.0},
        # A scripted target gives no sign of life: however slow the machine, it is no frozen one.
        "failover": {"silence_seconds": PATIENCE_SECONDS},
    }
    for name, value in settings.items():
        group = chosen.get(name)
        chosen[name] = {**group, **value} if isinstance(group, dict) else value
    async with AsyncExitStack() as stack:
        stack.callback(tracing.shutdown)
        cluster = Cluster(stack, spans, tracing)
        await cluster.start(CoordinatorSettings(**chosen))
        yield cluster


async def ask(client: CoordinatorClient, query: GenerateQuery, **options) -> list:
    return [event async for event in client.generate(query, **options)]


async def failure_of(client: CoordinatorClient, query: GenerateQuery, **options) -> TreedraftError:
    with pytest.raises(TreedraftError) as caught:
        await ask(client, query, **options)
    return caught.value


def text_of(events: list) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def tokens_of(events: list) -> list[int]:
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]
