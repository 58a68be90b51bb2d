"""Each service on a host of its own: Redis, coordinators, targets and drafters of a toy model."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.hosts.network import Network
from tests.unit.coordinator.redis_server import find_redis_server

from treedraft.core.errors import TreedraftError
from treedraft.rpc.coordinator_client import CoordinatorClient

REDIS = "redis"
COORDINATORS = ("coordinator-0", "coordinator-1")
TARGETS = ("target-0", "target-1")
DRAFTERS = ("draft-0",)
HOSTS = (REDIS, *COORDINATORS, *TARGETS, *DRAFTERS)
_PORT = 50051
_REDIS_PORT = 6379
_START_SECONDS = 180.0
_COMMON = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "PYTHONUNBUFFERED": "1"}


class HostCluster:
    """The processes; an async context manager."""

    def __init__(self, network: Network, model: Path, folder: Path) -> None:
        """Plan to serve a model on the hosts of a network; logs go to the folder."""
        self._network = network
        self._model = model
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def endpoints(self) -> list[str]:
        """Where clients find the coordinators."""
        return [self._endpoint(host) for host in COORDINATORS]

    async def __aenter__(self) -> "HostCluster":
        try:
            self._start_redis()
            for host in COORDINATORS:
                self._start("coordinator", host, self._coordinator_settings())
            for host in DRAFTERS:
                self._start("draft", host, self._worker_settings(host))
            for host in TARGETS:
                settings = {**self._worker_settings(host), "MODEL": str(self._model)}
                self._start("target", host, settings)
            await self._until_served()
        except BaseException:
            self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop()

    def _endpoint(self, host: str) -> str:
        return f"{self._network.addresses[host]}:{_PORT}"

    def _start_redis(self) -> None:
        program = find_redis_server()
        assert program is not None, "no redis-server on this machine"
        address = self._network.addresses[REDIS]
        options = ["--bind", address, "--protected-mode", "no", "--save", "", "--appendonly", "no"]
        self._launch(REDIS, [program, "--port", str(_REDIS_PORT), *options], {})

    def _start(self, role: str, host: str, own: dict[str, str]) -> None:
        prefix = f"TREEDRAFT_{role.upper()}__"
        settings = {
            "GRPC__HOST": self._network.addresses[host],
            "GRPC__PORT": str(_PORT),
            "GRPC__GRACE_SECONDS": "0.5",
            "TELEMETRY__SAMPLE_RATIO": "0",
            **own,
        }
        environment = {prefix + key: value for key, value in settings.items()}
        self._launch(host, [sys.executable, "-m", f"treedraft.{role}"], environment)

    def _launch(self, host: str, command: Sequence[str], environment: dict[str, str]) -> None:
        with (self._folder / f"{host}.log").open("ab") as log:
            self._processes[host] = subprocess.Popen(
                self._network.on(host, *command),
                env={**os.environ, **_COMMON, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )

    def _coordinator_settings(self) -> dict[str, str]:
        return {
            "REDIS": f"redis://{self._network.addresses[REDIS]}:{_REDIS_PORT}",
            "DRAIN_SECONDS": "2",
            "HEARTBEAT_SECONDS": "0.5",
            "STORE__REDIS_TIMEOUT_SECONDS": "1",
            "STORE__LEASE_SECONDS": "5",
            "STORE__WORKER_TTL_SECONDS": "5",
            "STORE__REFRESH_SECONDS": "0.3",
        }

    def _worker_settings(self, host: str) -> dict[str, str]:
        return {
            "WORKER__COORDINATORS": ",".join(self.endpoints),
            "WORKER__WORKER_ID": host,
            "WORKER__REPORT_INTERVAL_SECONDS": "0.3",
            "NUM_THREADS": "1",
        }

    async def _until_served(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        for endpoint in self.endpoints:
            client = CoordinatorClient(endpoint)
            while await _num_targets(client) < len(TARGETS):
                self._check()
                assert time.monotonic() < deadline, "the targets did not come up"
                await asyncio.sleep(0.1)
            await client.close()

    def _check(self) -> None:
        for host, process in self._processes.items():
            if process.poll() is not None:
                said = (self._folder / f"{host}.log").read_text()[-2000:]
                raise RuntimeError(f"{host} ended with status {process.returncode}:\n{said}")

    def _stop(self) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.kill()
        for process in self._processes.values():
            process.wait()


async def _num_targets(client: CoordinatorClient) -> int:
    try:
        return sum(model.num_targets for model in await client.list_models())
    except TreedraftError:
        return 0
