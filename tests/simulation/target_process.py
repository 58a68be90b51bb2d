"""A target: the real servicer and all that its own assembly puts together.

What the assembly takes from the model's world (KV, runner, description, the passes
that warm up) is replaced while it runs.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.simulation.language import (
    CONTEXT_LENGTH,
    VOCAB_SIZE,
    SlotMemory,
    ToyRunner,
    describe,
)
from tests.simulation.network import Method
from tests.simulation.process import HEARTBEAT_SECONDS, Process, Surroundings

from treedraft.core.exchange import Hello
from treedraft.core.worker import WorkerRegistration, WorkerRole
from treedraft.rpc.draft_client import TreeExchange, _shake_hands
from treedraft.target import assembly
from treedraft.target.draft_links import DraftLinks
from treedraft.target.events import EngineNews, Stop
from treedraft.target.service import TargetBackend, TargetServicer
from treedraft.target.settings import TargetSettings
from treedraft.target.step_costs import StepCosts
from treedraft.v1 import target_service_pb2 as target_pb

_MODEL = SimpleNamespace(
    draft_token_ids=None,
    num_layers=1,
    num_kv_heads=1,
    head_dim=1,
    dtype=None,
    device=None,
    context_length=CONTEXT_LENGTH,
    name="toy",
)


class TargetProcess(Process):
    """A target."""

    def __init__(self, name: str, around: Surroundings, settings: TargetSettings) -> None:
        super().__init__(name, around)
        self.settings = settings
        self.is_draining = False
        with self._model_world():
            parts = assembly.assemble(
                _MODEL,
                settings,
                tracing=around.tracing,
                metrics=around.metrics_of("target"),
                publish=self._publish,
            )
        self.engine, self.pool, self.description = parts.engine, parts.pool, parts.description
        self.roster, self.scheduler = self.engine._roster, self.engine._scheduler
        self.book = self.engine._book
        self.engine._patience._clock_ns = around.loop.time_ns
        self.roster._factory._now_ns = around.loop.time_ns
        self._link()
        self._serve()

    def drain(self) -> None:
        """What SIGTERM begins."""
        self.is_draining = True
        self.engine.post(Stop(drain=True))

    @contextlib.contextmanager
    def _model_world(self) -> Iterator[None]:
        def run_on(model: Any, memory: SlotMemory) -> ToyRunner:
            return ToyRunner(memory, spend=self.spend, on_bug=self.around.on_bug)

        def price(runner: ToyRunner, costs: StepCosts, *, max_rows: int) -> None:
            base, each = self.pass_seconds
            for num_rows in (1, 2, 4, 8, 16, 32, 64):
                costs.observe(num_rows, (base + num_rows * each) * 1000)

        with mock.patch.multiple(
            assembly,
            KVPool=lambda layers, num_slots, *_, **__: SlotMemory(num_slots),
            Runner=run_on,
            warm_up=price,
            describe=lambda model, **limits: describe(**limits),
        ):
            yield

    def _link(self) -> None:
        description = self.description
        self.links = DraftLinks(
            Hello(self.name, self.incarnation, description.tokenizer_hash, VOCAB_SIZE, "toy"),
            self.settings.drafting,
            post=lambda event: self.engine.post(event),
            metrics=self.around.metrics_of("target"),
            max_message_mb=4,
            dial=self._dial_drafter,
            rng=self.around.rng,
        )

    def _serve(self) -> None:
        self.servicer = TargetServicer(heartbeat_seconds=HEARTBEAT_SECONDS)
        self.servicer.attach(TargetBackend(self.description, self.engine, self.links))
        run_sessions = Method(
            target_pb.RunSessionsRequest,
            target_pb.RunSessionsResponse,
            self.servicer.RunSessions,
            is_request_stream=True,
        )
        self.around.network.serve(self.name, self.actor, {"RunSessions": run_sessions})
        self.run_thread(self.engine, self.engine._run).start()
        self.engine._on_end = self._ended
        registration = WorkerRegistration(
            worker_id=self.name,
            incarnation=self.incarnation,
            role=WorkerRole.TARGET,
            endpoint=self.name,
            model=self.description.model,
            fingerprint=self.description.fingerprint,
            tokenizer_hash=self.description.tokenizer_hash,
            max_sessions=8,
        )
        self.announce(
            registration, lambda: replace(self.engine.report, is_draining=self.is_draining)
        )

    def _ended(self) -> None:
        if self.actor.is_alive and not self.is_draining:
            self.around.on_bug(f"the engine of {self.name} broke down")

    def _publish(self, news: EngineNews) -> None:
        self.around.loop.call_soon(self.servicer.pass_on, news)

    async def _dial_drafter(self, endpoint: str, hello: Hello, **_: object) -> TreeExchange:
        call = await self.around.network.dial(endpoint, "ExchangeTrees")
        try:
            async with asyncio.timeout(2.0):
                peer = await _shake_hands(call, hello, endpoint)
        except BaseException:
            call.close()
            raise
        return _SimulatedExchange(_NoChannel(), call, peer)


class _SimulatedExchange(TreeExchange):
    """An exchange over the simulated network, which has no health to ask."""

    async def round_trip_ms(self) -> float:
        """Tell nothing of the way."""
        return 0.0


class _NoChannel:
    """A stream's channel; here a stream needs none."""

    async def close(self) -> None:
        """Nothing is open."""
