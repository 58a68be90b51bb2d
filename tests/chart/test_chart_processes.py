"""Real services, started with nothing but the variables that the chart renders for their pods."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from tests.chart.manifests import container, environment, pod_of

from treedraft.core.errors import TreedraftError
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.rpc.health_client import ask_health
from treedraft.rpc.server import LIVENESS

LOOKUP = {"draftDefaults": {"model": {"hub": "lookup"}}}
_PATIENCE_SECONDS = 120.0


def free_ports(count):
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Pods:
    """Processes in place of pods: on this machine, hence each on ports of its own."""

    def __init__(self, objects, folder):
        self.objects, self.folder = objects, folder
        self.processes = {}
        self.ports = {}

    def start(self, component, pool="", **settings):
        pod = pod_of(self.objects, component, pool)
        grpc, health, metrics = free_ports(3)
        prefix = f"TREEDRAFT_{component.upper()}__"
        here = {
            "GRPC__PORT": grpc,
            "GRPC__HEALTH_PORT": health,
            "TELEMETRY__METRICS_PORT": metrics,
            "TELEMETRY__STORE_PATH": self.folder / "spans.db",
            **settings,
        }
        variables = environment(pod)
        for name in here:
            assert prefix + name in variables, "the chart sets what is set here to something else"
        variables |= {prefix + name: str(value) for name, value in here.items()}
        variables |= {prefix + "GRPC__ADVERTISE": "127.0.0.1", "HOME": str(self.folder)}
        self.ports[component] = (grpc, health)
        with self.log_of(component).open("w") as log:
            self.processes[component] = subprocess.Popen(
                [sys.executable, "-m", "treedraft.cli", *container(pod)["args"]],
                env={"PATH": os.environ["PATH"], **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log_of(self, component):
        return self.folder / f"{component}.log"

    def check(self, component, ends):
        """Fail with what a process said if it has ended, or if it takes too long."""
        said = self.log_of(component).read_text()
        assert self.processes[component].poll() is None, said
        assert time.monotonic() < ends, said

    async def until_healthy(self, component, service=""):
        ends = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                if await ask_health(f"127.0.0.1:{self.ports[component][1]}", service):
                    return
            except TreedraftError:
                pass  # not there yet
            self.check(component, ends)
            await asyncio.sleep(0.1)

    def end(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return [process.wait(_PATIENCE_SECONDS) for process in self.processes.values()]


@pytest.fixture
def pods(helm, tmp_path):
    made = Pods(helm.template(LOOKUP), tmp_path)
    yield made
    made.end()


async def test_a_drafter_announces_itself_to_the_coordinator_and_both_end_when_told(pods):
    (http,) = free_ports(1)
    pods.start("coordinator", HTTP__PORT=http, HTTP__HOST="127.0.0.1")
    await pods.until_healthy("coordinator")
    await pods.until_healthy("coordinator", LIVENESS)
    endpoint = f"127.0.0.1:{pods.ports['coordinator'][0]}"
    pods.start("draft", "main", WORKER__COORDINATORS=endpoint)
    await pods.until_healthy("draft")
    client = CoordinatorClient(endpoint)
    ends = time.monotonic() + _PATIENCE_SECONDS
    while not (workers := (await client.describe_cluster()).workers):
        pods.check("draft", ends)
        await asyncio.sleep(0.1)
    await client.close()
    ((registration, _),) = workers
    assert (registration.worker_id, registration.pool) == ("pod-0", "main")
    assert registration.endpoint == f"127.0.0.1:{pods.ports['draft'][0]}"
    assert pods.end() == [0, 0]
