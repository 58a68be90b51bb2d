"""The autoscaler's ways to a real API server, under the rights that the chart gives it."""

import asyncio
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from kubernetes import client
from tests.waiting import until

from treedraft.autoscaler.kubernetes import DELETION_COST, KubernetesLeases, KubernetesWorkloads
from treedraft.autoscaler.leader import LeaderElection
from treedraft.autoscaler.settings import WorkloadSettings
from treedraft.autoscaler.workloads import WriteConflictError
from treedraft.core.errors import UnavailableError

TARGETS = WorkloadSettings(name="demo-treedraft-target-main", kind="StatefulSet")
DRAFTERS = WorkloadSettings(name="demo-treedraft-draft-main", kind="Deployment")
LEASE = "demo-treedraft-autoscaler"


@pytest.fixture
def admin(release, kube):
    release.install()
    return kube.client()


@pytest.fixture
def limited(admin, kube, autoscaler_token):
    """A client with the rights of the autoscaler's service account."""
    return kube.client(autoscaler_token())


@pytest.fixture
def workloads(limited, namespace):
    found = KubernetesWorkloads(limited, namespace, resync_seconds=60.0)
    yield found
    found.close()


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def an_election(api, namespace, identity, clock):
    start = datetime.now(UTC)
    stamps = ((start + timedelta(seconds=n)).isoformat() for n in itertools.count())
    return LeaderElection(
        KubernetesLeases(api, namespace, LEASE),
        identity,
        lease_seconds=15.0,
        clock=clock,
        stamp=stamps.__next__,
    )


def set_replicas(api, namespace, workload, replicas):
    apps, body = client.AppsV1Api(api), {"spec": {"replicas": replicas}}
    patch = {
        "StatefulSet": apps.patch_namespaced_stateful_set_scale,
        "Deployment": apps.patch_namespaced_deployment_scale,
    }[workload.kind]
    patch(workload.name, namespace, body)


@pytest.mark.parametrize("workload", [TARGETS, DRAFTERS], ids=lambda one: one.kind)
def test_a_size_is_written_and_controllers_follow(workloads, admin, namespace, workload):
    def write():
        try:
            workloads.write_scale(workload, replace(workloads.read_scale(workload), replicas=3))
        except WriteConflictError:  # its controller wrote a status meanwhile
            return False
        return True

    until(write)
    assert workloads.read_scale(workload).replicas == 3
    core = client.CoreV1Api(admin)

    def pods():
        names = [pod.metadata.name for pod in core.list_namespaced_pod(namespace).items]
        return [name for name in names if name.startswith(workload.name)]

    until(lambda: len(pods()) == 3)


@pytest.mark.parametrize("workload", [TARGETS, DRAFTERS], ids=lambda one: one.kind)
def test_a_change_of_somebody_else_is_not_written_over(workloads, admin, namespace, workload):
    scale = workloads.read_scale(workload)
    set_replicas(admin, namespace, workload, 5)
    with pytest.raises(WriteConflictError):
        workloads.write_scale(workload, replace(scale, replicas=2))
    assert workloads.read_scale(workload).replicas == 5


def test_pods_of_a_deployment_get_their_cost(workloads, admin, namespace):
    core = client.CoreV1Api(admin)

    def pods():
        found = core.list_namespaced_pod(namespace).items
        return [pod for pod in found if pod.metadata.name.startswith(DRAFTERS.name)]

    until(pods)
    name = pods()[0].metadata.name
    workloads.mark_costs(DRAFTERS, {name: 7, "demo-treedraft-draft-main-gone-1": 2})
    assert core.read_namespaced_pod(name, namespace).metadata.annotations[DELETION_COST] == "7"


def test_a_decision_leaves_an_event(workloads, admin, namespace):
    workloads.tell(TARGETS, "ScaledUp", "from 1 to 3: 28 sessions at 7 a target")
    events = client.CoreV1Api(admin).list_namespaced_event(namespace).items
    (event,) = [found for found in events if found.reason == "ScaledUp"]
    assert event.involved_object.name == TARGETS.name


async def test_a_change_is_noticed_also_after_the_server_was_away(
    workloads, admin, kube, namespace
):
    noticed, loop = asyncio.Event(), asyncio.get_running_loop()
    workloads.watch(TARGETS, lambda: loop.call_soon_threadsafe(noticed.set))

    async def change_until_noticed(first):
        # Until the watch stands there is nobody to notice.
        for replicas in itertools.cycle((first, first + 1)):
            await asyncio.to_thread(set_replicas, admin, namespace, TARGETS, replicas)
            try:
                async with asyncio.timeout(1.0):
                    await noticed.wait()
                    return
            except TimeoutError:
                continue

    async with asyncio.timeout(60):
        await change_until_noticed(2)
        await asyncio.to_thread(kube.stop_api)
        noticed.clear()
        await asyncio.to_thread(kube.start_api)
        await change_until_noticed(4)


def test_a_server_that_is_away_costs_an_error_with_a_reason(workloads, kube):
    kube.stop_api()
    try:
        with pytest.raises(UnavailableError) as caught:
            workloads.read_scale(TARGETS)
        assert caught.value.reason == "KUBERNETES_UNREACHABLE"
    finally:
        kube.start_api()
    assert workloads.read_scale(TARGETS).replicas >= 1


def test_one_of_two_rivals_leads_and_the_other_follows_when_it_falls_silent(limited, namespace):
    clock = Clock()
    first, second = (an_election(limited, namespace, name, clock) for name in ("one", "two"))
    assert first.step()
    assert not second.step()
    clock.now += 5.0
    assert first.step()  # renewed: the record is another one
    assert not second.step()
    clock.now += 14.0
    assert not second.step()
    assert not first.is_leader
    clock.now += 2.0
    assert second.step()
    assert not first.step()
    lease = client.CoordinationV1Api(limited).read_namespaced_lease(LEASE, namespace)
    assert (lease.spec.holder_identity, lease.spec.lease_transitions) == ("two", 1)
    second.resign()
    assert first.step()


async def test_of_many_that_want_the_lease_at_once_one_gets_it(limited, namespace):
    clock = Clock()
    rivals = [an_election(limited, namespace, str(number), clock) for number in range(8)]
    results = await asyncio.gather(*(asyncio.to_thread(rival.step) for rival in rivals))
    assert sum(results) == 1
    assert sum(rival.is_leader for rival in rivals) == 1


ALLOWED = [
    ("get", "apps", "statefulsets", "scale", TARGETS.name),
    ("update", "apps", "statefulsets", "scale", TARGETS.name),
    ("watch", "apps", "statefulsets", "", TARGETS.name),
    ("update", "apps", "deployments", "scale", DRAFTERS.name),
    ("update", "coordination.k8s.io", "leases", "", LEASE),
    ("create", "", "events", "", ""),
    ("patch", "", "pods", "", ""),
]
REFUSED = [
    ("update", "apps", "statefulsets", "scale", "another"),
    ("update", "apps", "statefulsets", "", TARGETS.name),
    ("patch", "apps", "deployments", "", DRAFTERS.name),
    ("delete", "apps", "statefulsets", "", TARGETS.name),
    ("update", "apps", "deployments", "scale", "demo-treedraft-coordinator"),
    ("list", "apps", "statefulsets", "", ""),
    ("update", "coordination.k8s.io", "leases", "", "another"),
    ("delete", "coordination.k8s.io", "leases", "", LEASE),
    ("get", "", "secrets", "", ""),
    ("create", "", "pods", "", ""),
    ("delete", "", "pods", "", ""),
    ("list", "", "pods", "", ""),
]


@pytest.mark.parametrize(
    ("rights", "is_allowed"), [(ALLOWED, True), (REFUSED, False)], ids=["allowed", "refused"]
)
def test_it_may_do_what_it_has_to_and_no_more(limited, namespace, rights, is_allowed):
    reviews = client.AuthorizationV1Api(limited)
    for verb, group, resource, sub, name in rights:
        asked = {"verb": verb, "group": group, "resource": resource, "subresource": sub}
        body = {"spec": {"resourceAttributes": {**asked, "name": name, "namespace": namespace}}}
        answer = reviews.create_self_subject_access_review(body)
        assert answer.status.allowed == is_allowed, asked
