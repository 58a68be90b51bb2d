"""A coordinator: the real servicer and all that its own `build` puts together.

Store and targets are reached over the simulated network, and what it draws at
random comes from the seed.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from tests.simulation.language import describe
from tests.simulation.network import Method, Network, spawn
from tests.simulation.process import HEARTBEAT_SECONDS, Process, Surroundings
from tests.simulation.store import StoreClient

from treedraft.coordinator import __main__ as coordinator_main
from treedraft.coordinator.api_keys import TenantRoll
from treedraft.coordinator.service import CoordinatorServicer
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.coordinator.use_cases import UseCases
from treedraft.core.exchange import CoordinatorFrame
from treedraft.core.model_description import ModelDescription
from treedraft.rpc import convert
from treedraft.rpc.target_client import SessionStream
from treedraft.v1 import coordinator_service_pb2 as pb


class CoordinatorProcess(Process):
    """A coordinator."""

    def __init__(self, name: str, around: Surroundings, settings: CoordinatorSettings) -> None:
        super().__init__(name, around)
        with self._outer_world():
            self.coordinator, self.registry = coordinator_main.build(
                settings.model_copy(update={"coordinator_id": f"{name}-{self.incarnation}"}),
                around.tracing,
                around.metrics_of("coordinator"),
            )
        self.coordinator._clock = around.loop.time
        self.coordinator._links._dial = self._dial
        self.registry._catalog._describe = self._describe
        servicer = CoordinatorServicer(
            UseCases(self.coordinator, self.registry, TenantRoll("", "")),
            self.registry,
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        around.network.serve(
            name,
            self.actor,
            {
                "Generate": Method(pb.GenerateRequest, pb.GenerateResponse, servicer.Generate),
                "Resume": Method(pb.ResumeRequest, pb.ResumeResponse, servicer.Resume),
                "Cancel": Method(pb.CancelRequest, pb.CancelResponse, _as_stream(servicer.Cancel)),
                "AnnounceWorker": Method(
                    pb.AnnounceWorkerRequest,
                    pb.AnnounceWorkerResponse,
                    servicer.AnnounceWorker,
                    is_request_stream=True,
                ),
            },
        )
        spawn(around.loop, self.actor, self.coordinator.run())

    @contextlib.contextmanager
    def _outer_world(self) -> Iterator[None]:
        original = coordinator_main.make_stores

        def make_stores(settings: CoordinatorSettings) -> tuple[Any, ...]:
            _, *others = original(settings)
            return StoreClient(self.around.store), *others

        with mock.patch.object(coordinator_main, "make_stores", make_stores):
            yield

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
