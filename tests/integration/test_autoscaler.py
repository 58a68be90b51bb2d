"""The autoscaler against an API server over HTTP: conflicts, lost watches, leases, rivals."""

import asyncio
import contextlib
import threading
from dataclasses import replace

import pytest
from tests.kube_api import KubeApi
from tests.unit.autoscaler.support import EAGER, Clock, FakeObserver, a_worker, stamp
from tests.waiting import patience

from treedraft.autoscaler.controller import Controller
from treedraft.autoscaler.kubernetes import KubernetesLeases, KubernetesWorkloads
from treedraft.autoscaler.leader import LeaderElection
from treedraft.autoscaler.policy import Policy
from treedraft.autoscaler.report import DecisionReport
from treedraft.autoscaler.settings import PoolSettings, WorkloadSettings
from treedraft.autoscaler.workloads import Scale, WriteConflictError
from treedraft.core.errors import UnavailableError
from treedraft.core.worker import WorkerRole
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

TARGETS = WorkloadSettings(name="t", kind="StatefulSet", min_replicas=0, max_replicas=10)
DRAFTERS = WorkloadSettings(name="d", kind="Deployment", min_replicas=0, max_replicas=10)


@pytest.fixture
def kube():
    with KubeApi() as kube:
        kube.add("statefulsets", "t", spec={"replicas": 2, "selector": {}, "template": {}})
        kube.add("deployments", "d", spec={"replicas": 1, "selector": {}, "template": {}})
        yield kube


@pytest.fixture
def workloads(kube):
    found = KubernetesWorkloads(kube.client(), "ns", resync_seconds=60.0)
    yield found
    found.close()


def an_election(kube, identity, clock, **changes):
    leases = KubernetesLeases(kube.client(), "ns", "treedraft")
    return LeaderElection(
        leases, identity, **{"lease_seconds": 15.0, "clock": clock, "stamp": stamp(), **changes}
    )


def a_controller(
    kube, workloads, observer, *, identity="one", clock=None, election=None, **changes
):
    clock = clock or Clock()
    policy = Policy(PoolSettings(target=TARGETS, draft=DRAFTERS), pace=EAGER)
    return Controller(
        [policy],
        observer=observer,
        workloads=workloads,
        election=election or an_election(kube, identity, clock),
        report=DecisionReport(Metrics("autoscaler").registry, tracing()),
        clock=clock,
        **changes,
    )


def tracing():
    return Tracing("autoscaler", TelemetrySettings(sample_ratio=0.0, store_path="/dev/null"))


async def lead(controller):
    await asyncio.to_thread(controller._election.step)


def a_busy_cluster(num_sessions=28):
    return FakeObserver(
        [
            a_worker("t-0", num_sessions=num_sessions // 2),
            a_worker("t-1", num_sessions=num_sessions // 2),
            a_worker("d-5d4f-x1", WorkerRole.DRAFT),
        ]
    )


async def test_a_need_becomes_replicas_an_event_and_a_count(kube, workloads):
    controller = a_controller(kube, workloads, a_busy_cluster())
    await lead(controller)
    await controller.step()
    assert kube.replicas("statefulsets", "t") == 4
    events = [found for (kind, _), found in kube.objects.items() if kind == "events"]
    event = next(event for event in events if event["involvedObject"]["name"] == "t")
    assert event["reason"] == "ScaledUp"
    assert "28 sessions" in event["message"]


async def test_pods_of_a_deployment_say_what_their_end_would_cost(kube, workloads):
    kube.add("pods", "d-5d4f-x1")
    observer = FakeObserver([a_worker("d-5d4f-x1", WorkerRole.DRAFT, num_sessions=3)])
    controller = a_controller(kube, workloads, observer)
    await lead(controller)
    await controller.step()
    annotations = kube.objects["pods", "d-5d4f-x1"]["metadata"]["annotations"]
    assert annotations == {"controller.kubernetes.io/pod-deletion-cost": "3"}
    await controller.step()
    assert kube.requests.count(("PATCH", "pods")) == 1  # the same cost is not written again


async def test_pods_that_cannot_be_marked_do_not_keep_a_pool_from_its_size(kube, workloads):
    controller = a_controller(kube, workloads, a_busy_cluster())
    await lead(controller)
    kube.refuse("PATCH", "pods", 403)
    await controller.step()
    assert kube.replicas("statefulsets", "t") == 4


async def test_dry_run_writes_nothing(kube, workloads):
    controller = a_controller(kube, workloads, a_busy_cluster(), dry_run=True)
    await lead(controller)
    await controller.step()
    assert kube.replicas("statefulsets", "t") == 2
    assert not [key for key in kube.objects if key[0] == "events"]


async def test_a_change_of_somebody_else_is_not_written_over(kube, workloads):
    scale = workloads.read_scale(TARGETS)
    kube.scale("statefulsets", "t", 7)
    with pytest.raises(WriteConflictError):
        workloads.write_scale(TARGETS, replace(scale, replicas=3))
    assert kube.replicas("statefulsets", "t") == 7


async def test_after_a_conflict_the_next_turn_decides_on_what_is_there_then(kube, workloads):
    controller = a_controller(kube, workloads, a_busy_cluster())
    await lead(controller)
    kube.refuse("PUT", "statefulsets", 409)
    await controller.step()
    assert kube.replicas("statefulsets", "t") == 2
    kube.scale("statefulsets", "t", 9)
    await controller.step()
    assert kube.replicas("statefulsets", "t") == 4


async def test_an_api_server_that_fails_costs_a_turn_and_no_more(kube, workloads):
    controller = a_controller(kube, workloads, a_busy_cluster())
    await lead(controller)
    kube.refuse("GET", "statefulsets", 500)
    await controller.step()
    assert kube.replicas("statefulsets", "t") == 2
    await controller.step()
    assert kube.replicas("statefulsets", "t") == 4


async def test_an_api_server_that_is_away_is_an_error_with_a_reason():
    with KubeApi() as kube:
        gone = KubernetesWorkloads(kube.client(), "ns")
    with pytest.raises(UnavailableError) as caught:
        await asyncio.to_thread(gone.read_scale, TARGETS)
    assert caught.value.reason == "KUBERNETES_UNREACHABLE"


async def test_a_workload_that_there_is_not_is_an_error_with_its_name(workloads):
    with pytest.raises(UnavailableError, match="nothing: 404"):
        workloads.write_scale(TARGETS.model_copy(update={"name": "nothing"}), Scale(1, ""))


async def test_when_no_coordinator_answers_sizes_stay_and_health_says_so(kube, workloads):
    clock = Clock()
    controller = a_controller(kube, workloads, FakeObserver(None), clock=clock)
    await lead(controller)
    await controller.step()
    assert kube.replicas("statefulsets", "t") == 2
    assert not controller.is_blind
    clock.now += 61.0
    assert controller.is_blind


async def test_one_of_two_rivals_acts_and_the_other_takes_over_when_it_falls_silent(kube):
    clock = Clock()
    first, second = (an_election(kube, name, clock) for name in ("one", "two"))
    assert first.step()
    assert not second.step()
    clock.now += 14.0
    assert not second.step()
    assert not first.is_leader  # it stops acting before another may begin
    clock.now += 2.0
    assert second.step()
    assert not first.step()
    assert kube.objects["leases", "treedraft"]["spec"]["leaseTransitions"] == 1


async def test_two_that_want_an_expired_lease_at_once_do_not_both_get_it(kube):
    clock = Clock()
    rivals = [an_election(kube, name, clock) for name in ("one", "two", "three")]
    assert rivals[0].step()
    for rival in rivals[1:]:
        rival.step()
    clock.now += 16.0
    results = await asyncio.gather(*(asyncio.to_thread(rival.step) for rival in rivals[1:]))
    assert sum(results) <= 1  # a conflict may leave the lease to the next try
    if not any(results):
        assert rivals[1].step()
    assert sum(rival.is_leader for rival in rivals) == 1


async def test_a_leader_that_resigns_is_followed_at_once(kube):
    clock = Clock()
    first, second = (an_election(kube, name, clock) for name in ("one", "two"))
    first.step()
    second.step()
    first.resign()
    assert second.step()
    assert not first.is_leader


async def test_a_lease_that_cannot_be_renewed_ends_leadership_by_itself(kube):
    clock = Clock()
    election = an_election(kube, "one", clock)
    assert election.step()
    kube.refuse("GET", "leases", 500, times=100)
    clock.now += 5.0
    assert election.step()
    clock.now += 6.0
    assert not election.step()


@pytest.mark.parametrize("expired", [False, True])
async def test_a_change_is_noticed_though_the_watch_was_lost(kube, workloads, expired):
    noticed = asyncio.Event()
    loop = asyncio.get_running_loop()
    workloads.watch(TARGETS, lambda: loop.call_soon_threadsafe(noticed.set))
    async with patience():
        await asyncio.to_thread(kube.until, lambda: kube.num_watches > 0)
        kube.scale("statefulsets", "t", 5)
        await noticed.wait()
        noticed.clear()
        kube.drop_watches(expired=expired)
        kube.scale("statefulsets", "t", 6)
        await noticed.wait()


async def test_the_loop_runs_until_it_is_cancelled_and_lets_go_of_the_lease(kube, workloads):
    controller = a_controller(kube, workloads, a_busy_cluster(), interval_seconds=0.01)
    tasks = [
        asyncio.create_task(controller.lead(0.05)),
        asyncio.create_task(controller.run()),
    ]
    async with patience():
        await asyncio.to_thread(kube.until, lambda: kube.replicas("statefulsets", "t") == 4)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert kube.objects["leases", "treedraft"]["spec"]["holderIdentity"] == ""


class SlowElection:
    """One whose renewal is under way until it is let go on."""

    def __init__(self):
        self.is_asked, self.goes_on, self.done = threading.Event(), threading.Event(), []

    def step(self):
        self.is_asked.set()
        assert self.goes_on.wait(30)
        self.done.append("renewed")
        return True

    def resign(self):
        self.done.append("resigned")


async def test_the_lease_is_let_go_only_after_the_renewal_under_way(kube, workloads):
    election = SlowElection()
    controller = a_controller(kube, workloads, a_busy_cluster(), election=election)
    leading = asyncio.create_task(controller.lead(0.01))
    assert await asyncio.to_thread(election.is_asked.wait, 30)
    leading.cancel()
    await asyncio.wait({leading}, timeout=0.05)
    assert election.done == []
    election.goes_on.set()
    await asyncio.wait({leading})
    assert election.done == ["renewed", "resigned"]
