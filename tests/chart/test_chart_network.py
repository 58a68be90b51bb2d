"""The arrows of the architecture are open, and no others."""

import itertools

import pytest
from tests.chart.manifests import pod_of
from tests.chart.network import Peer, reaches

GRPC, HTTP, HEALTH, METRICS, REDIS = 50051, 8000, 50059, 9464, 6379
HTTPS, DNS, OTLP = 443, 53, 4317
_POOLS = {"target": "large", "draft": "large"}

CLIENT = Peer({"app": "client"}, namespace="apps")
STRANGER = Peer({"app": "stranger"})
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, namespace="monitoring")
HUB = Peer(address="99.84.1.1")
PRIVATE = Peer(address="10.0.0.9")
NAMES = Peer({"k8s-app": "kube-dns"}, namespace="kube-system")


@pytest.fixture(scope="module")
def objects(rendered):
    return rendered("many-drafters")


def own(objects, component):
    return Peer(pod_of(objects, component, _POOLS.get(component, ""))["metadata"]["labels"])


@pytest.fixture(scope="module")
def peers(objects):
    ours = {name: own(objects, name) for name in OURS}
    return {
        **ours,
        "client": CLIENT,
        "stranger": STRANGER,
        "prometheus": PROMETHEUS,
        "hub": HUB,
        "private": PRIVATE,
        "names": NAMES,
    }


OURS = ("coordinator", "target", "draft", "redis", "autoscaler", "test")
OUTSIDE = ("client", "stranger", "prometheus", "hub", "private", "names")
# Whoever may connect to whom, and on which port; nothing else.
ARROWS = {
    # Clients are anybody, from anywhere, unless they are named.
    *((name, "coordinator", port) for name in OUTSIDE for port in (GRPC, HTTP)),
    ("test", "coordinator", GRPC),
    ("target", "coordinator", GRPC),
    ("draft", "coordinator", GRPC),
    ("autoscaler", "coordinator", GRPC),
    ("coordinator", "target", GRPC),
    ("target", "draft", GRPC),
    ("coordinator", "redis", REDIS),
    ("prometheus", "coordinator", METRICS),
    ("prometheus", "target", METRICS),
    ("prometheus", "draft", METRICS),
    ("prometheus", "autoscaler", METRICS),
    # The API server can be anywhere, unless it is named.
    *(("autoscaler", name, HTTPS) for name in OUTSIDE),
    # One pool of drafters looks up and fetches nothing, but it is "hub", too.
    ("draft", "hub", HTTPS),
}


def test_just_the_arrows_are_open(objects, peers):
    found = set()
    for (source, one), (to, other) in itertools.permutations(peers.items(), 2):
        if source not in OURS and to not in OURS:
            continue
        for port in (GRPC, HTTP, HEALTH, METRICS, REDIS, HTTPS, OTLP):
            if reaches(objects, one, other, port):
                found.add((source, to, port))
    # Names are asked for by all, and answered on no other port.
    assert found == ARROWS


def test_everybody_of_ours_may_ask_for_names_but_redis(objects, peers):
    asking = {name for name in OURS if reaches(objects, peers[name], NAMES, DNS)}
    assert asking == {"coordinator", "target", "draft", "autoscaler", "test"}


def test_models_of_volumes_need_no_way_out(objects, peers):
    assert not reaches(objects, peers["target"], HUB, HTTPS)


def test_models_of_the_hub_have_one(rendered):
    objects = rendered("cpu-demo")
    target = Peer(pod_of(objects, "target", "main")["metadata"]["labels"])
    assert reaches(objects, target, HUB, HTTPS)
    assert not reaches(objects, target, PRIVATE, HTTPS)


def test_clients_can_be_named(rendered):
    objects = rendered("external-redis")
    coordinator = Peer(pod_of(objects, "coordinator")["metadata"]["labels"])
    invited = Peer({}, namespace="apps", namespace_labels={"treedraft-clients": "yes"})
    assert reaches(objects, invited, coordinator, GRPC)
    assert not reaches(objects, CLIENT, coordinator, GRPC)
    assert not reaches(objects, STRANGER, coordinator, GRPC)


def test_an_external_redis_is_reached_by_coordinators_alone(rendered):
    objects = rendered("external-redis")
    redis = Peer({}, "redis", {"kubernetes.io/metadata.name": "redis"})
    coordinator = Peer(pod_of(objects, "coordinator")["metadata"]["labels"])
    target = Peer(pod_of(objects, "target", "main")["metadata"]["labels"])
    assert reaches(objects, coordinator, redis, REDIS)
    assert not reaches(objects, coordinator, STRANGER, REDIS)
    assert not reaches(objects, target, redis, REDIS)


def test_traces_go_to_the_collector_and_nowhere_else(rendered):
    objects = rendered("tls")
    collector = Peer({}, "observability", {"kubernetes.io/metadata.name": "observability"})
    for name, pool in (("coordinator", ""), ("target", "main"), ("draft", "main")):
        peer = Peer(pod_of(objects, name, pool)["metadata"]["labels"])
        assert reaches(objects, peer, collector, OTLP)
        assert not reaches(objects, peer, CLIENT, OTLP)


def test_without_policies_there_are_none(helm):
    kinds = {item["kind"] for item in helm.template({"networkPolicy": {"enabled": False}})}
    assert "NetworkPolicy" not in kinds
