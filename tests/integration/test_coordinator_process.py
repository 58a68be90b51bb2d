"""The coordinator as a process: starts, is healthy, is told to stop, says what is wrong."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.unit.coordinator.support import until
from tests.waiting import PATIENCE_SECONDS

from treedraft.coordinator.service import SERVICE_NAME
from treedraft.rpc.coordinator_client import CoordinatorClient

PREFIX = "TREEDRAFT_COORDINATOR__"


async def start(tmp_path: Path, **settings: str) -> Process:
    environment = {
        **os.environ,
        f"{PREFIX}TELEMETRY__STORE_PATH": str(tmp_path / "spans.sqlite"),
        f"{PREFIX}GRPC__ENDPOINT_FILE": str(tmp_path / "endpoint"),
        **{PREFIX + name: value for name, value in settings.items()},
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "treedraft.coordinator"), env=environment, stderr=PIPE, stdout=PIPE
    )


async def endpoint_of(tmp_path: Path) -> str:
    path = tmp_path / "endpoint"
    await until(path.exists, seconds=PATIENCE_SECONDS)
    return path.read_text()


async def test_it_serves_until_it_is_told_to_stop(tmp_path):
    process = await start(tmp_path, DRAIN_SECONDS="1", LIMITS__MAX_SESSIONS="7")
    endpoint = await endpoint_of(tmp_path)
    async with grpc.aio.insecure_channel(endpoint) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE_NAME):
            request = health_pb2.HealthCheckRequest(service=name)
            answer = await health.Check(request, wait_for_ready=True, timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for answer in stub.ServerReflectionInfo(iter([ask])):
            services = {item.name for item in answer.list_services_response.service}
        assert SERVICE_NAME in services
    client = CoordinatorClient(endpoint)
    assert await client.list_models() == []
    await client.close()
    process.send_signal(signal.SIGTERM)
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 0
    assert out == b""  # stdout is for answers


async def test_a_misspelt_setting_is_refused_by_name(tmp_path):
    process = await start(tmp_path, LIMITS__MAX_SESSION="7")
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 1
    assert b"UNKNOWN_SETTING" in err
    assert b"LIMITS__MAX_SESSIONS" in err


async def test_a_bad_value_is_refused_by_name(tmp_path):
    process = await start(tmp_path, STORE__LEASE_SECONDS="-1")
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 1
    assert b"store.lease_seconds" in err
    assert b"Traceback" not in err
