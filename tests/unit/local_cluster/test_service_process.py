import asyncio
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from treedraft.core.errors import UnavailableError
from treedraft.local_cluster.plan import ClusterPlan, ServicePlan, plan_coordinator
from treedraft.local_cluster.service_process import ServiceProcess


def coordinator_plan(folder, **settings):
    plan = ClusterPlan(settings=settings)
    return plan_coordinator(plan, folder, dict(os.environ))


async def test_a_service_tells_its_endpoint_and_ends_when_told(tmp_path):
    process = await ServiceProcess.start(coordinator_plan(tmp_path), tmp_path)
    try:
        endpoint = await asyncio.wait_for(process.wait_for_endpoint(), 60)
        assert endpoint.startswith("127.0.0.1:")
        assert process.is_running
    finally:
        await process.stop(20)
    assert not process.is_running
    process.check()  # it was told to end


async def test_a_service_that_dies_is_noticed_with_its_last_words(tmp_path):
    plan = coordinator_plan(tmp_path, TREEDRAFT_COORDINATOR__NO_SUCH_SETTING="1")
    process = await ServiceProcess.start(plan, tmp_path)
    with pytest.raises(UnavailableError, match="NO_SUCH_SETTING") as caught:
        await asyncio.wait_for(process.wait_for_endpoint(), 60)
    assert caught.value.reason == "SERVICE_DIED"


async def test_a_crash_is_told_from_a_stop(tmp_path):
    process = await ServiceProcess.start(coordinator_plan(tmp_path), tmp_path)
    await asyncio.wait_for(process.wait_for_endpoint(), 60)
    os.kill(process.process_id, signal.SIGKILL)
    await process.wait()
    with pytest.raises(UnavailableError, match="-9"):
        process.check()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part of it is Linux's")
def test_a_service_does_not_outlive_who_started_it(tmp_path):
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'treedraft.local_cluster.supervised',"
        " 'coordinator', str(os.getpid())], stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    plan = coordinator_plan(tmp_path)
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=dict(plan.environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        deadline = time.monotonic() + 60
        while not plan.endpoint_file(tmp_path).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        parent.kill()
    try:
        readable, _, _ = select.select([child], [], [], 30)
        assert readable, "the service is still there"
    finally:
        os.close(child)


def test_the_last_log_line_is_shown_without_its_frame(tmp_path):
    plan = ServicePlan("target", "target-0", {})
    process = ServiceProcess(plan, None, tmp_path)
    assert process.last_event() == ""
    plan.log_file(tmp_path).write_text(
        "2026-01-01T00:00:00.000000Z [info     ] loading weights: 41 %          "
        "[treedraft.target] incarnation=1 service=target\n"
    )
    assert process.last_event() == "loading weights: 41 %"
    plan.log_file(tmp_path).write_text("\x1b[31mplain words\x1b[0m\n\n")
    assert process.last_event() == "plain words"
