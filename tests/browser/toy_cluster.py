"""A coordinator, a target and a drafter in this process, on toy models.

Coordinator and target are the real ones and talk over real gRPC; the drafter is
the draft service's own engine, called in lockstep: its nodes are there before
the next pass however busy the machine is, so every text has accepted tokens.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import torch
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.engine_harness import load_toy
from tests.real_drafters import RealDrafter
from tests.unit.coordinator.cluster import Cluster
from tests.unit.coordinator.support import a_drafter

from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.core.exchange import TargetFrame
from treedraft.core.worker import DrafterAddress, WorkerRegistration, WorkerRole
from treedraft.draft.settings import DraftSettings, GrowthSettings
from treedraft.inference.models import load_model
from treedraft.inference.toy import make_toy_model
from treedraft.rpc.process import announcing
from treedraft.rpc.server import RpcServer
from treedraft.settings import GrpcSettings, TelemetrySettings, WorkerSettings
from treedraft.target.assembly import assemble
from treedraft.target.events import EngineNews, FrameArrived, LinkUp, Stop
from treedraft.target.service import SERVICE_NAME, TargetBackend, TargetServicer
from treedraft.target.settings import (
    BudgetSettings,
    GateSettings,
    KVSettings,
    PatienceSettings,
    TargetSettings,
)
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

_DRAFTER = "lockstep:1"
_TARGET_SETTINGS = TargetSettings(
    kv=KVSettings(tokens=8192, block_size=8),
    budget=BudgetSettings(mode="fixed", max_nodes=12, max_depth=6),
    patience=PatienceSettings(enabled=False),
    gate=GateSettings(enabled=False),
)
_DRAFT_SETTINGS = DraftSettings(
    model="toy", kv_tokens=8192, growth=GrowthSettings(num_children=3, max_depth=6)
)


class NoLinks:
    """Stands where links to drafters would be dialled: the one there is, is in the process."""

    def acquire(self, drafters: Iterable[DrafterAddress]) -> None:
        """Dial nobody."""

    def release(self, drafters: Iterable[DrafterAddress]) -> None:
        """Hang up on nobody."""

    def send(self, frames: Mapping[str, TargetFrame]) -> None:
        """Say nothing; the drafter was told on the engine's thread."""

    def refuse(self, endpoint: str, reason: str) -> None:
        """Fail: the drafter is a good one."""
        raise AssertionError(f"{endpoint} was refused: {reason}")


@asynccontextmanager
async def toy_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Run the cluster for the time of the context; spans go to a store in the folder."""
    telemetry = TelemetrySettings(store_path=str(folder / "spans.sqlite"), sample_ratio=1.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    async with AsyncExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        tracings = [Tracing(role, telemetry) for role in ("coordinator", "target")]
        for tracing in tracings:
            stack.callback(tracing.shutdown)
        cluster = Cluster(stack, InMemorySpanExporter(), tracings[0])
        await cluster.start(CoordinatorSettings(telemetry=telemetry, drain_seconds=0.0))
        await _add_target(cluster, folder, tracings[1])
        await cluster.announce(a_drafter("drafter", endpoint=_DRAFTER, tokenizer_hash=""))
        yield cluster


async def _add_target(cluster: Cluster, folder: Path, tracing: Tracing) -> None:
    target = make_toy_model(folder / "toy", seed=3)
    drafting = make_toy_model(folder / "drafter", noise_of=target, noise=0.1, seed=4)
    model, loop, metrics = load_toy(target), asyncio.get_running_loop(), Metrics("target")
    drafter = RealDrafter(_DRAFT_SETTINGS, load_model(drafting), vocab_size=model.vocab_size)
    servicer = TargetServicer()

    def publish(news: EngineNews) -> None:
        for endpoint, frame in news.frames.items():
            for answer in drafter(frame):
                engine.post(FrameArrived(endpoint, answer, time.monotonic_ns()))
        loop.call_soon_threadsafe(servicer.pass_on, news)

    parts = assemble(model, _TARGET_SETTINGS, tracing=tracing, metrics=metrics, publish=publish)
    engine = parts.engine
    servicer.attach(TargetBackend(parts.description, engine, NoLinks()))
    server = RpcServer(GrpcSettings(grace_seconds=0.5), [SERVICE_NAME])
    servicer.add_to(server.grpc)
    endpoint = await server.start()
    engine.start()
    engine.post(LinkUp(_DRAFTER))

    async def stop() -> None:
        servicer.end_streams()
        await server.stop()
        engine.post(Stop(drain=False))
        assert await asyncio.to_thread(engine.join, 30.0)

    cluster.stack.push_async_callback(stop)
    registration = WorkerRegistration(
        worker_id="target",
        incarnation="first",
        role=WorkerRole.TARGET,
        endpoint=endpoint,
        model=parts.description.model,
        fingerprint=parts.description.fingerprint,
        tokenizer_hash=parts.description.tokenizer_hash,
        max_sessions=8,
    )
    worker = WorkerSettings(coordinators=(cluster.endpoint,), report_interval_seconds=0.1)
    await cluster.stack.enter_async_context(
        announcing(worker, registration, lambda: engine.report, metrics)
    )
    await cluster.until_serves(registration.model)
