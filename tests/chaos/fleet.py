"""All services as real processes, every link between them through a proxy of ours.

            ┌─▶ coordinator-i ─▶ target-j ─▶ draft-k      each arrow one proxy, by
    clients ┘         └─▶ redis                           whom it leads to
    workers ──▶ coordinator-i (announcements)

A process that is started again keeps its name, its port and its proxy.
"""

import asyncio
import os
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.chaos.faults import COORDINATOR, DRAFT, REDIS, TARGET, Subject
from tests.chaos.proxy import Proxy
from tests.unit.coordinator.redis_server import find_redis_server

from treedraft.core.errors import TreedraftError
from treedraft.local_cluster.plan import ServicePlan
from treedraft.local_cluster.service_process import ServiceProcess
from treedraft.rpc.channel import open_channel
from treedraft.rpc.coordinator_client import CoordinatorClient

# On a machine where the native decoder is compiled first, and others want its cores.
_LOAD_SECONDS = 240.0

_COMMON = {
    "OMP_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "0",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """How many of each role, on which models."""

    target_model: str
    draft_model: str
    num_coordinators: int = 2
    num_targets: int = 3
    num_drafters: int = 2
    # What the targets are called, with a number behind it.
    target_pool: str = TARGET
    settings: dict[str, str] = field(default_factory=dict)


class RedisProcess:
    """A redis-server that keeps nothing on disk: what starts anew is empty."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        program = find_redis_server()
        assert program is not None, "no redis-server on this machine"
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [program, "--port", str(self._port), "--save", "", "--appendonly", "no"],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        await until_listening(self._port)

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    async def wait(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    async def empty(self) -> None:
        """Lose everything; the server stays."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"FLUSHALL\r\n")
        await reader.readline()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


class Service:
    """One service of treedraft under a fixed name and port."""

    def __init__(self, plan: ServicePlan, port: int, folder: Path) -> None:
        self._plan = plan
        self.role = plan.role
        self._port = port
        self._folder = folder
        self._process: ServiceProcess | None = None
        self._num_starts = 0

    async def start(self) -> None:
        # A log for each start, so that nothing of a life that ended is lost.
        log = self._plan.log_file(self._folder)
        if log.exists():
            log.rename(log.with_suffix(f".{self._num_starts}.log"))
        self._num_starts += 1
        self._process = await ServiceProcess.start(self._plan, self._folder)

    async def until_up(self) -> None:
        assert self._process is not None
        async with asyncio.timeout(120):
            while not await is_listening(self._port):
                self._process.check()
                await asyncio.sleep(0.05)

    async def until_serving(self, seconds: float) -> None:
        async with asyncio.timeout(seconds), open_channel(f"127.0.0.1:{self._port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                with suppress(grpc.aio.AioRpcError):
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                assert self._process is not None
                self._process.check()
                await asyncio.sleep(0.1)

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send(number)

    async def wait(self) -> int | None:
        """Wait until it has ended; return its exit status."""
        if self._process is None:
            return None
        await self._process.wait()
        return self._process.exit_status


class Fleet:
    """The processes and the proxies before them; an async context manager."""

    def __init__(self, plan: FleetPlan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self.redis = RedisProcess(free_port(), folder)
        self._redis_port = self.redis._port
        self.services: dict[str, Service] = {}
        self.proxies: dict[str, Proxy] = {}
        # Where coordinators say what they count.
        self.metrics_ports: list[int] = []

    @property
    def subjects(self) -> list[Subject]:
        """All that faults can happen to."""
        named = [Subject(service.role, name) for name, service in self.services.items()]
        return [Subject(REDIS, REDIS), *named]

    @property
    def endpoints(self) -> list[str]:
        """Where clients find the coordinators."""
        return [
            proxy.endpoint for name, proxy in self.proxies.items() if name.startswith(COORDINATOR)
        ]

    async def __aenter__(self) -> "Fleet":
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start(self) -> None:
        await self.redis.start()
        self.proxies[REDIS] = await Proxy(self._redis_port).start()
        for index in range(self._plan.num_coordinators):
            await self._add(COORDINATOR, f"{COORDINATOR}-{index}", self._coordinator_settings())
        announce_to = ",".join(self.endpoints)
        for index in range(self._plan.num_drafters):
            # Every second one drafts by lookup alone: it starts without a model.
            model = self._plan.draft_model if index % 2 == 0 else ""
            settings = self._worker_settings(announce_to, model)
            await self._add(DRAFT, f"{DRAFT}-{index}", settings)
        for index in range(self._plan.num_targets):
            settings = self._worker_settings(announce_to, self._plan.target_model)
            await self._add(TARGET, f"{self._plan.target_pool}-{index}", settings)
        for service in self.services.values():
            await service.until_up()
        await self.until_served()

    async def until_served(self) -> None:
        """Wait until every coordinator knows all targets, loaded and warm."""
        async with asyncio.timeout(_LOAD_SECONDS):
            for endpoint in self.endpoints:
                client = CoordinatorClient(endpoint)
                while await _num_targets(client) < self._plan.num_targets:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                await client.close()

    async def until_serving(self, name: str) -> None:
        """Wait until a process says that it can do its work, asked past its proxy."""
        await self.services[name].until_serving(_LOAD_SECONDS)

    async def _add(self, role: str, name: str, settings: dict[str, str]) -> None:
        port = free_port()
        proxy = self.proxies[name] = await Proxy(port).start()
        own = {
            "GRPC__PORT": str(port),
            "GRPC__ADVERTISE": proxy.endpoint,
            "GRPC__GRACE_SECONDS": "0.5",
            "TELEMETRY__SAMPLE_RATIO": "0",
            **({"WORKER__WORKER_ID": name} if role != COORDINATOR else {}),
            **settings,
        }
        prefix = f"TREEDRAFT_{role.upper()}__"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(prefix)}
        environment = {
            **kept,
            **_COMMON,
            **{prefix + key: value for key, value in own.items()},
            **{key: value for key, value in self._plan.settings.items() if key.startswith(prefix)},
        }
        service = Service(ServicePlan(role, name, environment), port, self._folder)
        self.services[name] = service
        await service.start()

    def _coordinator_settings(self) -> dict[str, str]:
        self.metrics_ports.append(free_port())
        return {
            "TELEMETRY__METRICS_PORT": str(self.metrics_ports[-1]),
            "REDIS": f"redis://{self.proxies[REDIS].endpoint}",
            "DRAIN_SECONDS": "2",
            "HEARTBEAT_SECONDS": "0.5",
            "STORE__REDIS_TIMEOUT_SECONDS": "1",
            "STORE__LEASE_SECONDS": "5",
            "STORE__WORKER_TTL_SECONDS": "5",
            "STORE__REFRESH_SECONDS": "0.3",
        }

    def _worker_settings(self, announce_to: str, model: str) -> dict[str, str]:
        return {
            "WORKER__COORDINATORS": announce_to,
            "WORKER__REPORT_INTERVAL_SECONDS": "0.3",
            "MODEL": model,
            "NUM_THREADS": "1",
        }

    async def stop(self) -> None:
        """End everything at once."""
        for process in (*self.services.values(), self.redis):
            process.send(signal.SIGCONT)
            process.send(signal.SIGKILL)
        for process in (*self.services.values(), self.redis):
            await process.wait()
        for proxy in self.proxies.values():
            await proxy.close()


async def _num_targets(client: CoordinatorClient) -> int:
    try:
        return sum(model.num_targets for model in await client.list_models())
    except TreedraftError:
        return 0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def until_listening(port: int, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await is_listening(port):  # noqa: ASYNC110 - behind a socket
            await asyncio.sleep(0.02)
