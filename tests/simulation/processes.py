"""The processes: the real services but for gRPC's transport, the weights and the clock.

A target is the real servicer, engine, roster, scheduler, draft book and draft
links, a drafter the real servicer, drafter and session book with the real grower or
lookup alone, a coordinator the real servicer, use-cases, relay, log, registry,
failover and links.
"""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.simulation.actor import Actor
from tests.simulation.language import VOCAB_SIZE, SlotMemory, ToyRunner, describe
from tests.simulation.network import Method, Network, spawn
from tests.simulation.store import StoreClient, StoreServer
from tests.simulation.virtual_time import VirtualInbox, VirtualLoop, VirtualThread

from treedraft.coordinator.accounts import Accounts
from treedraft.coordinator.api_keys import TenantRoll
from treedraft.coordinator.catalog import ModelCatalog
from treedraft.coordinator.generation import Coordinator
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.service import CoordinatorServicer
from treedraft.coordinator.session_store.tenant_ledger import EmbeddedTenantLedger
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.coordinator.target_links import TargetLinks
from treedraft.coordinator.use_cases import UseCases
from treedraft.core.errors import TreedraftError
from treedraft.core.exchange import CoordinatorFrame, Hello
from treedraft.core.model_description import ModelDescription
from treedraft.core.worker import WorkerRegistration, WorkerReport, WorkerRole
from treedraft.draft.drafter import Drafter
from treedraft.draft.model_grower import DraftLimits, ModelGrower
from treedraft.draft.service import DraftServicer
from treedraft.draft.settings import DraftSettings
from treedraft.inference.block_pool import BlockPool, SlotPool
from treedraft.rpc import convert
from treedraft.rpc.draft_client import TreeExchange, _shake_hands
from treedraft.rpc.target_client import SessionStream
from treedraft.settings import TelemetrySettings
from treedraft.target.admission import SessionFactory
from treedraft.target.assembly import _report
from treedraft.target.budget import Budget, SurvivalCalibrator
from treedraft.target.draft_links import DraftLinks
from treedraft.target.drafting import DraftBook
from treedraft.target.engine import Engine
from treedraft.target.events import EngineNews, Stop
from treedraft.target.patience import Patience
from treedraft.target.round_trace import RoundTrace
from treedraft.target.scheduler import Scheduler, SchedulerLimits
from treedraft.target.service import TargetBackend, TargetServicer
from treedraft.target.session_roster import SessionRoster
from treedraft.target.settings import TargetSettings
from treedraft.target.step import PassRunner
from treedraft.target.step_costs import StepCosts
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing
from treedraft.v1 import coordinator_service_pb2 as coordinator_pb
from treedraft.v1 import draft_service_pb2 as draft_pb
from treedraft.v1 import target_service_pb2 as target_pb

HEARTBEAT_SECONDS = 0.3
ANNOUNCE_SECONDS = 0.3
# A pass: slow, so that faults fall into sessions and not between them.
_TARGET_PASS = 0.035, 0.002  # seconds, and for each row
_DRAFT_PASS = 0.008, 0.0005


@dataclass
class Surroundings:
    """What every process of a run is given."""

    loop: VirtualLoop
    rng: random.Random
    network: Network
    on_bug: Callable[[str], None]
    store: StoreServer
    coordinators: list[str]
    incarnations: Any = field(default_factory=lambda: itertools.count(1))
    # Metrics and spans are of no interest here and costly to make.
    metrics: dict[str, Metrics] = field(default_factory=dict)
    tracing: Tracing = field(
        default_factory=lambda: Tracing("simulation", TelemetrySettings(sample_ratio=0.0))
    )

    def metrics_of(self, role: str) -> Metrics:
        if role not in self.metrics:
            self.metrics[role] = Metrics(role)
        return self.metrics[role]


class Process:
    """One start of one process."""

    pass_seconds = _TARGET_PASS

    def __init__(self, name: str, around: Surroundings) -> None:
        self.around = around
        self.actor = Actor(name)
        self.name = name
        self.incarnation = f"i{next(around.incarnations)}"
        self.endpoint = name
        self._threads: list[VirtualThread] = []
        self.actor.at_death(lambda: [thread.kill() for thread in self._threads])

    def run_thread(self, owner: Any, run: Callable[[], None]) -> VirtualThread:
        """Run the loop of an engine in virtual time; its inbox becomes a virtual one."""
        inbox = VirtualInbox(self.around.loop)
        thread = VirtualThread(self.around.loop, run, self.name)
        owner._inbox, inbox.thread = inbox, thread
        self._threads.append(thread)
        return thread

    def spend(self, num_rows: int) -> None:
        """Let the time of a pass go by; on the engine's thread, or before it runs."""
        base, each = self.pass_seconds
        self._threads[0].sleep(self.around.rng.uniform(0.5, 1.5) * (base + num_rows * each))

    def announce(
        self, registration: WorkerRegistration, report: Callable[[], WorkerReport]
    ) -> None:
        for endpoint in self.around.coordinators:
            loop = self.around.loop
            spawn(loop, self.actor, self._announce(endpoint, registration, report))

    async def _announce(
        self, endpoint: str, registration: WorkerRegistration, report: Callable[[], WorkerReport]
    ) -> None:
        while True:
            try:
                call = await self.around.network.dial(endpoint, "AnnounceWorker")
                await self._report_on(call, registration, report)
            except TreedraftError:
                pass
            await asyncio.sleep(self.around.rng.uniform(0.05, 0.2))

    @staticmethod
    async def _report_on(call: Any, registration: Any, report: Callable[[], WorkerReport]) -> None:
        said, sent = registration, frozenset()
        try:
            while True:
                now = report()
                held = frozenset(now.added_prefixes)
                delta = replace(
                    now,
                    added_prefixes=tuple(sorted(held - sent)),
                    removed_prefixes=tuple(sorted(sent - held)),
                )
                await call.write(convert.announcement_to_proto(said, delta))
                said, sent = None, held
                if await call.read() is None:
                    return
                await asyncio.sleep(ANNOUNCE_SECONDS)
        finally:
            call.close()


class TargetProcess(Process):
    """A target."""

    def __init__(self, name: str, around: Surroundings, settings: TargetSettings) -> None:
        super().__init__(name, around)
        self.settings = settings
        self.is_draining = False
        size = settings.kv.block_size
        self.pool = BlockPool(settings.kv.tokens // size, size)
        self.description = describe(block_size=size)
        self._build()
        network = around.network
        self._servicer = TargetServicer(heartbeat_seconds=HEARTBEAT_SECONDS)
        self._servicer.attach(TargetBackend(self.description, self.engine, self.links))
        run_sessions = Method(
            target_pb.RunSessionsRequest,
            target_pb.RunSessionsResponse,
            self._servicer.RunSessions,
            is_request_stream=True,
        )
        network.serve(name, self.actor, {"RunSessions": run_sessions})
        self.run_thread(self.engine, self.engine._run).start()
        self.engine._on_end = self._ended
        registration = WorkerRegistration(
            worker_id=name,
            incarnation=self.incarnation,
            role=WorkerRole.TARGET,
            endpoint=name,
            model=self.description.model,
            fingerprint=self.description.fingerprint,
            tokenizer_hash=self.description.tokenizer_hash,
            max_sessions=8,
        )
        self.announce(
            registration, lambda: replace(self.engine.report, is_draining=self.is_draining)
        )

    def drain(self) -> None:
        """What SIGTERM begins."""
        self.is_draining = True
        self.engine.post(Stop(drain=True))

    def _ended(self) -> None:
        if self.actor.is_alive and not self.is_draining:
            self.around.on_bug(f"the engine of {self.name} broke down")

    def _build(self) -> None:
        around, settings, pool = self.around, self.settings, self.pool
        metrics = around.metrics_of("target")
        memory = SlotMemory(pool.num_blocks * pool.block_size)
        costs, calibrator = StepCosts(), SurvivalCalibrator()
        for num_rows in (1, 2, 4, 8, 16, 32, 64):
            base, each = self.pass_seconds
            costs.observe(num_rows, (base + num_rows * each) * 1000)
        self.scheduler = Scheduler(
            pool,
            Budget(costs, calibrator, max_step_nodes=64, is_fixed=settings.budget.mode == "fixed"),
            SchedulerLimits(
                max_sessions=settings.max_sessions,
                max_waiting=settings.max_waiting,
                prefill_chunk=settings.prefill_chunk,
                max_nodes=settings.budget.max_nodes,
                max_depth=settings.budget.max_depth,
                max_unlogged_tokens=settings.max_unlogged_tokens,
            ),
            fingerprint=self.description.fingerprint,
            on_preempted=metrics.session_preempted,
        )
        self.book = DraftBook(settings.drafting, vocab_size=VOCAB_SIZE, metrics=metrics)
        clock_ns = self._clock_ns
        factory = SessionFactory(
            self.description,
            max_session_tokens=min(self.description.context_length, memory.num_slots),
            max_live_nodes=settings.drafting.max_live_nodes,
            tracing=around.tracing,
            now_ns=clock_ns,
        )
        runner = ToyRunner(memory, spend=self.spend, on_bug=around.on_bug)
        self.roster = SessionRoster(factory, self.scheduler, self.book, metrics)
        self.engine = Engine(
            roster=self.roster,
            scheduler=self.scheduler,
            runner=PassRunner(
                runner=runner,
                kv=memory,
                block_size=pool.block_size,
                scheduler=self.scheduler,
                book=self.book,
                costs=costs,
                calibrator=calibrator,
                trace=RoundTrace(around.tracing, metrics),
            ),
            book=self.book,
            patience=Patience(
                settings.patience,
                costs,
                calibrator,
                max_nodes=settings.budget.max_nodes,
                max_depth=settings.budget.max_depth,
                clock_ns=clock_ns,
            ),
            metrics=metrics,
            publish=self._publish,
            report=lambda scheduler: _report(scheduler, pool),
        )
        self.links = DraftLinks(
            Hello(self.name, self.incarnation, self.description.tokenizer_hash, VOCAB_SIZE, "toy"),
            settings.drafting,
            post=lambda event: self.engine.post(event),
            metrics=metrics,
            max_message_mb=4,
            dial=self._dial_drafter,
            rng=around.rng,
        )

    def _clock_ns(self) -> int:
        return int(self.around.loop.time() * 1e9)

    def _publish(self, news: EngineNews) -> None:
        self.around.loop.call_soon(self._servicer.pass_on, news)

    async def _dial_drafter(self, endpoint: str, hello: Hello, **_: object) -> TreeExchange:
        call = await self.around.network.dial(endpoint, "ExchangeTrees")
        try:
            async with asyncio.timeout(2.0):
                peer = await _shake_hands(call, hello, endpoint)
        except BaseException:
            call.close()
            raise
        return TreeExchange(_NoChannel(), call, peer)


class DrafterProcess(Process):
    """A drafter, with a model of some moodiness or with lookup alone."""

    pass_seconds = _DRAFT_PASS

    def __init__(
        self, name: str, around: Surroundings, settings: DraftSettings, moodiness: int | None
    ) -> None:
        super().__init__(name, around)
        self.pool = SlotPool(settings.kv_tokens)
        grower = None if moodiness is None else self._grower(settings, moodiness)
        self.drafter = Drafter(
            settings,
            grower,
            tracing=around.tracing,
            metrics=around.metrics_of("draft"),
            clock_ns=lambda: int(around.loop.time() * 1e9),
        )
        servicer = DraftServicer()
        description = describe()
        servicer.attach(
            Hello(name, self.incarnation, description.tokenizer_hash, VOCAB_SIZE, "toy-draft"),
            self.drafter,
        )
        exchange = Method(
            draft_pb.ExchangeTreesRequest,
            draft_pb.ExchangeTreesResponse,
            servicer.ExchangeTrees,
            is_request_stream=True,
        )
        around.network.serve(name, self.actor, {"ExchangeTrees": exchange})
        self.run_thread(self.drafter, self.drafter._run).start()
        self.drafter._on_end = self._ended
        registration = WorkerRegistration(
            name,
            self.incarnation,
            WorkerRole.DRAFT,
            name,
            description.model,
            tokenizer_hash=description.tokenizer_hash,
            max_sessions=settings.max_sessions,
        )
        self.announce(registration, lambda: self.drafter.report)

    def _ended(self) -> None:
        if self.actor.is_alive:
            self.around.on_bug(f"the drafter {self.name} broke down")

    def _grower(self, settings: DraftSettings, moodiness: int) -> ModelGrower:
        runner = ToyRunner(
            SlotMemory(settings.kv_tokens),
            spend=self.spend,
            on_bug=self.around.on_bug,
            moodiness=moodiness,
        )
        limits = DraftLimits(VOCAB_SIZE, VOCAB_SIZE, describe().context_length, frozenset({256}))
        return ModelGrower(runner, self.pool, limits, settings.growth)


class CoordinatorProcess(Process):
    """A coordinator."""

    def __init__(self, name: str, around: Surroundings, settings: CoordinatorSettings) -> None:
        super().__init__(name, around)
        loop, kept = around.loop, settings.store
        store = StoreClient(around.store)
        self.registry = WorkerRegistry(
            store,
            ModelCatalog(self._describe),
            ttl_seconds=kept.worker_ttl_seconds,
            clock=loop.time,
        )
        coordinator_id = f"{name}-{self.incarnation}"
        self.coordinator = Coordinator(
            settings,
            coordinator_id=coordinator_id,
            store=store,
            registry=self.registry,
            links=TargetLinks(
                self._dial, coordinator_id, silence_seconds=settings.failover.silence_seconds
            ),
            tracing=around.tracing,
            metrics=around.metrics_of("coordinator"),
            accounts=Accounts(
                EmbeddedTenantLedger(lease_seconds=kept.lease_seconds, clock=loop.time)
            ),
            clock=loop.time,
            draw_seed=lambda: around.rng.getrandbits(64),
            new_session_id=lambda: f"session-{name}-{around.rng.getrandbits(48):012x}",
        )
        servicer = CoordinatorServicer(
            UseCases(self.coordinator, self.registry, TenantRoll("", "")),
            self.registry,
        )
        pb = coordinator_pb
        around.network.serve(
            name,
            self.actor,
            {
                "Generate": Method(pb.GenerateRequest, pb.GenerateResponse, servicer.Generate),
                "Cancel": Method(pb.CancelRequest, pb.CancelResponse, _as_stream(servicer.Cancel)),
                "Resume": Method(pb.ResumeRequest, pb.ResumeResponse, servicer.Resume),
                "AnnounceWorker": Method(
                    pb.AnnounceWorkerRequest,
                    pb.AnnounceWorkerResponse,
                    servicer.AnnounceWorker,
                    is_request_stream=True,
                ),
            },
        )
        spawn(loop, self.actor, self.coordinator.run())

    async def _describe(self, endpoint: str) -> ModelDescription:
        await asyncio.sleep(self.around.network.latency.draw())
        return describe(block_size=4)

    def _dial(self, endpoint: str) -> "_TargetConnection":
        return _TargetConnection(self.around.network, endpoint)


class _TargetConnection:
    """What `rpc.target_client.TargetClient` is, over the simulated network."""

    def __init__(self, network: Network, endpoint: str) -> None:
        self._network = network
        self._endpoint = endpoint

    async def run_sessions(self, coordinator_id: str) -> SessionStream:
        call = await self._network.dial(self._endpoint, "RunSessions")
        hello = CoordinatorFrame(coordinator_id=coordinator_id)
        await call.write(convert.coordinator_frame_to_proto(hello))
        return SessionStream(call)

    async def close(self) -> None:
        """Streams are closed by whoever holds them."""


def _as_stream(handle: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def respond(request: Any, context: Any) -> Any:
        yield await handle(request, context)

    return respond


class _NoChannel:
    """A stream's channel; here a stream needs none."""

    async def close(self) -> None:
        """Nothing is open."""
